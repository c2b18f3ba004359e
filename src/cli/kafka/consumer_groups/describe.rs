//! `--describe`: offsets and lag, members, or states, in the columns of Kafka's tool.

use super::super::{Done, print};
use super::{Args, NAME};
use crate::cli::group_admin::{Committed, Description, Groups, Member, TopicPartition};
use coreline_bench::client::OffsetSpec;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What of a group is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum What {
    Offsets,
    Members,
    State,
}

pub(super) fn run(groups: &mut Groups, args: &Args, names: &[String]) -> Done {
    let what = match (args.members, &args.state) {
        (true, _) => What::Members,
        (false, Some(_)) => What::State,
        (false, None) => What::Offsets,
    };
    for name in names {
        print(&text(groups, name, what, args.verbose)?);
    }
    Ok(())
}

/// A group in columns.
pub(in crate::cli) fn text(groups: &mut Groups, name: &str, what: What, verbose: bool) -> Result<String, String> {
    let group = groups.describe(name)?;
    let mut out = String::new();
    let _ = match group.state.as_str() {
        "Empty" => writeln!(out, "\nConsumer group '{name}' has no active members."),
        "PreparingRebalance" | "CompletingRebalance" | "Assigning" | "Reconciling" => {
            writeln!(out, "\nWarning: Consumer group '{name}' is rebalancing.")
        }
        "Dead" => writeln!(out, "\nConsumer group '{name}' does not exist."),
        _ => Ok(()),
    };
    match what {
        What::Members => members(&mut out, &group, verbose),
        What::State => state(&mut out, &group, verbose),
        What::Offsets => {
            let committed = groups.offsets(name)?;
            let rows = rows(&group, &committed);
            let ends = ends(groups, &rows)?;
            offsets(&mut out, &group.group, &rows, &ends, verbose);
        }
    }
    Ok(out)
}

fn ends(groups: &mut Groups, rows: &[Row<'_>]) -> Result<BTreeMap<TopicPartition, i64>, String> {
    let partitions: Vec<TopicPartition> = rows.iter().filter_map(|r| r.partition.clone()).collect();
    groups.log_offsets(&partitions, OffsetSpec::Latest)
}

/// A group as JSON.
pub(in crate::cli) fn json(groups: &mut Groups, name: &str, what: What) -> Result<Vec<Value>, String> {
    let group = groups.describe(name)?;
    let assignment = |assignment: &BTreeMap<String, Vec<i32>>| {
        let each =
            assignment.iter().flat_map(|(t, list)| list.iter().map(move |p| json!({ "topic": t, "partition": p })));
        each.collect::<Vec<_>>()
    };
    Ok(match what {
        What::State => {
            let (address, id) = &group.coordinator;
            vec![json!({ "group": name, "type": group.kind, "state": group.state, "assignor": group.assignor,
                "coordinator": { "id": id, "address": address }, "epoch": group.epochs.map(|e| e.0),
                "assignmentEpoch": group.epochs.map(|e| e.1), "members": group.members.len() })]
        }
        What::Members => {
            let member = |m: &Member| {
                json!({ "group": name, "member": m.id, "instance": m.instance, "host": m.host, "client": m.client_id,
                    "epoch": m.epoch, "partitions": assignment(&m.assignment), "target": m.target.as_ref().map(assignment) })
            };
            group.members.iter().map(member).collect()
        }
        What::Offsets => {
            let committed = groups.offsets(name)?;
            let rows = rows(&group, &committed);
            let ends = ends(groups, &rows)?;
            let row = |r: &Row<'_>| {
                let (topic, partition) = r.partition.as_ref()?;
                let (end, offset) = (ends.get(&(topic.clone(), *partition)), r.committed.map(|c| c.offset));
                Some(json!({ "group": name, "topic": topic, "partition": partition, "offset": offset,
                    "leaderEpoch": r.committed.and_then(|c| c.leader_epoch), "metadata": r.committed.map(|c| &c.metadata),
                    "end": end, "lag": end.zip(offset).map(|(end, offset)| (end - offset).max(0)),
                    "member": r.member.map(|m| &m.id), "host": r.member.map(|m| &m.host),
                    "client": r.member.map(|m| &m.client_id) }))
            };
            rows.iter().filter_map(row).collect()
        }
    })
}

/// A line of the offsets: a partition with what is committed, and the member that has it.
struct Row<'a> {
    partition: Option<TopicPartition>,
    committed: Option<&'a Committed>,
    member: Option<&'a Member>,
}

