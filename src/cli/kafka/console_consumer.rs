//! `kafka-console-consumer`: records of a topic to standard output; as a member of a group, or partitions as asked.

use super::{Done, TIMEOUT, connect};
use crate::cli::cluster::wait_for_leaders;
use crate::cli::group_admin::Groups;
use crate::cli::group_member::{GroupMember, Position, Standing};
use crate::cli::reader::{IsolationLevel, Reader, Start};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use coreline_bench::client::{Fetched, OffsetSpec, Record, TimestampType};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_millis(250);
/// How often a member of a group commits: Kafka's `auto.commit.interval.ms`.
const COMMIT: Duration = Duration::from_secs(5);
const FORMATTER_PROPERTIES: [&str; 14] = [
    "header.deserializer",
    "headers.separator",
    "key.deserializer",
    "key.separator",
    "line.separator",
    "null.literal",
    "print.epoch",
    "print.headers",
    "print.key",
    "print.offset",
    "print.partition",
    "print.timestamp",
    "print.value",
    "value.deserializer",
];

/// Write the records of a topic to standard output.
#[derive(Debug, Parser)]
#[command(name = "kafka-console-consumer", version)]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// The topic; the broker may create it.
    #[arg(long)]
    topic: String,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// earliest, latest, or an offset of the partition.
    #[arg(long, requires = "partition", conflicts_with = "from_beginning")]
    offset: Option<String>,
    /// As a member of this group: shares the partitions with its other members, begins where the group has committed.
    #[arg(long, conflicts_with_all = ["partition", "offset"])]
    group: Option<String>,
    /// From the first record there is, instead of the next that comes; with a group, where it has committed nothing.
    #[arg(long)]
    from_beginning: bool,
    /// Stop after so many records.
    #[arg(long)]
    max_messages: Option<u64>,
    /// Stop when no record came for so long.
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// Whether records of transactions that are not committed are read.
    #[arg(long, value_enum, default_value = "read_uncommitted")]
    isolation_level: IsolationLevel,
    /// Kafka's class name of the formatter; the default one or the one that writes nothing.
    #[arg(long, default_value = "org.apache.kafka.tools.consumer.DefaultMessageFormatter")]
    formatter: String,
    /// What is written, name=value: print.timestamp, print.partition, print.offset, print.epoch, print.headers,
    /// print.key, print.value, key.separator, line.separator, headers.separator, null.literal, key.deserializer,
    /// value.deserializer, header.deserializer. May be repeated.
    #[arg(long, alias = "property", value_name = "NAME=VALUE")]
    formatter_property: Vec<String>,
    /// Kafka's class name of the keys' deserializer.
    #[arg(long, value_name = "CLASS")]
    key_deserializer: Option<String>,
    /// Kafka's class name of the values' deserializer.
    #[arg(long, value_name = "CLASS")]
    value_deserializer: Option<String>,
}

pub(super) fn run(args: &Args) -> Done {
    let formatter = Formatter::new(args)?;
    let mut count = 0;
    let done = match &args.group {
        Some(group) => in_group(args, &formatter, group, &mut count),
        None => alone(args, &formatter, &mut count),
    };
    eprintln!("Processed a total of {count} messages");
    done
}

fn alone(args: &Args, formatter: &Formatter, count: &mut u64) -> Done {
    let start = start(args)?;
    let mut client = connect(&args.bootstrap_server)?;
    let (leaders, addresses) = wait_for_leaders(&mut client, &args.topic)?;
    let partitions: Vec<i32> = args.partition.into_iter().collect();
    let mut reader = Reader::open(&args.topic, &leaders, &addresses, &partitions, TIMEOUT)?;
    reader.isolate(args.isolation_level);
    reader.seek(start)?;
    consume(args, formatter, count, &mut |wait| reader.poll(wait), &mut |_| true)
}

