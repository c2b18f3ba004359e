//! `coreline transaction`: see transactions, find those that hang, abort them. The columns are those of
//! `kafka-transactions`.

use super::CommonArgs;
use super::transaction_admin::{Description, Filter, Listed, Open, Producer, Transactions};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TIMEOUT: Duration = Duration::from_secs(30);

/// What to do with transactions.
#[derive(Debug, clap::Args)]
pub struct TransactionArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// All transactional ids.
    List {
        /// Only those in these states, such as Ongoing or CompleteCommit; may be repeated.
        #[arg(long)]
        state: Vec<String>,
        /// Only transactions that run for longer than so many milliseconds.
        #[arg(long, value_name = "MS")]
        longer_than: Option<i64>,
        /// Only ids that match this regular expression.
        #[arg(long, value_name = "REGEX")]
        pattern: Option<String>,
    },
    /// Producer, state and partitions of transactional ids.
    Describe {
        /// The ids.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// The producers that a partition knows.
    Producers {
        /// The topic.
        #[arg(long)]
        topic: String,
        /// Its partition.
        #[arg(long)]
        partition: i32,
    },
    /// Abort a transaction: in one partition where it hangs, or with its producer by its transactional id.
    Abort {
        /// The transactional id: what it has open is aborted everywhere, and its producer fenced.
        #[arg(required_unless_present = "topic", conflicts_with_all = ["topic", "partition", "start_offset"])]
        id: Option<String>,
        /// The topic where it hangs.
        #[arg(long, requires_all = ["partition", "start_offset"])]
        topic: Option<String>,
        /// The partition.
        #[arg(long, requires = "topic")]
        partition: Option<i32>,
        /// Where the transaction begins in the partition.
        #[arg(long, requires = "topic")]
        start_offset: Option<i64>,
    },
    /// Transactions that no coordinator will end: readers of committed records stop at them.
    FindHanging {
        /// Only this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only this partition of it.
        #[arg(long, requires = "topic")]
        partition: Option<i32>,
        /// Only those whose last record is older than so many minutes.
        #[arg(long, default_value_t = 15, value_name = "MINUTES")]
        older_than: i64,
    },
}

pub(super) const LIST: [&str; 4] = ["TransactionalId", "Coordinator", "ProducerId", "TransactionState"];
pub(super) const DESCRIBE: [&str; 9] = [
    "CoordinatorId",
    "TransactionalId",
    "ProducerId",
    "ProducerEpoch",
    "TransactionState",
    "TransactionTimeoutMs",
    "CurrentTransactionStartTimeMs",
    "TransactionDurationMs",
    "TopicPartitions",
];
pub(super) const PRODUCERS: [&str; 6] = [
    "ProducerId",
    "ProducerEpoch",
    "LatestCoordinatorEpoch",
    "LastSequence",
    "LastTimestamp",
    "CurrentTransactionStartOffset",
];
pub(super) const HANGING: [&str; 8] = [
    "Topic",
    "Partition",
    "ProducerId",
    "ProducerEpoch",
    "CoordinatorEpoch",
    "StartOffset",
    "LastTimestamp",
    "Duration(min)",
];

/// A table as Kafka's tool writes it: each cell as wide as its column's widest, and a tab behind it.
pub(super) fn table<const N: usize>(headers: &[&str; N], rows: &[[String; N]]) -> String {
    let width = |i: usize| rows.iter().map(|row| row[i].len()).max().unwrap_or(0).max(headers[i].len());
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: &[&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}\t"));
        padded.collect::<String>() + "\n"
    };
    let rows = rows.iter().map(|row| line(&std::array::from_fn(|i| row[i].as_str())));
    std::iter::once(line(headers)).chain(rows).collect()
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn or_none(value: Option<i64>) -> String {
    value.map_or_else(|| "None".to_owned(), |v| v.to_string())
}

pub(super) fn list_rows(found: &[Listed]) -> Vec<[String; 4]> {
    let row = |t: &Listed| [t.id.clone(), t.coordinator.to_string(), t.producer_id.to_string(), t.state.clone()];
    found.iter().map(row).collect()
}

pub(super) fn description_row(t: &Description, now_ms: i64) -> [String; 9] {
    let partitions: Vec<String> = t.partitions.iter().map(|(topic, index)| format!("{topic}-{index}")).collect();
    [
        t.coordinator.to_string(),
        t.id.clone(),
        t.producer_id.to_string(),
        t.producer_epoch.to_string(),
        t.state.clone(),
        t.timeout_ms.to_string(),
        or_none(t.started_ms),
        or_none(t.started_ms.map(|started| now_ms - started)),
        partitions.join(","),
    ]
}

pub(super) fn producer_rows(found: &[Producer]) -> Vec<[String; 6]> {
    let row = |p: &Producer| {
        [
            p.id.to_string(),
            p.epoch.to_string(),
            p.coordinator_epoch.to_string(),
            p.last_sequence.to_string(),
            p.last_timestamp.to_string(),
            or_none(p.open_since),
        ]
    };
    found.iter().map(row).collect()
}