fn rows<'a>(group: &'a Description, committed: &'a BTreeMap<TopicPartition, Committed>) -> Vec<Row<'a>> {
    let mut owners: BTreeMap<TopicPartition, Option<&Member>> = committed.keys().map(|p| (p.clone(), None)).collect();
    let mut idle = Vec::new();
    for member in &group.members {
        if member.assignment.values().all(Vec::is_empty) {
            idle.push(Row { partition: None, committed: None, member: Some(member) });
        }
        for (topic, partitions) in &member.assignment {
            owners.extend(partitions.iter().map(|p| ((topic.clone(), *p), Some(member))));
        }
    }
    let with_owner = owners.into_iter().map(|(partition, member)| {
        let committed = committed.get(&partition);
        Row { partition: Some(partition), committed, member }
    });
    with_owner.chain(idle).collect()
}

fn widest<'a>(least: usize, values: impl Iterator<Item = &'a str>) -> usize {
    values.map(str::len).max().unwrap_or(0).max(least)
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

fn offsets(out: &mut String, group: &str, rows: &[Row<'_>], ends: &BTreeMap<TopicPartition, i64>, verbose: bool) {
    let topics = rows.iter().filter_map(|r| r.partition.as_ref()).map(|(t, _)| t.as_str());
    let topic_width = widest(NAME, topics);
    let member_width = widest(NAME, rows.iter().filter_map(|r| r.member).map(|m| m.id.as_str()));
    let host_width = widest(NAME, rows.iter().filter_map(|r| r.member).map(|m| m.host.as_str()));
    let group_width = group.len().max(NAME);
    out.push('\n');
    let mut line = |cells: [&str; 10]| {
        let [group, topic, partition, epoch, current, end, lag, id, host, client] = cells;
        let epoch = if verbose { format!("{epoch:NAME$} ") } else { String::new() };
        let _ = writeln!(
            out,
            "{group:group_width$} {topic:topic_width$} {partition:10} {epoch}{current:15} {end:15} {lag:15} {id:member_width$} {host:host_width$} {client}"
        );
    };
    line([
        "GROUP",
        "TOPIC",
        "PARTITION",
        "LEADER-EPOCH",
        "CURRENT-OFFSET",
        "LOG-END-OFFSET",
        "LAG",
        "CONSUMER-ID",
        "HOST",
        "CLIENT-ID",
    ]);
    for row in rows {
        let end = row.partition.as_ref().and_then(|p| ends.get(p));
        let lag = end.and_then(|end| Some((end - row.committed?.offset).max(0)));
        line([
            group,
            row.partition.as_ref().map_or("-", |(t, _)| t),
            &or_dash(row.partition.as_ref().map(|(_, p)| *p)),
            &or_dash(row.committed.and_then(|c| c.leader_epoch)),
            &or_dash(row.committed.map(|c| c.offset)),
            &or_dash(end),
            &or_dash(lag),
            row.member.map_or("-", |m| &m.id),
            row.member.map_or("-", |m| &m.host),
            row.member.map_or("-", |m| &m.client_id),
        ]);
    }
}

/// `a:0,1;b:2` as Kafka's tool writes an assignment.
fn assigned(assignment: &BTreeMap<String, Vec<i32>>) -> String {
    let topic = |(topic, partitions): (&String, &Vec<i32>)| {
        let mut partitions = partitions.clone();
        partitions.sort_unstable();
        let list: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        format!("{topic}:{}", list.join(","))
    };
    let topics: Vec<String> = assignment.iter().filter(|(_, p)| !p.is_empty()).map(topic).collect();
    if topics.is_empty() { "-".to_owned() } else { topics.join(";") }
}

fn members(out: &mut String, group: &Description, verbose: bool) {
    let all = &group.members;
    let group_width = group.group.len().max(NAME);
    let id_width = widest(NAME, all.iter().map(|m| m.id.as_str()));
    let instance_width = widest(17, all.iter().filter_map(|m| m.instance.as_deref()));
    let host_width = widest(NAME, all.iter().map(|m| m.host.as_str()));
    let client_width = widest(NAME, all.iter().map(|m| m.client_id.as_str()));
    let is_static = all.iter().any(|m| m.instance.is_some());
    out.push('\n');
    let mut line = |cells: [&str; 10]| {
        let [group, id, instance, host, client, count, epoch, current, target_epoch, target] = cells;
        let instance = if is_static { format!("{instance:instance_width$} ") } else { String::new() };
        let _ = write!(
            out,
            "{group:group_width$} {id:id_width$} {instance}{host:host_width$} {client:client_width$} {count:NAME$} "
        );
        let _ = if verbose {
            writeln!(out, "{epoch:NAME$} {current:20} {target_epoch:NAME$} {target:20}")
        } else {
            writeln!(out)
        };
    };
    line([
        "GROUP",
        "CONSUMER-ID",
        "GROUP-INSTANCE-ID",
        "HOST",
        "CLIENT-ID",
        "#PARTITIONS",
        "CURRENT-EPOCH",
        "CURRENT-ASSIGNMENT",
        "TARGET-EPOCH",
        "TARGET-ASSIGNMENT",
    ]);
    for m in all {
        let count: usize = m.assignment.values().map(Vec::len).sum();
        let target_epoch = m.epoch.and(group.epochs).map(|(_, assignment)| assignment);
        line([
            &group.group,
            &m.id,
            m.instance.as_deref().unwrap_or_default(),
            &m.host,
            &m.client_id,
            &count.to_string(),
            &or_dash(m.epoch),
            &assigned(&m.assignment),
            &or_dash(target_epoch),
            &m.target.as_ref().map_or_else(|| "-".to_owned(), assigned),
        ]);
    }
}

fn state(out: &mut String, group: &Description, verbose: bool) {
    let (address, id) = &group.coordinator;
    let coordinator = format!("{address}  ({id})");
    let group_width = group.group.len().max(NAME);
    let width = coordinator.len().max(25);
    out.push('\n');
    let mut line = |cells: [&str; 7]| {
        let [group, coordinator, assignor, state, epoch, target_epoch, count] = cells;
        let epochs = if verbose { format!("{epoch:NAME$} {target_epoch:25} ") } else { String::new() };
        let _ = writeln!(out, "{group:group_width$} {coordinator:width$} {assignor:20} {state:20} {epochs}{count}");
    };
    line([
        "GROUP",
        "COORDINATOR (ID)",
        "ASSIGNMENT-STRATEGY",
        "STATE",
        "GROUP-EPOCH",
        "TARGET-ASSIGNMENT-EPOCH",
        "#MEMBERS",
    ]);
    line([
        &group.group,
        &coordinator,
        if group.assignor.is_empty() { "-" } else { &group.assignor },
        &group.state,
        &or_dash(group.epochs.map(|(epoch, _)| epoch)),
        &or_dash(group.epochs.map(|(_, epoch)| epoch)),
        &group.members.len().to_string(),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Description {
        let member = Member {
            id: "cc-1".to_owned(),
            host: "/127.0.0.1".to_owned(),
            client_id: "cc".to_owned(),
            assignment: BTreeMap::from([("a".to_owned(), vec![1, 0])]),
            ..Member::default()
        };
        Description {
            group: "g1".to_owned(),
            kind: "Classic".to_owned(),
            state: "Stable".to_owned(),
            assignor: "range".to_owned(),
            members: vec![member],
            coordinator: ("127.0.0.1:9092".to_owned(), 1),
            ..Description::default()
        }
    }

    #[test]
    fn columns_are_kafkas() {
        let group = group();
        let committed = BTreeMap::from([(
            ("a".to_owned(), 0),
            Committed { offset: 18, leader_epoch: Some(0), metadata: String::new() },
        )]);
        let ends = BTreeMap::from([(("a".to_owned(), 0), 20), (("a".to_owned(), 1), 0)]);
        let mut out = String::new();
        offsets(&mut out, "g1", &rows(&group, &committed), &ends, false);
        let expected = "\nGROUP           TOPIC           PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG             CONSUMER-ID     HOST            CLIENT-ID\n\
            g1              a               0          18              20              2               cc-1            /127.0.0.1      cc\n\
            g1              a               1          -               0               -               cc-1            /127.0.0.1      cc\n";
        assert_eq!(out, expected);
        let mut out = String::new();
        members(&mut out, &group, true);
        let expected = "\nGROUP           CONSUMER-ID     HOST            CLIENT-ID       #PARTITIONS     CURRENT-EPOCH   CURRENT-ASSIGNMENT   TARGET-EPOCH    TARGET-ASSIGNMENT   \n\
            g1              cc-1            /127.0.0.1      cc              2               -               a:0,1                -               -                   \n";
        assert_eq!(out, expected);
        let mut out = String::new();
        state(&mut out, &group, false);
        let expected = "\nGROUP           COORDINATOR (ID)          ASSIGNMENT-STRATEGY  STATE                #MEMBERS\n\
            g1              127.0.0.1:9092  (1)       range                Stable               1\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn members_without_partitions_and_partitions_without_members_are_shown() {
        let mut group = group();
        group.members[0].assignment.clear();
        let committed = BTreeMap::from([(
            ("b".to_owned(), 3),
            Committed { offset: 1, leader_epoch: None, metadata: String::new() },
        )]);
        let found = rows(&group, &committed);
        assert_eq!(found.len(), 2);
        assert!(found[0].member.is_none() && found[0].partition == Some(("b".to_owned(), 3)));
        assert!(found[1].member.is_some() && found[1].partition.is_none());
    }
}
