//! `coreline produce`: lines of standard input to a topic.

use super::sender::{SendOptions, Sender, now_ms, send_lines, split_once};
use bytes::Bytes;
use clap::ValueEnum;
use coreline_bench::client::{Compression, NewRecord};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
/// A batch goes out when it holds so many bytes, when it has waited so long, or when the input ends.
const BATCH_BYTES: usize = 64 << 10;
const LINGER: Duration = Duration::from_millis(50);
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

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

/// Runs the command; the text says what was done.
///
/// # Errors
/// A message for the user.
pub fn run(args: &ProduceArgs) -> Result<String, String> {
    let headers = args.header.iter().map(|h| header(h)).collect::<Result<Vec<_>, _>>()?;
    let mut sender = Sender::open(&args.bootstrap_server, options(args))?;
    send_lines(&mut sender, LINGER, |sender, number, line| {
        let (partition, mut record) =
            parse(args, line).map_err(|what| format!("line {number} of standard input: {what}"))?;
        record.headers.splice(0..0, headers.iter().cloned());
        sender.add(partition, record)
    })?;
    Ok(format!("{} records sent to {}\n", sender.sent, args.topic))
}

fn options(args: &ProduceArgs) -> SendOptions {
    let compression = match args.compression {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    };
    let acks = match args.acks.as_str() {
        "0" => 0,
        "1" => 1,
        _ => -1,
    };
    SendOptions {
        topic: args.topic.clone(),
        partition: args.partition,
        compression,
        acks,
        batch_bytes: BATCH_BYTES,
        retries: 3,
        retry_backoff: RETRY_BACKOFF,
        timeout: TIMEOUT,
    }
}

fn header(text: &str) -> Result<(String, Option<bytes::Bytes>), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("--header {text}: expected NAME=VALUE"))?;
    Ok((name.to_owned(), Some(value.to_owned().into())))
}

fn parse(args: &ProduceArgs, line: &[u8]) -> Result<(Option<i32>, NewRecord), String> {
    match args.format {
        InputFormat::Json => parse_json(line),
        InputFormat::Text => {
            let (key, value) = match &args.key_separator {
                None => (None, line),
                Some(separator) => split_once(line, separator.as_bytes())
                    .map(|(k, v)| (Some(Bytes::copy_from_slice(k)), v))
                    .ok_or_else(|| format!("no key separator {separator:?}"))?,
            };
            let value = Some(Bytes::copy_from_slice(value));
            Ok((None, NewRecord { key, value, headers: Vec::new(), timestamp_ms: now_ms() }))
        }
    }
}

fn parse_json(line: &[u8]) -> Result<(Option<i32>, NewRecord), String> {
    let parsed: serde_json::Value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_become_records() {
        let line = r#"{"key":"k","value":{"a":1},"headers":{"h":"x","n":null},"partition":2,"timestamp":5}"#;
        let (partition, record) = parse_json(line.as_bytes()).expect("valid");
        assert_eq!(partition, Some(2));
        assert_eq!(record.value.as_deref(), Some(&br#"{"a":1}"#[..]));
        assert_eq!(record.headers, [("h".to_owned(), Some("x".into())), ("n".to_owned(), None)]);
        assert_eq!(record.timestamp_ms, 5);
        assert_eq!(parse_json(br#"{"value":null}"#).expect("valid").1.value, None);
        assert!(parse_json(br#"{"val":1}"#).expect_err("unknown field").contains("\"val\""));
        assert!(parse_json(b"[]").is_err());
    }
}
