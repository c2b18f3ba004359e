//! What tools are shown of a group.

use super::super::assignor::Assignment;
use super::super::config::GroupsConfig;
use super::super::coordinator::Topics;
use super::member::Member;
use super::state::ConsumerGroup;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::consumer_group_describe_response as response;
use kafka_protocol::protocol::StrBytes;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

impl ConsumerGroup {
    /// Kafka's name of the group's state. `Dead` is a group that is not there.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self.members.values().all(|m| m.is_reconciled_to(self.assignment_epoch)) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// ConsumerGroupDescribe.
    #[must_use]
    pub fn describe(&self, config: &GroupsConfig, topics: &dyn Topics) -> response::DescribedGroup {
        let members = self.members.iter().map(|(id, member)| describe_member(id, member, topics));
        response::DescribedGroup::default()
            .with_group_id(codec::GroupId(text(&self.id)))
            .with_group_state(StrBytes::from_static_str(self.state_name()))
            .with_group_epoch(self.epoch)
            .with_assignment_epoch(self.assignment_epoch)
            .with_assignor_name(StrBytes::from_static_str(self.assignor(config).name()))
            .with_members(members.collect())
    }
}

fn describe_member(id: &str, member: &Member, topics: &dyn Topics) -> response::Member {
    let declared = &member.declared;
    response::Member::default()
        .with_member_id(text(id))
        .with_instance_id(declared.instance.as_deref().map(text))
        .with_rack_id(declared.rack.as_deref().map(text))
        .with_member_epoch(member.current.epoch)
        .with_client_id(text(&declared.client_id))
        .with_client_host(text(&declared.client_host))
        .with_subscribed_topic_names(declared.topics.iter().map(|name| codec::TopicName(text(name))).collect())
        // As Kafka: none is empty.
        .with_subscribed_topic_regex(Some(text(declared.regex.as_deref().unwrap_or_default())))
        .with_assignment(describe_assignment(&member.current.assigned, topics))
        .with_target_assignment(describe_assignment(&member.target, topics))
        .with_member_type(i8::from(!member.speaks_classic()))
}

/// Topics that are gone have no name, and are left out.
fn describe_assignment(assignment: &Assignment, topics: &dyn Topics) -> response::Assignment {
    let parts = assignment.topics().filter_map(|(id, partitions)| {
        let name = codec::TopicName(text(&topics.by_id(id)?.name));
        let described = response::TopicPartitions::default().with_topic_id(id.0).with_topic_name(name);
        Some(described.with_partitions(partitions.to_vec()))
    });
    response::Assignment::default().with_topic_partitions(parts.collect())
}
