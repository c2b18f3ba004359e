//! What a member's heartbeat does to its group: joins, leaves and everything between.

use super::super::assignor::{self, Assignment};
use super::super::coordinator::{Client, Context, Refused};
use super::member::{Current, Declared, LEFT_STATIC, MemberState, Reconciliation, names};
use super::state::ConsumerGroup;
use super::subscription::compile;
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::consumer_group_heartbeat_response as response;
use kafka_protocol::protocol::StrBytes;
use regex::Regex;
use std::sync::Arc;

/// What a heartbeat changes of what its member said before.
pub(super) struct Update {
    /// What the member says it is now.
    pub(super) declared: Declared,
    /// The member whose place it takes: a static member that comes back under another id.
    pub(super) replaces: Option<Arc<str>>,
    /// An expression that no member had until now.
    pub(super) new_regex: Option<(Arc<str>, Regex)>,
}

impl ConsumerGroup {
    /// A member's heartbeat, joins and leaves included. Refused or not done at all; [`validate_heartbeat`](super::validate_heartbeat)
    /// comes first.
    pub fn heartbeat(
        &mut self,
        cx: &mut Context<'_>,
        client: &Client,
        request: &codec::ConsumerGroupHeartbeatRequest,
    ) -> Result<codec::ConsumerGroupHeartbeatResponse, Refused> {
        if request.member_epoch < 0 {
            return self.leave(cx, request);
        }
        self.check_size(cx.config, &request.member_id)?;
        let owned = request
            .topic_partitions
            .as_ref()
            .map(|topics| Assignment::from_parts(topics.iter().map(|t| (TopicId(t.topic_id), t.partitions.clone()))));
        let id: Arc<str> = match request.member_id.as_str() {
            "" => Arc::from(cx.ids.uuid().to_string()),
            id => Arc::from(id),
        };
        let update = self.update_of(client, request, &id, owned.as_ref())?;
        // Nothing is refused from here on.
        let subscription_changed = self.take_update(cx, &id, update);
        let assignment_changed = self.reconcile(cx, &id, owned.as_ref(), subscription_changed);
        self.start_session(cx, &id);

        let interval = cx.group_config(&self.id).consumer_heartbeat_interval_ms;
        let current = &self.members[&id].current;
        let full = request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
            && owned.is_some();
        let assignment =
            (request.member_epoch == 0 || full || assignment_changed).then(|| assignment_response(&current.assigned));
        Ok(codec::ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(StrBytes::from_string(id.to_string())))
            .with_member_epoch(current.epoch)
            .with_heartbeat_interval_ms(interval.unwrap_or(cx.config.consumer_heartbeat_interval_ms))
            .with_assignment(assignment))
    }

    /// What a heartbeat says, checked: the only place where one is refused.
    fn update_of(
        &self,
        client: &Client,
        request: &codec::ConsumerGroupHeartbeatRequest,
        id: &Arc<str>,
        owned: Option<&Assignment>,
    ) -> Result<Update, Refused> {
        let joins = request.member_epoch == 0;
        let check = |id: &Arc<str>| {
            let member = &self.members[id];
            Self::check_epoch(member, request.member_epoch, owned)?;
            Ok(member.declared.clone())
        };
        let (mut declared, replaces) = match request.instance_id.as_deref() {
            None if self.members.contains_key(id) => (check(id)?, None),
            None if joins => (Declared::default(), None),
            None => return Err(self.unknown_member(id)),
            Some(instance) if joins => match self.static_members.get(instance) {
                None => (self.members.get(id).map(|m| m.declared.clone()).unwrap_or_default(), None),
                Some(holder) => {
                    self.check_released(holder, id, instance)?;
                    (self.members[holder].declared.clone(), Some(holder.clone()))
                }
            },
            Some(instance) => (check(self.check_instance(id, instance)?)?, None),
        };
        if self.members.get(id).is_some_and(|m| m.current.state == MemberState::Unknown)
            && owned.is_none_or(|owned| !owned.is_empty())
        {
            let message = "The consumer group member is in a unknown state. The member must abandon all its \
                           partitions and rejoin.";
            return Err(Refused::new(ErrorCode::FencedMemberEpoch, message));
        }
        apply_request(&mut declared, client, request);
        let new_regex = match declared.regex() {
            Some(regex) if !self.regexes.contains_key(regex) => Some((regex.clone(), compile(regex)?)),
            _ => None,
        };
        Ok(Update { declared, replaces, new_regex })
    }

    /// Writes down what changed, and makes a new target where that takes one: whether the member's subscription changed.
    pub(super) fn take_update(&mut self, cx: &mut Context<'_>, id: &Arc<str>, update: Update) -> bool {
        let Update { declared, replaces, new_regex } = update;
        let own = self.members.get(id).map(|m| m.declared.clone());
        // For a member that takes another's place, what counts is what the other was subscribed to.
        let before = replaces.as_ref().map(|holder| self.members[holder].declared.clone()).or_else(|| own.clone());
        let (topics, regex) = (declared.topics.clone(), declared.regex().cloned());
        if let Some(holder) = replaces {
            self.replace_member(cx, &holder, id, declared);
        } else if own.as_ref() != Some(&declared) {
            self.put_member(cx, id, declared);
        }
        for old in [&own, &before].into_iter().flatten().filter_map(|declared| declared.regex()) {
            if Some(old) != regex.as_ref() {
                self.forget_regex(cx, old);
            }
        }
        if let Some((regex, compiled)) = &new_regex {
            self.add_regex(cx, regex, compiled);
        }
        let before = before.unwrap_or_default();
        let changed = topics != before.topics || regex.as_ref() != before.regex();
        self.refresh(cx, changed || self.epoch == 0);
        if self.epoch > self.assignment_epoch {
            self.make_target(cx);
        }
        changed
    }

    /// A static member comes back under another id: it has what it had, and begins at epoch 0.
    pub(super) fn replace_member(
        &mut self,
        cx: &mut Context<'_>,
        holder: &Arc<str>,
        id: &Arc<str>,
        declared: Declared,
    ) {
        let member = &self.members[holder];
        let (target, current) = (member.target.clone(), member.current.clone());
        self.remove_member(cx, holder);
        self.put_member(cx, id, declared);
        self.put_target(cx, id, target);
        self.put_current(cx, id, Current { epoch: 0, previous_epoch: 0, ..current });
    }

    /// Drops what an expression matched if no member has it any more.
    pub(super) fn forget_regex(&mut self, cx: &mut Context<'_>, regex: &Arc<str>) {
        if self.regexes.contains_key(regex) && self.regex_subscribers(regex) == 0 {
            self.remove_regex(cx, regex);
        }
    }

    /// Goes on to the next epoch if `bump` says so, or if topics are not what they were in this one.
    pub(super) fn refresh(&mut self, cx: &mut Context<'_>, bump: bool) {
        let bump = self.refresh_regexes(cx) || bump;
        let topics_epoch = cx.topics.epoch();
        if bump || self.topics_seen != Some(topics_epoch) {
            let hash = self.compute_hash(cx.topics);
            if bump || hash != self.metadata_hash {
                self.put_group(cx, self.epoch + 1, hash);
            }
            self.topics_seen = Some(topics_epoch);
            self.remove_partition_metadata(cx);
        }
    }

    /// Makes the target assignment of this epoch, and writes down what is new in it.
    pub(super) fn make_target(&mut self, cx: &mut Context<'_>) {
        let (topics, subscriptions) = self.resolve_subscriptions(cx.topics);
        let members: Vec<assignor::Member<'_>> = self
            .members
            .iter()
            .zip(&subscriptions)
            .map(|((id, member), topics)| assignor::Member {
                id,
                instance: member.declared.instance.as_deref(),
                rack: member.declared.rack.as_deref(),
                topics,
                target: &member.target,
            })
            .collect();
        let targets = self.assignor(cx.config).assign(&members, &topics);
        let changed: Vec<(Arc<str>, Assignment)> = self
            .members
            .iter()
            .zip(targets)
            .filter(|((_, member), target)| member.target != *target)
            .map(|((id, _), target)| (id.clone(), target))
            .collect();
        for (id, target) in changed {
            self.put_target(cx, &id, target);
        }
        self.put_assignment_epoch(cx, self.epoch);
    }

    /// Leads a member one step towards its target: whether what it is assigned changed.
    pub(super) fn reconcile(
        &mut self,
        cx: &mut Context<'_>,
        id: &Arc<str>,
        owned: Option<&Assignment>,
        subscription_changed: bool,
    ) -> bool {
        let member = &self.members[id];
        if !subscription_changed && member.is_reconciled_to(self.assignment_epoch) {
            return false;
        }
        let next = Reconciliation {
            target_epoch: self.assignment_epoch,
            target: &member.target,
            subscribed: &self.subscribed_ids(id, cx.topics),
            owned,
            subscription_changed,
            is_free: &|topic, partition| self.is_free_for(id, topic, partition),
        }
        .next(&member.current);
        let assignment_changed = next.assigned != member.current.assigned;
        if next != member.current {
            self.put_current(cx, id, next);
            self.watch_revocation(cx, id);
        }
        assignment_changed
    }

    /// Epochs -1 and -2.
    fn leave(
        &mut self,
        cx: &mut Context<'_>,
        request: &codec::ConsumerGroupHeartbeatRequest,
    ) -> Result<codec::ConsumerGroupHeartbeatResponse, Refused> {
        let id: Arc<str> = Arc::from(request.member_id.as_str());
        match request.instance_id.as_deref() {
            None => {
                self.member(&id)?;
            }
            Some(instance) => {
                self.check_instance(&id, instance)?;
            }
        }
        if request.instance_id.is_some() && request.member_epoch == LEFT_STATIC {
            // It keeps what it is assigned until it comes back or its session ends.
            let member = self.members.get_mut(&id).expect("checked above");
            member.rebalance.clear();
            let revoking = Assignment::EMPTY;
            let current = Current { epoch: LEFT_STATIC, revoking, ..member.current.clone() };
            self.put_current(cx, &id, current);
        } else {
            self.fence(cx, &[id]);
        }
        Ok(codec::ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(request.member_id.clone()))
            .with_member_epoch(request.member_epoch))
    }

    /// Ends memberships. Who stays gets the new target at the next heartbeat of any of them.
    pub(super) fn fence(&mut self, cx: &mut Context<'_>, ids: &[Arc<str>]) {
        if ids.is_empty() {
            return;
        }
        let regexes: Vec<Arc<str>> =
            ids.iter().filter_map(|id| self.members.get(id)?.declared.regex().cloned()).collect();
        for id in ids {
            self.remove_member(cx, id);
        }
        for regex in &regexes {
            self.forget_regex(cx, regex);
        }
        let hash = self.compute_hash(cx.topics);
        self.put_group(cx, self.epoch + 1, hash);
    }
}