pub(super) fn hanging_rows(found: &[Open], now_ms: i64) -> Vec<[String; 8]> {
    let row = |((topic, index), p): &Open| {
        [
            topic.clone(),
            index.to_string(),
            p.id.to_string(),
            p.epoch.to_string(),
            p.coordinator_epoch.to_string(),
            p.open_since.unwrap_or(-1).to_string(),
            p.last_timestamp.to_string(),
            ((now_ms - p.last_timestamp) / 60_000).to_string(),
        ]
    };
    found.iter().map(row).collect()
}

/// Rows as JSON: an object each, by the columns' names; numbers as numbers, `None` as null.
fn objects<const N: usize>(headers: &[&str; N], rows: &[[String; N]]) -> String {
    let value = |header: &str, cell: &String| match cell.parse::<i64>() {
        Ok(number) if !["TransactionalId", "Topic", "TopicPartitions"].contains(&header) => json!(number),
        _ if cell == "None" => Value::Null,
        _ => json!(cell),
    };
    let row = |row: &[String; N]| {
        let fields = headers.iter().zip(row).map(|(header, cell)| ((*header).to_owned(), value(header, cell)));
        Value::Object(fields.collect())
    };
    format!("{}\n", Value::Array(rows.iter().map(row).collect()))
}

/// Runs the command; the text is its output.
///
/// # Errors
/// A message for the user.
pub fn run(args: &TransactionArgs) -> Result<String, String> {
    let mut cluster = Transactions::connect(&args.common.bootstrap_server, TIMEOUT)?;
    match &args.action {
        Action::List { state, longer_than, pattern } => {
            let (states, pattern) = (state.clone(), pattern.clone());
            let filter = Filter { states, longer_than_ms: *longer_than, pattern, ..Filter::default() };
            Ok(show(args.common.json, &LIST, &list_rows(&cluster.list(&filter)?)))
        }
        Action::Describe { ids } => {
            let mut rows = Vec::new();
            for id in ids {
                let found = cluster.describe(id).map_err(|e| format!("{id}: {e}"))?;
                let found = found.ok_or_else(|| format!("{id}: no coordinator knows this transactional id"))?;
                rows.push(description_row(&found, now_ms()));
            }
            Ok(show(args.common.json, &DESCRIBE, &rows))
        }
        Action::Producers { topic, partition } => {
            let found = cluster.producers(&(topic.clone(), *partition), None);
            let found = found.map_err(|e| format!("{topic}-{partition}: {e}"))?;
            Ok(show(args.common.json, &PRODUCERS, &producer_rows(&found)))
        }
        Action::Abort { id: Some(id), .. } => {
            let known = cluster.describe(id).map_err(|e| format!("{id}: {e}"))?;
            known.ok_or_else(|| format!("{id}: no coordinator knows this transactional id"))?;
            cluster.fence(id).map_err(|e| format!("{id}: {e}"))?;
            Ok(format!("aborted what {id} had open; its producer is fenced\n"))
        }
        Action::Abort { topic, partition, start_offset, .. } => {
            let (Some(topic), Some(partition), Some(offset)) = (topic, partition, start_offset) else {
                return Err("expected a transactional id, or --topic, --partition and --start-offset".to_owned());
            };
            let at = format!("{topic}-{partition}");
            let open = cluster.open_at(&(topic.clone(), *partition), *offset).map_err(|e| format!("{at}: {e}"))?;
            let open = open.ok_or_else(|| format!("{at}: no open transaction begins at offset {offset}"))?;
            cluster.abort(&open).map_err(|e| format!("{at}: {e}"))?;
            Ok(format!("aborted the transaction of producer {} in {at}\n", open.producer_id))
        }
        Action::FindHanging { topic, partition, older_than } => {
            let partitions = match (topic, partition) {
                (Some(topic), Some(partition)) => vec![(topic.clone(), *partition)],
                _ => cluster.partitions(topic.as_deref(), None)?,
            };
            let now_ms = now_ms();
            let found = cluster.find_hanging(partitions, None, (now_ms, older_than.saturating_mul(60_000)))?;
            Ok(show(args.common.json, &HANGING, &hanging_rows(&found, now_ms)))
        }
    }
}

fn show<const N: usize>(as_json: bool, headers: &[&str; N], rows: &[[String; N]]) -> String {
    if as_json { objects(headers, rows) } else { table(headers, rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_kafka_writes_it() {
        let rows = [["a".to_owned(), "12345".to_owned()], ["long".to_owned(), "None".to_owned()]];
        assert_eq!(table(&["Id", "Of"], &rows), "Id  \tOf   \t\na   \t12345\t\nlong\tNone \t\n");
        assert_eq!(objects(&["Topic", "Of"], &rows[..1]), "[{\"Of\":12345,\"Topic\":\"a\"}]\n");
    }
}
