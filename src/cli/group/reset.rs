//! `coreline group reset`: other offsets for a group without members.

use super::cluster::{Connection, PartitionKey};
use super::{print, when};
use coreline_bench::client::OffsetSpec;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Which offsets, to where.
#[derive(Debug, clap::Args)]
pub(super) struct ResetArgs {
    /// The group's id.
    group: String,
    /// A topic, or some of its partitions as TOPIC:0,1; may be repeated.
    #[arg(long, conflicts_with = "all_topics")]
    topic: Vec<String>,
    /// All topics that the group has offsets of.
    #[arg(long)]
    all_topics: bool,
    #[command(flatten)]
    target: Target,
    /// Do it.
    #[arg(long)]
    execute: bool,
    /// Write TOPIC,PARTITION,OFFSET lines, which --from-file reads.
    #[arg(long, conflicts_with = "json")]
    export: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// To the first record.
    #[arg(long)]
    to_earliest: bool,
    /// To the end.
    #[arg(long)]
    to_latest: bool,
    /// To where the group is: for --export.
    #[arg(long)]
    to_current: bool,
    /// To an offset; to the nearest there is, where it is not there.
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// By so many records, back if negative.
    #[arg(long, value_name = "RECORDS", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// To the first record at or after a time: YYYY-MM-DDTHH:MM:SS.mmm.
    #[arg(long, value_name = "TIME")]
    to_datetime: Option<String>,
    /// To the first record of the last PnDTnHnMnS.
    #[arg(long, value_name = "DURATION")]
    by_duration: Option<String>,
    /// To the offsets in a file of TOPIC,PARTITION,OFFSET lines.
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
}

type Offsets = BTreeMap<PartitionKey, i64>;

pub(super) fn run(connection: &mut Connection, args: &ResetArgs, as_json: bool) -> Result<String, String> {
    let view = connection.describe(&args.group);
    if let Ok(view) = &view
        && !view.members.is_empty()
    {
        return Err(format!(
            "{}: offsets move only while the group has no members; it is {}, with {}",
            args.group,
            view.state,
            view.members.len()
        ));
    }
    let offsets = targets(connection, args)?;
    if args.execute {
        connection.commit(&args.group, &offsets)?;
    }
    if args.export {
        return Ok(offsets.iter().fold(String::new(), |out, ((t, p), offset)| out + &format!("{t},{p},{offset}\n")));
    }
    if as_json {
        let one = |((topic, partition), offset): (&PartitionKey, &i64)| json!({ "group": args.group, "topic": topic, "partition": partition, "offset": offset, "done": args.execute });
        return Ok(format!("{}\n", serde_json::Value::Array(offsets.iter().map(one).collect())));
    }
    let mut rows = vec![["GROUP", "TOPIC", "PARTITION", "NEW-OFFSET"].map(str::to_owned).to_vec()];
    for ((topic, partition), offset) in &offsets {
        rows.push(vec![args.group.clone(), topic.clone(), partition.to_string(), offset.to_string()]);
    }
    let table = print::table(&rows);
    Ok(if args.execute { table } else { table + "Nothing was changed: add --execute.\n" })
}

fn wanted(connection: &mut Connection, args: &ResetArgs, current: &Offsets) -> Result<BTreeSet<PartitionKey>, String> {
    if args.all_topics {
        return Ok(current.keys().cloned().collect());
    }
    if args.topic.is_empty() {
        return Err("which topics? give --topic or --all-topics".to_owned());
    }
    connection.partitions(&args.topic)
}

fn targets(connection: &mut Connection, args: &ResetArgs) -> Result<Offsets, String> {
    let target = &args.target;
    if let Some(file) = &target.from_file {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let offsets = parse_file(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        return within(connection, offsets);
    }
    let current = connection.committed(&args.group)?;
    let keys = wanted(connection, args, &current)?;
    if target.to_earliest {
        return connection.offsets(&keys, OffsetSpec::Earliest);
    }
    if target.to_latest {
        return connection.offsets(&keys, OffsetSpec::Latest);
    }
    let latest = |connection: &mut Connection| connection.offsets(&keys, OffsetSpec::Latest);
    if let Some(offset) = target.to_offset {
        return within(connection, keys.into_iter().map(|key| (key, offset)).collect());
    }
    if let Some(by) = target.shift_by {
        let missing: Vec<_> = keys.iter().filter(|key| !current.contains_key(*key)).collect();
        if let Some((topic, partition)) = missing.first() {
            return Err(format!("{topic}-{partition}: the group has no offset to shift"));
        }
        return within(
            connection,
            keys.into_iter().map(|key| (key.clone(), current[&key].saturating_add(by))).collect(),
        );
    }
    if target.to_current {
        // Where there is none, the end, as Kafka's tool says.
        let mut offsets = latest(connection)?;
        offsets.extend(keys.iter().filter_map(|key| current.get(key).map(|offset| (key.clone(), *offset))));
        return Ok(offsets);
    }
    let at = match (&target.to_datetime, &target.by_duration) {
        (Some(time), _) => when::date_time(time)?,
        (None, Some(duration)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?;
            i64::try_from(now.as_millis()).unwrap_or(i64::MAX) - when::duration(duration)?
        }
        (None, None) => unreachable!("one target is required"),
    };
    let mut offsets = latest(connection)?;
    // None at or after that time: the end.
    offsets.extend(connection.offsets(&keys, OffsetSpec::At(at))?.into_iter().filter(|(_, offset)| *offset >= 0));
    Ok(offsets)
}

/// Each offset, or the nearest that its log has.
fn within(connection: &mut Connection, mut offsets: Offsets) -> Result<Offsets, String> {
    let keys: BTreeSet<PartitionKey> = offsets.keys().cloned().collect();
    let first = connection.offsets(&keys, OffsetSpec::Earliest)?;
    let last = connection.offsets(&keys, OffsetSpec::Latest)?;
    for (key, offset) in &mut offsets {
        let (Some(first), Some(last)) = (first.get(key), last.get(key)) else {
            return Err(format!("{}-{}: there is no such partition, or it has no leader now", key.0, key.1));
        };
        *offset = (*offset).clamp(*first, *last);
    }
    Ok(offsets)
}

fn parse_file(text: &str) -> Result<Offsets, String> {
    let mut offsets = Offsets::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || format!("line {}: {line:?}, expected TOPIC,PARTITION,OFFSET", number + 1);
        let cells: Vec<&str> = line.split(',').map(|cell| cell.trim().trim_matches('"')).collect();
        let [topic, partition, offset] = cells[..] else { return Err(wrong()) };
        let key = (topic.to_owned(), partition.parse().map_err(|_| wrong())?);
        offsets.insert(key, offset.parse().map_err(|_| wrong())?);
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_what_export_writes() {
        let offsets = parse_file("a,0,5\n\"b\",1,7\n\n").expect("good lines");
        assert_eq!(offsets.into_iter().collect::<Vec<_>>(), [(("a".into(), 0), 5), (("b".into(), 1), 7)]);
        for wrong in ["a,0", "a,x,1", "a,0,1,2", "a,0,"] {
            assert!(parse_file(wrong).is_err_and(|e| e.starts_with("line 1")), "{wrong}");
        }
    }
}
