//! `coreline produce`: lines of standard input to a topic.

use clap::ValueEnum;
use coreline_bench::client::{Client, Compression, NewRecord, partition_of_key};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::{Duration, SystemTime};

const TIMEOUT: Duration = Duration::from_secs(30);
/// A batch goes out when it holds so many bytes, or when the input ends.
const BATCH_BYTES: usize = 64 << 10;

/// How a line of input becomes a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// The line is the value (after the key, with --key-separator).
    Text,
    /// A JSON object: {"key": …, "value": …, "headers": {…}, "partition": n, "timestamp": ms}; null is a tombstone.
    Json,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// As they are.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Sends each line of standard input as a record.
#[derive(Debug, clap::Args)]
pub struct ProduceArgs {
    /// The topic; the broker may create it (auto.create.topics.enable).
    pub topic: String,
    /// The broker.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub bootstrap_server: String,
    /// Send to this partition; otherwise by key as Kafka's clients do, or batch by batch in turn.
    #[arg(long, short)]
    pub partition: Option<i32>,
    /// What stands between key and value on a line.
    #[arg(long, short, value_name = "TEXT")]
    pub key_separator: Option<String>,
    /// A header for every record; may be repeated.
    #[arg(long, short = 'H', value_name = "NAME=VALUE")]
    pub header: Vec<String>,
    /// The form of the input.
    #[arg(long, value_enum, default_value = "text")]
    pub format: InputFormat,
    /// How to compress.
    #[arg(long, short = 'z', value_enum, default_value = "none")]
    pub compression: Codec,
    /// Who must have the record before the answer: 0, 1 or all.
    #[arg(long, default_value = "all", value_parser = ["0", "1", "all", "-1"], allow_hyphen_values = true)]
    pub acks: String,
}

struct Producer<'a> {
    args: &'a ProduceArgs,
    topic_clients: BTreeMap<i32, Client>,
    leaders: Vec<i32>,
    addresses: BTreeMap<i32, String>,
    pending: BTreeMap<i32, (Vec<NewRecord>, usize)>,
    turn: i32,
    sent: u64,
}

/// Runs the command; the text says what was done.
///
/// # Errors
/// A message for the user.
pub fn run(args: &ProduceArgs) -> Result<String, String> {
    let headers = args.header.iter().map(|h| header(h)).collect::<Result<Vec<_>, _>>()?;
    let mut producer = Producer::open(args)?;
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(|e| format!("standard input: {e}"))?;
        let (partition, mut record) =
            parse(args, &line).map_err(|what| format!("line {} of standard input: {what}", number + 1))?;
        record.headers.splice(0..0, headers.iter().cloned());
        producer.add(partition, record)?;
    }
    producer.flush_all()?;
    Ok(format!("{} records sent to {}\n", producer.sent, args.topic))
}

fn header(text: &str) -> Result<(String, Option<bytes::Bytes>), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("--header {text}: expected NAME=VALUE"))?;
    Ok((name.to_owned(), Some(value.to_owned().into())))
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

fn parse(args: &ProduceArgs, line: &str) -> Result<(Option<i32>, NewRecord), String> {
    match args.format {
        InputFormat::Json => parse_json(line),
        InputFormat::Text => {
            let (key, value) = match &args.key_separator {
                None => (None, line),
                Some(separator) => line
                    .split_once(separator.as_str())
                    .map(|(k, v)| (Some(k.to_owned().into()), v))
                    .ok_or_else(|| format!("no key separator {separator:?}"))?,
            };
            let value = Some(value.to_owned().into());
            Ok((None, NewRecord { key, value, headers: Vec::new(), timestamp_ms: now_ms() }))
        }
    }
}