/// As a member of a group, until there is enough, or a signal asks to stop.
fn in_group(args: &Args, formatter: &Formatter, group: &str, count: &mut u64) -> Done {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    coreline_shards::signals::on_terminate(move || asked.store(true, Ordering::Relaxed))
        .map_err(|e| format!("cannot wait for signals: {e}"))?;
    let mut client = connect(&args.bootstrap_server)?;
    let (leaders, addresses) = wait_for_leaders(&mut client, &args.topic)?;
    let server = client.address().to_owned();
    let mut member = GroupMember::new(Groups::connect(&server, TIMEOUT)?, group, &args.topic);
    let otherwise = if args.from_beginning { OffsetSpec::Earliest } else { OffsetSpec::Latest };
    let mut reader: Option<Reader> = None;
    let positions = std::cell::RefCell::new(BTreeMap::new());
    let mut last_commit = Instant::now();
    let mut joined = false;
    let mut poll = |wait: Duration| {
        if !joined {
            positions.borrow_mut().clear();
            let partitions = member.join()?;
            reader = None;
            if !partitions.is_empty() {
                let mut new = Reader::open(&args.topic, &leaders, &addresses, &partitions, TIMEOUT)?;
                new.isolate(args.isolation_level);
                new.seek_each(&member.committed()?, otherwise)?;
                reader = Some(new);
            }
            joined = true;
        }
        let mut standing = member.heartbeat()?;
        if last_commit.elapsed() >= COMMIT || standing == Standing::Rejoin {
            last_commit = Instant::now();
            if member.commit(&positions.borrow())? == Standing::Rejoin {
                standing = Standing::Rejoin;
            }
        }
        joined = standing == Standing::Member;
        match &mut reader {
            Some(reader) if joined => reader.poll(wait),
            _ => {
                if joined {
                    std::thread::sleep(wait);
                }
                Ok(Vec::new())
            }
        }
    };
    let done = consume(args, formatter, count, &mut poll, &mut |read| {
        if let Some((partition, position)) = read {
            positions.borrow_mut().insert(partition, position);
        }
        !stop.load(Ordering::Relaxed)
    });
    if joined {
        let committed = member.commit(&positions.borrow());
        member.leave()?;
        committed?;
    }
    done
}

fn start(args: &Args) -> Result<Start, String> {
    let wrong = |text: &str| {
        format!(
            "The provided offset value '{text}' is incorrect. Valid values are 'earliest', 'latest', or a non-negative long"
        )
    };
    match args.offset.as_deref() {
        None if args.from_beginning => Ok(Start::Spec(OffsetSpec::Earliest)),
        None | Some("latest") => Ok(Start::Spec(OffsetSpec::Latest)),
        Some("earliest") => Ok(Start::Spec(OffsetSpec::Earliest)),
        Some(text) => text.parse().ok().filter(|o| *o >= 0).map(Start::Offset).ok_or_else(|| wrong(text)),
    }
}

