//! A member of the group that speaks the protocol of KIP-848: it says what it has, is told what it should have, gives
//! back first, and commits under its epoch.

use crate::client::Connection;
use crate::groups::{Member, REBALANCE_MS, Setback, group_id, topic_name};
use crate::producer::REQUEST_TIMEOUT;
use coreline_io::Clock;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use std::time::Duration;

/// The epoch of who leaves.
const LEAVE: i32 = -1;

impl Member {
    /// One connection's life, until the member has left for good.
    pub(crate) async fn live_with_epochs(&mut self, connection: &Connection) -> Result<(), Setback> {
        let mut all = true;
        loop {
            self.world.doing(&self.name, format!("in epoch {} at {:?}", self.epoch, self.positions));
            let sent_at = self.world.handle.now();
            let answer = self.beat(connection, all).await?;
            self.judge("consumer heartbeat", answer.error_code)?;
            all = false;
            self.epoch = answer.member_epoch;
            if let Some(assignment) = &answer.assignment {
                self.topic = assignment.topic_partitions.first().map_or(self.topic, |t| t.topic_id);
                let wanted: Vec<i32> =
                    assignment.topic_partitions.iter().flat_map(|t| t.partitions.iter().copied()).collect();
                self.world.trace(|| format!("{} has {wanted:?} in epoch {}", self.name, self.epoch));
                self.ledger.borrow_mut().keep(&self.name, &wanted);
                self.positions.retain(|partition, _| wanted.contains(partition));
                let new: Vec<i32> = wanted.into_iter().filter(|p| !self.positions.contains_key(p)).collect();
                let taken = self.ledger.borrow_mut().take(&self.name, &new, sent_at, self.world.handle.now());
                self.world.check(taken);
                if !new.is_empty() {
                    // If that fails, the next connection's first heartbeat says that it has less than it was given.
                    let found = self.fetch(connection, &new).await?;
                    self.positions.extend(found);
                }
                all = true;
            }
            self.ledger.borrow_mut().confirm(&self.name, sent_at);
            for position in self.positions.values_mut() {
                *position += 1 + self.rng.below(3) as i64;
            }
            if !self.positions.is_empty() {
                self.commit(connection, self.epoch, &self.positions).await?;
            }
            if self.has_had_enough()? {
                break;
            }
            self.world.client.sleep(Duration::from_micros(self.rng.below(20_000))).await;
        }
        self.world.doing(&self.name, "leaving");
        self.ledger.borrow_mut().keep(&self.name, &[]);
        self.epoch = LEAVE;
        self.beat(connection, false).await?;
        Ok(())
    }

    /// A heartbeat; with everything that it may say if `all`, as the first one of a connection must.
    async fn beat(&self, connection: &Connection, all: bool) -> Result<ConsumerGroupHeartbeatResponse, Setback> {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id())
            .with_member_id(self.id.clone())
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(-1);
        let has: Vec<i32> = self.positions.keys().copied().collect();
        if all {
            // Who says that it has less than it was given may lose the rest before it hears an answer.
            self.ledger.borrow_mut().keep(&self.name, &has);
        }
        let has = TopicPartitions::default().with_topic_id(self.topic).with_partitions(has);
        let has = if self.positions.is_empty() { Vec::new() } else { vec![has] };
        let request = if all {
            request
                .with_rebalance_timeout_ms(REBALANCE_MS)
                .with_subscribed_topic_names(Some(vec![topic_name()]))
                .with_topic_partitions(Some(has))
        } else {
            request.with_subscribed_topic_names(None).with_topic_partitions(None)
        };
        Ok(connection.call(1, &request, REQUEST_TIMEOUT).await?)
    }
}