/// Takes over what a request says; what it does not say stays.
fn apply_request(declared: &mut Declared, client: &Client, request: &codec::ConsumerGroupHeartbeatRequest) {
    let text = |text: &StrBytes| Arc::from(text.as_str());
    if let Some(instance) = &request.instance_id {
        declared.instance = Some(text(instance));
    }
    if let Some(rack) = &request.rack_id {
        declared.rack = Some(text(rack));
    }
    if request.rebalance_timeout_ms != -1 {
        declared.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(assignor) = &request.server_assignor {
        declared.assignor = Some(text(assignor));
    }
    if let Some(topics) = &request.subscribed_topic_names {
        let topics = names(topics.iter().map(|name| text(&name.0)).collect());
        if topics != declared.topics {
            declared.topics = topics;
        }
    }
    if let Some(regex) = &request.subscribed_topic_regex {
        declared.regex = Some(text(regex));
    }
    declared.client_id = client.id.clone();
    declared.client_host = client.host.clone();
    declared.classic = None;
}

fn assignment_response(assigned: &Assignment) -> response::Assignment {
    let topics = assigned.topics().map(|(topic, partitions)| {
        response::TopicPartitions::default().with_topic_id(topic.0).with_partitions(partitions.to_vec())
    });
    response::Assignment::default().with_topic_partitions(topics.collect())
}
