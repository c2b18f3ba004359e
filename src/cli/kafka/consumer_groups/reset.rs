//! `--reset-offsets`: where groups without members begin next time.

use super::super::{Done, print};
use super::{Args, NAME, named_partitions};
use crate::cli::group_admin::{Groups, TopicPartition};
use crate::cli::sender::now_ms;
use coreline_bench::client::OffsetSpec;
use jiff::civil::DateTime;
use jiff::{Span, SpanRelativeTo, Timestamp, Unit};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// The new offset of each partition.
pub(in crate::cli) type Offsets = BTreeMap<TopicPartition, i64>;

/// Where offsets go.
#[derive(Debug, clap::Args)]
#[group(id = "target", multiple = false)]
pub(in crate::cli) struct Target {
    /// To this offset, within what the log has.
    #[arg(long, value_name = "OFFSET", allow_negative_numbers = true)]
    to_offset: Option<i64>,
    /// To the first record.
    #[arg(long)]
    to_earliest: bool,
    /// To the end.
    #[arg(long)]
    to_latest: bool,
    /// To what is committed; to the end where nothing is.
    #[arg(long)]
    to_current: bool,
    /// To the first record at or after a time: YYYY-MM-DDThh:mm:ss.sss, in UTC or with an offset.
    #[arg(long, value_name = "TIME")]
    to_datetime: Option<String>,
    /// To the first record younger than this: PnDTnHnMnS.
    #[arg(long, value_name = "DURATION")]
    by_duration: Option<String>,
    /// So many records forward, or back.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// To what a CSV file says: [group,]topic,partition,offset.
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
}

/// Of which topics: as `--topic` names them, or all that the group has offsets of.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Scope<'a> {
    pub topics: &'a [String],
    pub all_topics: bool,
}

pub(super) fn run(groups: &mut Groups, args: &Args, names: &[String]) -> Done {
    let failed = |e: String| format!("Executing consumer group command failed due to {e}");
    if !args.execute && !args.dry_run {
        eprintln!("WARN: No action will be performed as the --execute option is missing.");
    }
    let scope = Scope { topics: &args.topic, all_topics: args.all_topics };
    let (mut planned, mut busy) = (BTreeMap::new(), Ok(()));
    for name in names {
        if let Some(state) = active(groups, name).map_err(failed)? {
            print(&format!(
                "\nError: Assignments can only be reset if the group '{name}' is inactive, but the current state is {state}.\n"
            ));
            busy = Err(String::new());
            continue;
        }
        let plan = plan(groups, &args.target, scope, name, names.len() == 1).map_err(failed)?;
        if args.execute {
            groups.commit(name, &plan).map_err(failed)?;
        }
        planned.insert(name.clone(), plan);
    }
    print(&if args.export { export(&planned) } else { table(&planned) });
    busy
}

/// The state of a group that has members; a group that nobody knows yet is made by the commit.
pub(in crate::cli) fn active(groups: &mut Groups, group: &str) -> Result<Option<String>, String> {
    let listed = groups.list(&[], &[])?.into_iter().find(|g| g.group == group);
    Ok(listed.map(|g| g.state).filter(|state| !["Empty", "Dead"].contains(&state.as_str())))
}

pub(in crate::cli) fn table(planned: &BTreeMap<String, Offsets>) -> String {
    let mut out = format!("\n{:NAME$} {:NAME$} {:10} {}\n", "GROUP", "TOPIC", "PARTITION", "NEW-OFFSET");
    for (group, plan) in planned {
        for ((topic, partition), offset) in plan {
            let _ = writeln!(out, "{group:NAME$} {topic:NAME$} {partition:<10} {offset}");
        }
    }
    out
}

/// What `--from-file` reads: the group is left out if there is one only.
pub(in crate::cli) fn export(planned: &BTreeMap<String, Offsets>) -> String {
    let mut out = String::new();
    for (group, plan) in planned {
        for ((topic, partition), offset) in plan {
            let group = if planned.len() > 1 { format!("{group},") } else { String::new() };
            let _ = writeln!(out, "{group}{topic},{partition},{offset}");
        }
    }
    out + "\n"
}

