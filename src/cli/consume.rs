//! `coreline consume`: records of a topic to standard output. No group: partitions are read as asked.

use super::reader::{IsolationLevel, Reader, Start};
use clap::ValueEnum;
use coreline_bench::client::{Client, OffsetSpec, Record};
use std::io::Write;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_millis(500);

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
    /// Records of transactions that are not committed, too, or none of them.
    #[arg(long, value_enum, default_value = "read_uncommitted")]
    pub isolation_level: IsolationLevel,
    /// How to write records.
    #[arg(long, value_enum, default_value = "value")]
    pub format: OutputFormat,
    /// Write headers too (with the JSON format they always are).
    #[arg(long)]
    pub headers: bool,
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
    let addresses = cluster.nodes.iter().map(|n| (n.id, n.address.clone())).collect();
    let mut reader = Reader::open(&args.topic, &topic.leaders, &addresses, &args.partition, TIMEOUT)?;
    reader.isolate(args.isolation_level);
    reader.seek(start)?;
    consume(args, &mut reader)
}

fn consume(args: &ConsumeArgs, reader: &mut Reader) -> Result<String, String> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut left = args.max_messages.unwrap_or(u64::MAX);
    while left > 0 && !(args.exit && reader.at_end()) {
        for part in reader.poll(WAIT)? {
            for record in part.records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                write_record(&mut out, args, part.partition, record).map_err(|e| format!("standard output: {e}"))?;
                left -= 1;
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