/// Writes what `poll` gives. `read` hears after each fetch, and with each partition to where it was read, and says whether to go on.
fn consume(
    args: &Args,
    formatter: &Formatter,
    count: &mut u64,
    poll: &mut dyn FnMut(Duration) -> Result<Vec<Fetched>, String>,
    read: &mut dyn FnMut(Option<(i32, Position)>) -> bool,
) -> Done {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let max = args.max_messages.unwrap_or(u64::MAX);
    let timeout = args.timeout_ms.map(Duration::from_millis);
    let mut last = Instant::now();
    while *count < max && read(None) {
        let left = timeout.map(|t| t.saturating_sub(last.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        for part in poll(WAIT.min(left.unwrap_or(WAIT)))? {
            let wanted = usize::try_from(max - *count).unwrap_or(usize::MAX);
            let next = if part.records.len() <= wanted { part.next_offset } else { None };
            for record in part.records.iter().take(wanted) {
                match formatter.write(&mut out, part.partition, record) {
                    Ok(()) => {}
                    // Whoever closed the pipe has read enough.
                    Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
                    Err(e) => {
                        return Err(format!("offset {} of {}-{}: {e}", record.offset, args.topic, part.partition));
                    }
                }
                *count += 1;
                last = Instant::now();
                let (next, leader_epoch) = (record.offset + 1, record.partition_leader_epoch);
                read(Some((part.partition, Position { next, leader_epoch })));
            }
            // Behind what there is no record of: markers, what compaction took.
            if let (Some(next), Some(last)) = (next, part.records.last()) {
                read(Some((part.partition, Position { next, leader_epoch: last.partition_leader_epoch })));
            }
        }
        if out.flush().is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Kafka's deserializers by the last part of their class name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
#[allow(clippy::enum_variant_names, reason = "Kafka's own names")]
enum Deserializer {
    ByteArrayDeserializer,
    StringDeserializer,
    BooleanDeserializer,
    ShortDeserializer,
    IntegerDeserializer,
    LongDeserializer,
    FloatDeserializer,
    DoubleDeserializer,
    #[value(name = "UUIDDeserializer")]
    UuidDeserializer,
}

impl Deserializer {
    fn parse(class: &str) -> Result<Self, String> {
        let name = class.strip_prefix("org.apache.kafka.common.serialization.").unwrap_or(class);
        Self::from_str(name, false).map_err(|_| {
            let known: Vec<String> = Self::value_variants()
                .iter()
                .filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned()))
                .collect();
            format!("deserializer {class} is not supported; these are: {}", known.join(", "))
        })
    }

    /// What Kafka's class and its `toString` make of the bytes.
    fn text(self, bytes: &Bytes) -> Result<Bytes, String> {
        fn fixed<const N: usize>(bytes: &Bytes) -> Result<[u8; N], String> {
            bytes[..]
                .try_into()
                .map_err(|_| format!("Size of data received by the deserializer is {}, not {N}", bytes.len()))
        }
        Ok(match self {
            Self::ByteArrayDeserializer => bytes.clone(),
            Self::StringDeserializer => String::from_utf8_lossy(bytes).into_owned().into(),
            Self::BooleanDeserializer => (fixed::<1>(bytes)?[0] == 1).to_string().into(),
            Self::ShortDeserializer => i16::from_be_bytes(fixed(bytes)?).to_string().into(),
            Self::IntegerDeserializer => i32::from_be_bytes(fixed(bytes)?).to_string().into(),
            Self::LongDeserializer => i64::from_be_bytes(fixed(bytes)?).to_string().into(),
            Self::FloatDeserializer => format!("{:?}", f32::from_be_bytes(fixed(bytes)?)).into(),
            Self::DoubleDeserializer => format!("{:?}", f64::from_be_bytes(fixed(bytes)?)).into(),
            Self::UuidDeserializer => String::from_utf8_lossy(bytes).into_owned().into(),
        })
    }
}

/// Kafka's `DefaultMessageFormatter`.
#[derive(Debug)]
struct Formatter {
    silent: bool,
    timestamp: bool,
    partition: bool,
    offset: bool,
    epoch: bool,
    headers: bool,
    key: bool,
    value: bool,
    key_separator: String,
    line_separator: String,
    headers_separator: String,
    null: String,
    key_as: Deserializer,
    value_as: Deserializer,
    header_as: Deserializer,
}

impl Formatter {
    fn new(args: &Args) -> Result<Self, String> {
        let silent = match args.formatter.rsplit('.').next().unwrap_or_default() {
            "DefaultMessageFormatter" => false,
            "NoOpMessageFormatter" => true,
            _ => {
                return Err(format!(
                    "formatter {} is not supported; these are: org.apache.kafka.tools.consumer.DefaultMessageFormatter, org.apache.kafka.tools.consumer.NoOpMessageFormatter",
                    args.formatter
                ));
            }
        };
        let mut given = BTreeMap::new();
        for setting in &args.formatter_property {
            // A separator may be a comma: these are never lists.
            let (name, value) = setting
                .split_once('=')
                .ok_or_else(|| format!("--formatter-property {setting}: expected name=value"))?;
            if !FORMATTER_PROPERTIES.contains(&name) {
                let known = FORMATTER_PROPERTIES.join(", ");
                return Err(format!("--formatter-property: {name} is not supported; these are: {known}"));
            }
            given.insert(name, value.to_owned());
        }
        let flag = |name: &str, default| given.get(name).map_or(default, |v| v.trim().eq_ignore_ascii_case("true"));
        let text = |name: &str, default: &str| given.get(name).cloned().unwrap_or_else(|| default.to_owned());
        let class = |name: &str, flag: Option<&String>| {
            let class = flag.or_else(|| given.get(name));
            class.map_or(Ok(Deserializer::ByteArrayDeserializer), |class| Deserializer::parse(class))
        };
        Ok(Self {
            silent,
            timestamp: flag("print.timestamp", false),
            partition: flag("print.partition", false),
            offset: flag("print.offset", false),
            epoch: flag("print.epoch", false),
            headers: flag("print.headers", false),
            key: flag("print.key", false),
            value: flag("print.value", true),
            key_separator: text("key.separator", "\t"),
            line_separator: text("line.separator", "\n"),
            headers_separator: text("headers.separator", ","),
            null: text("null.literal", "null"),
            key_as: class("key.deserializer", args.key_deserializer.as_ref())?,
            value_as: class("value.deserializer", args.value_deserializer.as_ref())?,
            header_as: class("header.deserializer", None)?,
        })
    }

    fn text(&self, as_: Deserializer, bytes: Option<&Bytes>) -> std::io::Result<Bytes> {
        let invalid = |e: String| std::io::Error::new(std::io::ErrorKind::InvalidData, e);
        bytes.map_or_else(|| Ok(Bytes::from(self.null.clone())), |bytes| as_.text(bytes).map_err(invalid))
    }

    fn write(&self, out: &mut impl Write, partition: i32, record: &Record) -> std::io::Result<()> {
        if self.silent {
            return Ok(());
        }
        let mut parts: Vec<Bytes> = Vec::with_capacity(7);
        if self.timestamp {
            let kind = match record.timestamp_type {
                TimestampType::Creation => "CreateTime",
                TimestampType::LogAppend => "LogAppendTime",
            };
            parts.push(format!("{kind}:{}", record.timestamp).into());
        }
        if self.partition {
            parts.push(format!("Partition:{partition}").into());
        }
        if self.offset {
            parts.push(format!("Offset:{}", record.offset).into());
        }
        if self.epoch {
            parts.push(format!("Epoch:{}", record.partition_leader_epoch).into());
        }
        if self.headers {
            parts.push(self.headers_text(record)?);
        }
        if self.key {
            parts.push(self.text(self.key_as, record.key.as_ref())?);
        }
        if self.value {
            parts.push(self.text(self.value_as, record.value.as_ref())?);
        }
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                out.write_all(self.key_separator.as_bytes())?;
            }
            out.write_all(part)?;
        }
        out.write_all(self.line_separator.as_bytes())
    }

    fn headers_text(&self, record: &Record) -> std::io::Result<Bytes> {
        if record.headers.is_empty() {
            return Ok(Bytes::from_static(b"NO_HEADERS"));
        }
        let mut text = Vec::new();
        for (name, value) in &record.headers {
            if !text.is_empty() {
                text.extend_from_slice(self.headers_separator.as_bytes());
            }
            text.extend_from_slice(name.as_bytes());
            text.push(b':');
            text.extend_from_slice(&self.text(self.header_as, value.as_ref())?);
        }
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        let line = format!("c --bootstrap-server b:1 --topic t {line}");
        Args::try_parse_from(line.split_whitespace()).expect("valid")
    }

    fn record() -> Record {
        Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 3,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: 7,
            sequence: -1,
            timestamp: 99,
            key: None,
            value: Some(Bytes::from_static(&[0, 0, 0, 5])),
            headers: [("h".into(), Some("x".into())), ("n".into(), None)].into_iter().collect(),
        }
    }

    fn written(line: &str) -> String {
        let mut out = Vec::new();
        Formatter::new(&args(line)).expect("valid").write(&mut out, 2, &record()).expect("to memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_record_is_written_as_kafka_writes_it() {
        let all = "print.timestamp print.partition print.offset print.epoch print.headers print.key";
        let flags: String = all.split(' ').map(|p| format!("--formatter-property {p}=true ")).collect();
        let line =
            written(&format!("{flags} --value-deserializer org.apache.kafka.common.serialization.IntegerDeserializer"));
        assert_eq!(line, "CreateTime:99\tPartition:2\tOffset:7\tEpoch:3\th:x,n:null\tnull\t5\n");
        let line = written(
            "--property print.key=true --property key.separator=, --property print.value=false --property null.literal=-",
        );
        assert_eq!(line, "-\n");
        assert_eq!(written("--formatter org.apache.kafka.tools.consumer.NoOpMessageFormatter"), "");
    }

    #[test]
    fn what_is_not_known_is_named() {
        let wrong = |line: &str| Formatter::new(&args(line)).expect_err("unknown");
        assert!(wrong("--property print.kee=true").contains("print.kee"));
        assert!(wrong("--formatter com.example.Mine").contains("com.example.Mine"));
        assert!(wrong("--key-deserializer Avro").contains("Avro"));
    }

    #[test]
    fn isolation_is_named_as_kafka_names_it() {
        assert_eq!(args("").isolation_level, IsolationLevel::ReadUncommitted);
        assert_eq!(args("--isolation-level read_committed").isolation_level, IsolationLevel::ReadCommitted);
        assert!(
            Args::try_parse_from("c --bootstrap-server b:1 --topic t --isolation-level committed".split(' ')).is_err()
        );
    }

    #[test]
    fn the_beginning_is_asked_for() {
        assert_eq!(start(&args("")), Ok(Start::Spec(OffsetSpec::Latest)));
        assert_eq!(start(&args("--from-beginning")), Ok(Start::Spec(OffsetSpec::Earliest)));
        assert_eq!(start(&args("--partition 0 --offset 12")), Ok(Start::Offset(12)));
        assert!(start(&args("--partition 0 --offset soon")).is_err());
    }
}
