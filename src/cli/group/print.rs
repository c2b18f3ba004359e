//! Tables and JSON of groups.

use super::cluster::{GroupView, PartitionKey, Progress};
use serde_json::json;

/// Rows under each other, the first one the heads; columns as wide as their widest cell.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out
}

pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn number(value: Option<i64>) -> String {
    value.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

fn lag(row: &Progress) -> Option<i64> {
    Some(row.end? - row.committed?)
}

pub(super) fn progress(rows: &[Progress], as_json: bool) -> String {
    if as_json {
        let one = |row: &Progress| {
            let (consumer, host, client) = match &row.reader {
                Some((consumer, host, client)) => (Some(consumer), Some(host), Some(client)),
                None => (None, None, None),
            };
            json!({ "group": row.group, "topic": row.partition.0, "partition": row.partition.1, "offset": row.committed,
                    "end": row.end, "lag": lag(row), "member": consumer, "host": host, "client": client })
        };
        return format!("{}\n", serde_json::Value::Array(rows.iter().map(one).collect()));
    }
    let heads =
        ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "CONSUMER-ID", "HOST", "CLIENT-ID"];
    let mut cells = vec![heads.map(str::to_owned).to_vec()];
    for row in rows {
        let (topic, partition) = row.partition.clone();
        let (consumer, host, client) = row.reader.clone().unwrap_or_else(|| ("-".into(), "-".into(), "-".into()));
        let offsets = [number(row.committed), number(row.end), number(lag(row))];
        let mut line = vec![row.group.clone(), topic, partition.to_string()];
        line.extend(offsets);
        line.extend([consumer, host, client]);
        cells.push(line);
    }
    table(&cells)
}

/// `topic:0,1;other:2`.
fn partitions_text<'a>(partitions: impl IntoIterator<Item = &'a PartitionKey>) -> String {
    let mut text = String::new();
    let mut before: Option<&str> = None;
    for (topic, partition) in partitions {
        if before == Some(topic) {
            text += &format!(",{partition}");
        } else {
            text += &format!("{}{topic}:{partition}", if before.is_some() { ";" } else { "" });
        }
        before = Some(topic);
    }
    or_dash(&text)
}

pub(super) fn members(views: &[GroupView], verbose: bool, as_json: bool) -> String {
    let each = || views.iter().flat_map(|view| view.members.iter().map(move |member| (view, member)));
    if as_json {
        let rows = each().map(|(view, member)| {
            let partitions: Vec<_> =
                member.partitions.iter().map(|(t, p)| json!({ "topic": t, "partition": p })).collect();
            json!({ "group": view.id, "member": member.id, "instance": member.instance, "host": member.host,
                    "client": member.client_id, "partitions": partitions })
        });
        return format!("{}\n", serde_json::Value::Array(rows.collect()));
    }
    let mut heads = vec!["GROUP", "CONSUMER-ID", "HOST", "CLIENT-ID", "#PARTITIONS"];
    let instances = each().any(|(_, member)| member.instance.is_some());
    if instances {
        heads.insert(2, "GROUP-INSTANCE-ID");
    }
    if verbose {
        heads.push("ASSIGNMENT");
    }
    let mut cells = vec![heads.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for (view, member) in each() {
        let mut line = vec![view.id.clone(), member.id.clone()];
        if instances {
            line.push(or_dash(member.instance.as_deref().unwrap_or_default()));
        }
        line.extend([member.host.clone(), member.client_id.clone(), member.partitions.len().to_string()]);
        if verbose {
            line.push(partitions_text(&member.partitions));
        }
        cells.push(line);
    }
    table(&cells)
}

pub(super) fn states(views: &[GroupView], as_json: bool) -> String {
    if as_json {
        let one = |view: &GroupView| {
            json!({ "group": view.id, "coordinator": view.coordinator, "assignor": view.assignor, "state": view.state,
                    "members": view.members.len() })
        };
        return format!("{}\n", serde_json::Value::Array(views.iter().map(one).collect()));
    }
    let heads = ["GROUP", "COORDINATOR (ID)", "ASSIGNMENT-STRATEGY", "STATE", "#MEMBERS"];
    let mut cells = vec![heads.map(str::to_owned).to_vec()];
    for view in views {
        let count = view.members.len().to_string();
        cells.push(vec![view.id.clone(), view.coordinator.clone(), or_dash(&view.assignor), view.state.clone(), count]);
    }
    table(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [["A", "LONG HEAD", "C"], ["wide cell", "-", "ü"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "A          LONG HEAD  C\nwide cell  -          ü\n");
    }

    #[test]
    fn partitions_are_gathered_by_topic() {
        let keys = [("a", 0), ("a", 1), ("b", 0)].map(|(t, p)| (t.to_owned(), p));
        assert_eq!(partitions_text(&keys), "a:0,1;b:0");
        assert_eq!(partitions_text(&[]), "-");
    }
}
