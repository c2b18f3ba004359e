//! `kafka-transactions`: transactional ids, their transactions, and producers of partitions.
//!
//! Unlike Kafka's tool, `--topic` and `--partition` that are not there are said at once, not after a minute.

use super::{Done, print};
use crate::cli::transaction::{self, table};
use crate::cli::transaction_admin::{Abort, Filter, Transactions};
use clap::{Parser, Subcommand};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Analyze the transactional state of producers, and end transactions that hang.
#[derive(Debug, Parser)]
#[command(name = "kafka-transactions", version)]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "host:port")]
    bootstrap_server: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List transactions.
    List {
        /// Only transactions that run for longer than so many milliseconds; all of them if below 0.
        #[arg(long, allow_negative_numbers = true)]
        duration_filter: Option<i64>,
        /// Only transactional ids that match this regular expression.
        #[arg(long)]
        transactional_id_pattern: Option<String>,
    },
    /// Describe the state of an active transactional-id.
    Describe {
        /// The id.
        #[arg(long)]
        transactional_id: String,
    },
    /// Describe the states of active producers for a topic partition.
    DescribeProducers {
        /// The broker whose replica to ask; the leader if not given.
        #[arg(long)]
        broker_id: Option<i32>,
        /// The topic.
        #[arg(long)]
        topic: String,
        /// The partition.
        #[arg(long)]
        partition: i32,
    },
    /// Abort a hanging transaction.
    Abort {
        /// The topic.
        #[arg(long)]
        topic: String,
        /// The partition.
        #[arg(long)]
        partition: i32,
        /// Where the transaction begins.
        #[arg(long)]
        start_offset: Option<i64>,
        /// Without --start-offset: the producer.
        #[arg(long)]
        producer_id: Option<i64>,
        /// Its epoch.
        #[arg(long)]
        producer_epoch: Option<i16>,
        /// The epoch of its coordinator.
        #[arg(long, allow_negative_numbers = true)]
        coordinator_epoch: Option<i32>,
    },
    /// Find hanging transactions.
    FindHanging {
        /// Only partitions of this broker.
        #[arg(long)]
        broker_id: Option<i32>,
        /// Only transactions whose last record is older than so many minutes.
        #[arg(long, default_value_t = 15)]
        max_transaction_timeout: i64,
        /// Only this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only this partition of it.
        #[arg(long)]
        partition: Option<i32>,
    },
    /// Force abort an ongoing transaction on transactionalId.
    #[command(name = "forceTerminateTransaction")]
    ForceTerminateTransaction {
        /// The id.
        #[arg(long = "transactionalId")]
        transactional_id: String,
    },
}

pub(super) fn run(args: &Args) -> Done {
    let server = args.bootstrap_server.split(',').next().unwrap_or_default().trim();
    let mut cluster = Transactions::connect(server, TIMEOUT)?;
    match &args.command {
        Command::List { duration_filter, transactional_id_pattern } => {
            let filter = Filter {
                longer_than_ms: *duration_filter,
                pattern: transactional_id_pattern.clone(),
                ..Filter::default()
            };
            let found = cluster.list(&filter).map_err(failed("Failed to list transactions"))?;
            print(&table(&transaction::LIST, &transaction::list_rows(&found)));
        }
        Command::Describe { transactional_id } => {
            let what = format!("Failed to describe transaction state of transactional-id `{transactional_id}`");
            let found = cluster.describe(transactional_id).map_err(failed(&what))?;
            let unknown = || {
                failed(&what)(format!(
                    "DescribeTransactions request for transactionalId `{transactional_id}` failed because the ID could not be found"
                ))
            };
            let row = transaction::description_row(&found.ok_or_else(unknown)?, transaction::now_ms());
            print(&table(&transaction::DESCRIBE, &[row]));
        }
        Command::DescribeProducers { broker_id, topic, partition } => {
            let on = broker_id.map_or_else(|| "leader".to_owned(), |id| format!("broker {id}"));
            let what = format!("Failed to describe producers for partition {topic}-{partition} on {on}");
            let found = cluster.producers(&(topic.clone(), *partition), *broker_id).map_err(failed(&what))?;
            print(&table(&transaction::PRODUCERS, &transaction::producer_rows(&found)));
        }
        Command::Abort { topic, partition, start_offset, producer_id, producer_epoch, coordinator_epoch } => {
            let at = (topic.clone(), *partition);
            let abort = match (start_offset, producer_id) {
                (None, None) => return Err("The transaction to abort must be identified either with --start-offset (for brokers on 3.0 or above) or with --producer-id, --producer-epoch, and --coordinator-epoch (for older brokers)".to_owned()),
                (Some(offset), _) => {
                    let what = format!("Failed to validate producer state for partition {topic}-{partition}");
                    let none = || format!("Could not find any open transactions starting at offset {offset} on partition {topic}-{partition}");
                    cluster.open_at(&at, *offset).map_err(failed(&what))?.ok_or_else(none)?
                }
                (None, Some(producer_id)) => Abort {
                    partition: at,
                    producer_id: *producer_id,
                    producer_epoch: producer_epoch.ok_or("Missing required argument --producer-epoch")?,
                    // Before its first marker a producer has none.
                    coordinator_epoch: coordinator_epoch.ok_or("Missing required argument --coordinator-epoch")?.max(0),
                },
            };
            cluster.abort(&abort).map_err(failed(&format!("Failed to abort transaction {abort}")))?;
        }
        Command::FindHanging { broker_id, max_transaction_timeout, topic, partition } => {
            if topic.is_none() && broker_id.is_none() {
                return Err("The `find-hanging` command requires either --topic or --broker-id to limit the scope of the search".to_owned());
            }
            if partition.is_some() && topic.is_none() {
                return Err("The --partition argument requires --topic to be provided".to_owned());
            }
            let partitions = match (topic, partition) {
                (Some(topic), Some(partition)) => vec![(topic.clone(), *partition)],
                _ => cluster.partitions(topic.as_deref(), *broker_id).map_err(failed("Failed to describe 1 topics"))?,
            };
            let now_ms = transaction::now_ms();
            let age_ms = max_transaction_timeout.saturating_mul(60_000);
            let found = cluster.find_hanging(partitions, *broker_id, (now_ms, age_ms));
            let found = found.map_err(failed("Failed to find hanging transactions"))?;
            print(&table(&transaction::HANGING, &transaction::hanging_rows(&found, now_ms)));
        }
        Command::ForceTerminateTransaction { transactional_id } => {
            let what = format!("Failed to force terminate transactionalId `{transactional_id}`");
            cluster.fence(transactional_id).map_err(failed(&what))?;
        }
    }
    Ok(())
}

/// Kafka's sentence around a reason.
fn failed(what: &str) -> impl Fn(String) -> String + '_ {
    move |why| format!("{what}: {why}.")
}
