//! `coreline consume`: records of a topic to standard output. No group: partitions are read as asked.

use clap::ValueEnum;
use coreline_bench::client::{Client, OffsetSpec, Record};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_millis(500);
const OFFSET_OUT_OF_RANGE: i16 = 1;

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// The value, a line each.
    Value,
    /// Key, tab, value.
    KeyValue,
    /// A JSON object a line; bytes that are no UTF-8 as {"hex": "…"}.
    Json,
}

/// Writes the records of a topic.
#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    /// The topic.
    pub topic: String,
    /// The broker.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub bootstrap_server: String,
    /// Only these partitions; may be repeated.
    #[arg(long, short)]
    pub partition: Vec<i32>,
    /// Where to begin: beginning, end, an offset, -N for the last N of each partition, or @MS for a time in
    /// milliseconds since the epoch.
    #[arg(long, short, default_value = "beginning", allow_hyphen_values = true)]
    pub offset: String,
    /// Stop after so many records.
    #[arg(long, short = 'n')]
    pub max_messages: Option<u64>,
    /// Stop at the end of the partitions instead of waiting for more.
    #[arg(long, short)]
    pub exit: bool,
    /// How to write records.
    #[arg(long, value_enum, default_value = "value")]
    pub format: OutputFormat,
    /// Write headers too (with the JSON format they always are).
    #[arg(long)]
    pub headers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Spec(OffsetSpec),
    Offset(i64),
    Last(i64),
}

fn parse_start(text: &str) -> Result<Start, String> {
    let wrong = || format!("--offset {text}: expected beginning, end, a number, -N or @milliseconds");
    match text {
        "beginning" | "earliest" => return Ok(Start::Spec(OffsetSpec::Earliest)),
        "end" | "latest" => return Ok(Start::Spec(OffsetSpec::Latest)),
        _ => {}
    }
    if let Some(ms) = text.strip_prefix('@') {
        return ms.parse().ok().filter(|ms| *ms >= 0).map(|ms| Start::Spec(OffsetSpec::At(ms))).ok_or_else(wrong);
    }
    let number: i64 = text.parse().map_err(|_| wrong())?;
    Ok(if number < 0 { Start::Last(-number) } else { Start::Offset(number) })
}

/// Runs the command; the text is what remains to be said.
///
/// # Errors
/// A message for the user.
pub fn run(args: &ConsumeArgs) -> Result<String, String> {
    let start = parse_start(&args.offset)?;
    let mut client = Client::connect(&args.bootstrap_server, TIMEOUT).map_err(|e| e.to_string())?;
    let cluster = client.metadata(Some(&[&args.topic])).map_err(|e| e.to_string())?;
    let topic = cluster.topics.get(&args.topic).ok_or_else(|| format!("{}: no such topic", args.topic))?;
    if topic.error_code != 0 {
        return Err(format!("{}: {}", args.topic, super::cluster::error_name(topic.error_code)));
    }
    let count = i32::try_from(topic.leaders.len()).unwrap_or(i32::MAX);
    let partitions: Vec<i32> = if args.partition.is_empty() { (0..count).collect() } else { args.partition.clone() };
    if let Some(p) = partitions.iter().find(|p| **p < 0 || **p >= count) {
        return Err(format!("partition {p}: {} has partitions 0 to {}", args.topic, count - 1));
    }
    let mut readers: BTreeMap<i32, Reader> = BTreeMap::new();
    for partition in partitions {
        let leader = topic.leaders[partition as usize];
        let address = cluster.address_of(leader).ok_or_else(|| format!("{}-{partition} has no leader", args.topic))?;
        let reader = match readers.entry(leader) {
            std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::btree_map::Entry::Vacant(e) => {
                let client = Client::connect(address, TIMEOUT).map_err(|e| e.to_string())?;
                e.insert(Reader { client, offsets: BTreeMap::new(), ends: BTreeMap::new() })
            }
        };
        reader.offsets.insert(partition, 0);
    }
    for reader in readers.values_mut() {
        reader.seek(args, start)?;
    }
    consume(args, &mut readers)
}

struct Reader {
    client: Client,
    offsets: BTreeMap<i32, i64>,
    ends: BTreeMap<i32, i64>,
}

impl Reader {
    fn ask(&mut self, args: &ConsumeArgs, spec: OffsetSpec) -> Result<BTreeMap<i32, i64>, String> {
        let partitions: Vec<i32> = self.offsets.keys().copied().collect();
        let answer = self.client.offsets(&args.topic, &partitions, spec).map_err(|e| e.to_string())?;
        let named = |(p, offset): (i32, Result<i64, i16>)| {
            offset.map(|o| (p, o)).map_err(|code| format!("{}-{p}: {}", args.topic, super::cluster::error_name(code)))
        };
        answer.into_iter().map(named).collect()
    }