/// The partitions and their new offsets.
pub(in crate::cli) fn plan(
    groups: &mut Groups,
    target: &Target,
    scope: Scope<'_>,
    group: &str,
    only: bool,
) -> Result<Offsets, String> {
    if let Some(path) = &target.from_file {
        let file = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let wanted = parse_csv(&file, group, only).map_err(|e| format!("{}: {e}", path.display()))?;
        return within(groups, &wanted);
    }
    let committed: Offsets = groups.offsets(group)?.into_iter().map(|(p, c)| (p, c.offset)).collect();
    let partitions = if scope.all_topics {
        let mut topics: Vec<&str> = committed.keys().map(|(t, _)| t.as_str()).collect();
        topics.dedup();
        let mut all = Vec::new();
        for topic in topics {
            all.extend((0..groups.partitions(topic)?.unwrap_or(0)).map(|p| (topic.to_owned(), p)));
        }
        all
    } else {
        let (found, strangers) = named_partitions(groups, scope.topics)?;
        if !strangers.is_empty() || found.is_empty() {
            return Err("UNKNOWN_TOPIC_OR_PARTITION: This server does not host this topic-partition.".to_owned());
        }
        found
    };
    let at = |groups: &mut Groups, ms: i64| by_time(groups, &partitions, ms);
    if target.to_earliest {
        groups.log_offsets(&partitions, OffsetSpec::Earliest)
    } else if target.to_latest {
        groups.log_offsets(&partitions, OffsetSpec::Latest)
    } else if let Some(offset) = target.to_offset {
        within(groups, &partitions.iter().map(|p| (p.clone(), offset)).collect())
    } else if let Some(shift) = target.shift_by {
        let mut wanted = Offsets::new();
        for p in &partitions {
            let now = committed.get(p).ok_or_else(|| {
                format!("Cannot shift offset for partition {}-{} since there is no current committed offset", p.0, p.1)
            })?;
            wanted.insert(p.clone(), now.saturating_add(shift));
        }
        within(groups, &wanted)
    } else if let Some(time) = &target.to_datetime {
        at(groups, parse_datetime(time)?)
    } else if let Some(duration) = &target.by_duration {
        at(groups, now_ms() - parse_duration(duration)?)
    } else {
        // --to-current
        let missing: Vec<TopicPartition> = partitions.iter().filter(|p| !committed.contains_key(p)).cloned().collect();
        let mut plan = groups.log_offsets(&missing, OffsetSpec::Latest)?;
        plan.extend(partitions.iter().filter_map(|p| Some((p.clone(), *committed.get(p)?))));
        Ok(plan)
    }
}

/// Offsets cut to what the logs have.
fn within(groups: &mut Groups, wanted: &Offsets) -> Result<Offsets, String> {
    let partitions: Vec<TopicPartition> = wanted.keys().cloned().collect();
    let first = groups.log_offsets(&partitions, OffsetSpec::Earliest)?;
    let last = groups.log_offsets(&partitions, OffsetSpec::Latest)?;
    let mut plan = Offsets::new();
    for (p, offset) in wanted {
        let (Some(first), Some(last)) = (first.get(p), last.get(p)) else {
            return Err(format!("{}-{}: UNKNOWN_TOPIC_OR_PARTITION", p.0, p.1));
        };
        let name = format!("topic partition {}-{}", p.0, p.1);
        let cut = (*offset).clamp(*first, *last);
        if cut > *offset {
            eprintln!(
                "WARN New offset ({offset}) is lower than earliest offset for {name}. Value will be set to {cut}"
            );
        } else if cut < *offset {
            eprintln!("WARN New offset ({offset}) is higher than latest offset for {name}. Value will be set to {cut}");
        }
        plan.insert(p.clone(), cut);
    }
    Ok(plan)
}

fn by_time(groups: &mut Groups, partitions: &[TopicPartition], ms: i64) -> Result<Offsets, String> {
    let mut found = groups.log_offsets(partitions, OffsetSpec::At(ms))?;
    let late: Vec<TopicPartition> = found.iter().filter(|(_, o)| **o < 0).map(|(p, _)| p.clone()).collect();
    for (p, end) in groups.log_offsets(&late, OffsetSpec::Latest)? {
        print(&format!(
            "\nWarn: Partition {} from topic {} is empty. Falling back to latest known offset.\n",
            p.1, p.0
        ));
        found.insert(p, end);
    }
    Ok(found)
}