fn parse_json(line: &str) -> Result<(Option<i32>, NewRecord), String> {
    let parsed: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let object = parsed.as_object().ok_or("expected a JSON object")?;
    if let Some(stranger) =
        object.keys().find(|k| !["key", "value", "headers", "partition", "timestamp"].contains(&k.as_str()))
    {
        return Err(format!("unknown field {stranger:?}: expected key, value, headers, partition or timestamp"));
    }
    let bytes = |v: Option<&serde_json::Value>| match v {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(s)) => Some(s.clone().into()),
        Some(other) => Some(other.to_string().into()),
    };
    let number = |name: &str| match object.get(name) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(v) => v.as_i64().map(Some).ok_or_else(|| format!("{name} must be a whole number, not {v}")),
    };
    let headers = match object.get("headers") {
        None | Some(serde_json::Value::Null) => Vec::new(),
        Some(serde_json::Value::Object(map)) => map.iter().map(|(k, v)| (k.clone(), bytes(Some(v)))).collect(),
        Some(other) => return Err(format!("headers must be an object, not {other}")),
    };
    let partition = match number("partition")? {
        None => None,
        Some(p) => Some(i32::try_from(p).map_err(|_| format!("partition {p} is out of range"))?),
    };
    let (key, value) = (bytes(object.get("key")), bytes(object.get("value")));
    let timestamp_ms = number("timestamp")?.unwrap_or_else(now_ms);
    Ok((partition, NewRecord { key, value, headers, timestamp_ms }))
}

impl<'a> Producer<'a> {
    fn open(args: &'a ProduceArgs) -> Result<Self, String> {
        let mut client = Client::connect(&args.bootstrap_server, TIMEOUT).map_err(|e| e.to_string())?;
        let (leaders, addresses) = super::cluster::wait_for_leaders(&mut client, &args.topic)?;
        Ok(Self {
            args,
            topic_clients: BTreeMap::new(),
            leaders,
            addresses,
            pending: BTreeMap::new(),
            turn: 0,
            sent: 0,
        })
    }

    fn add(&mut self, partition: Option<i32>, record: NewRecord) -> Result<(), String> {
        let count = self.leaders.len();
        let partition = match (partition.or(self.args.partition), &record.key) {
            (Some(p), _) if usize::try_from(p).is_ok_and(|p| p < count) => p,
            (Some(p), _) => {
                return Err(format!("partition {p}: {} has partitions 0 to {}", self.args.topic, count - 1));
            }
            (None, Some(key)) => partition_of_key(key, count),
            (None, None) => self.turn,
        };
        let size = record.key.as_ref().map_or(0, |k| k.len()) + record.value.as_ref().map_or(0, |v| v.len()) + 32;
        let (records, bytes) = self.pending.entry(partition).or_default();
        records.push(record);
        *bytes += size;
        if *bytes >= BATCH_BYTES {
            self.flush(partition)?;
            self.turn = (self.turn + 1) % count as i32;
        }
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), String> {
        for partition in self.pending.keys().copied().collect::<Vec<_>>() {
            self.flush(partition)?;
        }
        Ok(())
    }

    fn flush(&mut self, partition: i32) -> Result<(), String> {
        let Some((records, _)) = self.pending.remove(&partition) else { return Ok(()) };
        let leader = self.leaders[partition as usize];
        let address = self.addresses.get(&leader).ok_or_else(|| format!("no address of node {leader}"))?;
        let client = match self.topic_clients.entry(leader) {
            std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::btree_map::Entry::Vacant(e) => {
                e.insert(Client::connect(address, TIMEOUT).map_err(|e| e.to_string())?)
            }
        };
        let codec = match self.args.compression {
            Codec::None => Compression::None,
            Codec::Gzip => Compression::Gzip,
            Codec::Snappy => Compression::Snappy,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
        };
        let acks = match self.args.acks.as_str() {
            "0" => 0,
            "1" => 1,
            _ => -1,
        };
        let topic = &self.args.topic;
        match client.produce(topic, partition, &records, codec, acks).map_err(|e| e.to_string())? {
            Ok(_) => self.sent += records.len() as u64,
            Err((code, message)) => {
                return Err(format!("{topic}-{partition}: {} {message}", super::cluster::error_name(code)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_become_records() {
        let line = r#"{"key":"k","value":{"a":1},"headers":{"h":"x","n":null},"partition":2,"timestamp":5}"#;
        let (partition, record) = parse_json(line).expect("valid");
        assert_eq!(partition, Some(2));
        assert_eq!(record.value.as_deref(), Some(&br#"{"a":1}"#[..]));
        assert_eq!(record.headers, [("h".to_owned(), Some("x".into())), ("n".to_owned(), None)]);
        assert_eq!(record.timestamp_ms, 5);
        assert_eq!(parse_json(r#"{"value":null}"#).expect("valid").1.value, None);
        assert!(parse_json(r#"{"val":1}"#).expect_err("unknown field").contains("\"val\""));
        assert!(parse_json("[]").is_err());
    }
}