    fn seek(&mut self, args: &ConsumeArgs, start: Start) -> Result<(), String> {
        self.ends = self.ask(args, OffsetSpec::Latest)?;
        self.offsets = match start {
            Start::Offset(offset) => self.offsets.keys().map(|p| (*p, offset)).collect(),
            Start::Spec(spec) => {
                let mut found = self.ask(args, spec)?;
                // No record that late: the end.
                for (p, offset) in &mut found {
                    if *offset < 0 {
                        *offset = self.ends.get(p).copied().unwrap_or(0);
                    }
                }
                found
            }
            Start::Last(count) => {
                let first = self.ask(args, OffsetSpec::Earliest)?;
                let begin = |p: &i32, end: &i64| (end - count).max(first.get(p).copied().unwrap_or(0));
                self.ends.iter().map(|(p, end)| (*p, begin(p, end))).collect()
            }
        };
        Ok(())
    }

    fn at_end(&self) -> bool {
        self.offsets.iter().all(|(p, offset)| self.ends.get(p).is_none_or(|end| offset >= end))
    }
}

fn consume(args: &ConsumeArgs, readers: &mut BTreeMap<i32, Reader>) -> Result<String, String> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut left = args.max_messages.unwrap_or(u64::MAX);
    while left > 0 && !(args.exit && readers.values().all(Reader::at_end)) {
        for reader in readers.values_mut() {
            let fetched = reader.client.fetch(&args.topic, &reader.offsets, WAIT).map_err(|e| e.to_string())?;
            for part in fetched {
                let name = format!("{}-{}", args.topic, part.partition);
                match part.error_code {
                    0 => {}
                    OFFSET_OUT_OF_RANGE => {
                        let at = reader.offsets.get(&part.partition).copied().unwrap_or(0);
                        return Err(format!("{name}: offset {at} is out of range (OFFSET_OUT_OF_RANGE)"));
                    }
                    code => return Err(format!("{name}: {}", super::cluster::error_name(code))),
                }
                for record in part.records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                    write_record(&mut out, args, part.partition, record)
                        .map_err(|e| format!("standard output: {e}"))?;
                    left -= 1;
                }
                if let Some(next) = part.next_offset {
                    reader.offsets.insert(part.partition, next);
                }
            }
        }
        out.flush().map_err(|e| format!("standard output: {e}"))?;
    }
    Ok(String::new())
}

fn write_record(out: &mut impl Write, args: &ConsumeArgs, partition: i32, record: &Record) -> std::io::Result<()> {
    let raw = |b: &Option<bytes::Bytes>| b.clone().unwrap_or_default();
    if args.format == OutputFormat::Json {
        return writeln!(out, "{}", json(partition, record));
    }
    if args.headers {
        for (name, value) in &record.headers {
            write!(out, "{}={}\t", name.as_str(), String::from_utf8_lossy(&raw(value)))?;
        }
    }
    if args.format == OutputFormat::KeyValue {
        out.write_all(&raw(&record.key))?;
        out.write_all(b"\t")?;
    }
    out.write_all(&raw(&record.value))?;
    out.write_all(b"\n")
}

fn json(partition: i32, record: &Record) -> serde_json::Value {
    let text = |bytes: &Option<bytes::Bytes>| match bytes {
        None => serde_json::Value::Null,
        Some(b) => match std::str::from_utf8(b) {
            Ok(text) => text.into(),
            Err(_) => serde_json::json!({ "hex": b.iter().map(|b| format!("{b:02x}")).collect::<String>() }),
        },
    };
    let headers: serde_json::Map<_, _> = record.headers.iter().map(|(k, v)| (k.to_string(), text(v))).collect();
    serde_json::json!({
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": text(&record.key),
        "value": text(&record.value),
        "headers": headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read() {
        assert_eq!(parse_start("beginning"), Ok(Start::Spec(OffsetSpec::Earliest)));
        assert_eq!(parse_start("17"), Ok(Start::Offset(17)));
        assert_eq!(parse_start("-3"), Ok(Start::Last(3)));
        assert_eq!(parse_start("@1700000000000"), Ok(Start::Spec(OffsetSpec::At(1_700_000_000_000))));
        assert!(parse_start("@x").is_err());
        assert!(parse_start("soon").expect_err("no number").contains("soon"));
    }
}