/// Lines of `[group,]topic,partition,offset`; those of other groups are left out.
fn parse_csv(file: &str, group: &str, only: bool) -> Result<Offsets, String> {
    let mut found = Offsets::new();
    for (index, line) in file.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let wrong = || format!("line {}: {line:?}: expected [group,]topic,partition,offset", index + 1);
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let (topic, partition, offset) = match fields[..] {
            [topic, partition, offset] if only => (topic, partition, offset),
            [of, topic, partition, offset] if of == group => (topic, partition, offset),
            [_, _, _, _] => continue,
            _ => return Err(wrong()),
        };
        let partition = partition.parse().map_err(|_| wrong())?;
        found.insert((topic.to_owned(), partition), offset.parse().map_err(|_| wrong())?);
    }
    Ok(found)
}

/// `YYYY-MM-DDThh:mm:ss.sss`, in UTC if it names no offset; milliseconds since the epoch.
fn parse_datetime(text: &str) -> Result<i64, String> {
    let zoned = text.parse::<Timestamp>().map(Timestamp::as_millisecond);
    let utc = || text.parse::<DateTime>()?.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp().as_millisecond());
    zoned
        .or_else(|_| utc())
        .map_err(|e: jiff::Error| format!("--to-datetime {text}: {e}; expected YYYY-MM-DDThh:mm:ss.sss"))
}

/// `PnDTnHnMnS` in milliseconds; a day has 24 hours.
fn parse_duration(text: &str) -> Result<i64, String> {
    let wrong = |e: jiff::Error| format!("--by-duration {text}: {e}; expected PnDTnHnMnS");
    let span: Span = text.parse().map_err(wrong)?;
    if span.get_months() != 0 || span.get_years() != 0 {
        return Err(format!("--by-duration {text}: months and years have no fixed length; expected PnDTnHnMnS"));
    }
    let ms = span.total((Unit::Millisecond, SpanRelativeTo::days_are_24_hours())).map_err(wrong)?;
    Ok(ms as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(list: &[(&str, i32, i64)]) -> Offsets {
        list.iter().map(|(t, p, o)| (((*t).to_owned(), *p), *o)).collect()
    }

    #[test]
    fn times_and_durations_are_iso_8601() {
        assert_eq!(parse_datetime("1970-01-01T00:00:01.500"), Ok(1500));
        assert_eq!(parse_datetime("1970-01-01T01:00:00.000+01:00"), Ok(0));
        assert_eq!(parse_datetime("1970-01-01T00:00:01Z"), Ok(1000));
        assert!(parse_datetime("yesterday").is_err());
        assert_eq!(parse_duration("PT1H"), Ok(3_600_000));
        assert_eq!(parse_duration("P1DT1M"), Ok(86_460_000));
        assert!(parse_duration("P1M").is_err() && parse_duration("soon").is_err());
    }

    #[test]
    fn what_is_exported_can_be_read_back() {
        let plan = offsets(&[("a", 0, 20), ("a", 1, 0)]);
        let one = BTreeMap::from([("g".to_owned(), plan.clone())]);
        assert_eq!(export(&one), "a,0,20\na,1,0\n\n");
        assert_eq!(parse_csv(&export(&one), "g", true), Ok(plan.clone()));
        let two = BTreeMap::from([("g".to_owned(), plan.clone()), ("h".to_owned(), offsets(&[("b", 2, 3)]))]);
        assert_eq!(parse_csv(&export(&two), "g", false), Ok(plan));
        assert_eq!(parse_csv(&export(&two), "h", false), Ok(offsets(&[("b", 2, 3)])));
        for wrong in ["a,0", "a,x,1", "a,0,y", "a,0,1"] {
            assert!(parse_csv(wrong, "g", false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_table_is_kafkas() {
        let planned = BTreeMap::from([("new".to_owned(), offsets(&[("a", 0, 20)]))]);
        let expected =
            "\nGROUP           TOPIC           PARTITION  NEW-OFFSET\nnew             a               0          20\n";
        assert_eq!(table(&planned), expected);
    }
}
