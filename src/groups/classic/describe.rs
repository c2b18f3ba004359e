//! DescribeGroups of a classic group.

use super::{ClassicGroup, State};
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::protocol::StrBytes;

impl ClassicGroup {
    /// The group without its id. What members say of themselves is shown while the group is stable, as Kafka does.
    #[must_use]
    pub fn describe(&self) -> DescribedGroup {
        let protocol = self.protocol.as_deref().filter(|_| self.state == State::Stable).unwrap_or_default();
        let string = |text: &str| StrBytes::from_string(text.to_owned());
        let members = self.members.values().map(|member| {
            let metadata = if self.state == State::Stable { member.metadata(protocol) } else { Default::default() };
            DescribedGroupMember::default()
                .with_member_id(string(&member.id))
                .with_group_instance_id(member.instance_id.as_deref().map(string))
                .with_client_id(string(&member.client_id))
                .with_client_host(string(&member.client_host))
                .with_member_metadata(metadata)
                .with_member_assignment(member.assignment.clone())
        });
        DescribedGroup::default()
            .with_group_state(StrBytes::from_static_str(self.state.name()))
            .with_protocol_type(string(self.protocol_type().unwrap_or_default()))
            .with_protocol_data(string(protocol))
            .with_members(members.collect())
    }
}
