//! Consumer groups (KIP-848): the coordinator assigns, every member is led to its assignment by its own heartbeats.
//!
//! Three epochs, each behind or at the one before: the *group epoch* goes up with every change that asks for a new assignment,
//! the *assignment epoch* says which group epoch the target assignment was made for, and a *member's epoch* which target
//! the member has reached. All that a group knows is changed by its records alone ([`replay`](ConsumerGroup::replay) and the
//! requests go through the same functions in `state`), so that a coordinator that reads the log again is the one
//! that wrote it. What is not in records is soft: deadlines, and which topics were looked at last.
//!
//! `state` is what a group knows, `heartbeat` what a member's heartbeat does to it, `member` a member's way to its target,
//! `subscription` topics, regular expressions and their hash, `validate` what is refused, `describe` what tools are shown,
//! `classic` members of the classic protocol in a consumer group (`blobs` what they hand through it), `migration` one kind of
//! group becoming the other.

#[cfg(test)]
mod bed;
mod blobs;
mod classic;
mod describe;
mod heartbeat;
mod member;
mod migration;
#[cfg(test)]
mod simulation;
mod state;
mod subscription;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_migration;
mod validate;

pub use state::ConsumerGroup;
pub use validate::validate_heartbeat;
