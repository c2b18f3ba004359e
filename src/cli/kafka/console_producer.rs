//! `kafka-console-producer`: lines of standard input to a topic.

use super::{Done, TIMEOUT, properties};
use crate::cli::sender::{SendOptions, Sender, now_ms, send_lines, split_once};
use bytes::Bytes;
use clap::Parser;
use coreline_bench::client::{Compression, NewRecord};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

const CLIENT_PROPERTIES: [&str; 6] =
    ["acks", "batch.size", "compression.type", "linger.ms", "retries", "retry.backoff.ms"];
const READER_PROPERTIES: [&str; 8] = [
    "headers.delimiter",
    "headers.key.separator",
    "headers.separator",
    "ignore.error",
    "key.separator",
    "null.marker",
    "parse.headers",
    "parse.key",
];

/// Send lines of standard input to a topic.
#[derive(Debug, Parser)]
#[command(name = "kafka-console-producer", version)]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// The topic; the broker may create it.
    #[arg(long)]
    topic: String,
    /// Send each line by itself, and wait for its answer.
    #[arg(long)]
    sync: bool,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, num_args = 0..=1, default_missing_value = "gzip", value_name = "CODEC")]
    compression_codec: Option<String>,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 16 << 10)]
    batch_size: usize,
    /// Times that a batch is sent again when its leader has moved.
    #[arg(long, default_value_t = 3)]
    message_send_max_retries: u32,
    /// Between two of them.
    #[arg(long, default_value_t = 100)]
    retry_backoff_ms: u64,
    /// 0, 1 or all (-1).
    #[arg(long, default_value = "-1", allow_hyphen_values = true)]
    request_required_acks: String,
    /// Milliseconds that a line waits for others to share its batch.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    timeout: u64,
    /// How lines are read, name=value: parse.key, key.separator, parse.headers, headers.delimiter, headers.separator,
    /// headers.key.separator, ignore.error, null.marker. May be repeated.
    #[arg(long, alias = "property", value_name = "NAME=VALUE")]
    reader_property: Vec<String>,
    /// Producer settings, name=value: acks, batch.size, compression.type, linger.ms, retries, retry.backoff.ms.
    #[arg(long, alias = "producer-property", value_name = "NAME=VALUE")]
    command_property: Vec<String>,
}

pub(super) fn run(args: &Args) -> Done {
    let lines = LineReader::new(&args.reader_property)?;
    let (options, linger) = options(args)?;
    let mut sender = Sender::open(&args.bootstrap_server, options)?;
    let prompt = std::io::stdin().is_terminal();
    let ask = || {
        if prompt {
            print!(">");
            let _ = std::io::stdout().flush();
        }
    };
    ask();
    send_lines(&mut sender, linger, |sender, number, line| {
        sender.add(None, lines.record(number, line)?)?;
        if args.sync {
            sender.flush_all()?;
        }
        ask();
        Ok(())
    })
}

fn codec(name: &str) -> Result<Compression, String> {
    Ok(match name {
        "none" => Compression::None,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        other => return Err(format!("Unknown compression name: {other}; these are: none, gzip, snappy, lz4, zstd")),
    })
}

fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "0" => Ok(0),
        "1" => Ok(1),
        other => Err(format!("Invalid value {other} for configuration acks: String must be one of: all, -1, 0, 1")),
    }
}

/// Properties go before flags, as in Kafka's tool.
fn options(args: &Args) -> Result<(SendOptions, Duration), String> {
    let given = properties("--command-property", &args.command_property, &CLIENT_PROPERTIES)?;
    let number = |name: &str, flag: u64| match given.get(name) {
        None => Ok(flag),
        Some(value) => value
            .parse::<u64>()
            .map_err(|_| format!("Invalid value {value} for configuration {name}: a number is expected")),
    };
    let compression = given.get("compression.type").or(args.compression_codec.as_ref());
    let options = SendOptions {
        topic: args.topic.clone(),
        partition: None,
        compression: compression.map_or(Ok(Compression::None), |name| codec(name))?,
        acks: acks(given.get("acks").unwrap_or(&args.request_required_acks))?,
        batch_bytes: usize::try_from(number("batch.size", args.batch_size as u64)?).unwrap_or(usize::MAX),
        retries: u32::try_from(number("retries", args.message_send_max_retries.into())?).unwrap_or(u32::MAX),
        retry_backoff: Duration::from_millis(number("retry.backoff.ms", args.retry_backoff_ms)?),
        timeout: TIMEOUT,
    };
    Ok((options, Duration::from_millis(number("linger.ms", args.timeout)?)))
}

/// Kafka's line reader: `[headers<TAB>][key<TAB>]value`.
#[derive(Debug)]
struct LineReader {
    parse_key: bool,
    parse_headers: bool,
    ignore_error: bool,
    key_separator: String,
    headers_delimiter: String,
    headers_separator: String,
    headers_key_separator: String,
    null_marker: Option<String>,
}

impl LineReader {
    fn new(settings: &[String]) -> Result<Self, String> {
        // A separator may be a comma: these are never lists.
        let mut given = BTreeMap::new();
        for setting in settings {
            let (name, value) =
                setting.split_once('=').ok_or_else(|| format!("--reader-property {setting}: expected name=value"))?;
            if !READER_PROPERTIES.contains(&name) {
                let known = READER_PROPERTIES.join(", ");
                return Err(format!("--reader-property: {name} is not supported; these are: {known}"));
            }
            given.insert(name, value);
        }
        let flag = |name: &str| given.get(name).is_some_and(|v| v.trim().eq_ignore_ascii_case("true"));
        let text = |name: &str, default: &str| given.get(name).map_or(default, |v| *v).to_owned();
        let lines = Self {
            parse_key: flag("parse.key"),
            parse_headers: flag("parse.headers"),
            ignore_error: flag("ignore.error"),
            key_separator: text("key.separator", "\t"),
            headers_delimiter: text("headers.delimiter", "\t"),
            headers_separator: text("headers.separator", ","),
            headers_key_separator: text("headers.key.separator", ":"),
            null_marker: given.get("null.marker").map(|v| (*v).to_owned()),
        };
        let pairs = [
            ("headers.delimiter", "headers.separator", lines.headers_delimiter == lines.headers_separator),
            ("headers.delimiter", "headers.key.separator", lines.headers_delimiter == lines.headers_key_separator),
            ("headers.separator", "headers.key.separator", lines.headers_separator == lines.headers_key_separator),
        ];
        match pairs.iter().find(|(_, _, same)| *same) {
            Some((a, b, _)) => Err(format!("{a} and {b} may not be equal")),
            None => Ok(lines),
        }
    }

    fn bytes(&self, part: &[u8]) -> Option<Bytes> {
        let null = self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == part);
        (!null).then(|| Bytes::copy_from_slice(part))
    }

    /// The part before `separator` and the rest; no part at all in a line without it, if errors are ignored.
    fn part<'a>(
        &self,
        rest: &'a [u8],
        separator: &str,
        missing: impl Fn() -> String,
    ) -> Result<(Option<&'a [u8]>, &'a [u8]), String> {
        match split_once(rest, separator.as_bytes()) {
            Some((part, rest)) => Ok((Some(part), rest)),
            None if self.ignore_error => Ok((None, rest)),
            None => Err(missing()),
        }
    }

    fn record(&self, number: u64, line: &[u8]) -> Result<NewRecord, String> {
        let shown = || String::from_utf8_lossy(line).into_owned();
        let (mut headers, mut key, mut rest) = (Vec::new(), None, line);
        if self.parse_headers {
            let missing = || format!("No header delimiter found on line number {number}: '{}'", shown());
            let part;
            (part, rest) = self.part(rest, &self.headers_delimiter, missing)?;
            headers = self.headers(number, part.unwrap_or_default())?;
        }
        if self.parse_key {
            let missing = || format!("No key separator found on line number {number}: '{}'", shown());
            let part;
            (part, rest) = self.part(rest, &self.key_separator, missing)?;
            key = part.and_then(|part| self.bytes(part));
        }
        Ok(NewRecord { key, value: self.bytes(rest), headers, timestamp_ms: now_ms() })
    }

    fn headers(&self, number: u64, text: &[u8]) -> Result<Vec<(String, Option<Bytes>)>, String> {
        let text = String::from_utf8_lossy(text);
        let mut found = Vec::new();
        for pair in text.split(self.headers_separator.as_str()).filter(|pair| !pair.is_empty()) {
            match pair.split_once(self.headers_key_separator.as_str()) {
                Some((name, _)) if self.null_marker.as_deref() == Some(name) => {
                    return Err(format!(
                        "Header keys should not be equal to the null marker '{name}' as they can't be null"
                    ));
                }
                Some((name, value)) => found.push((name.to_owned(), self.bytes(value.as_bytes()))),
                None if self.ignore_error => found.push((pair.to_owned(), None)),
                None => return Err(format!("No header key separator found in pair '{pair}' on line number {number}")),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(settings: &[&str]) -> LineReader {
        LineReader::new(&settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).expect("valid")
    }

    #[test]
    fn headers_key_and_value_are_taken_apart() {
        let lines = reader(&["parse.key=true", "parse.headers=true", "null.marker=NULL"]);
        let record = lines.record(1, b"a:1,b:NULL\tk\tNULL").expect("valid");
        assert_eq!(record.headers, [("a".to_owned(), Some("1".into())), ("b".to_owned(), None)]);
        assert_eq!((record.key.as_deref(), record.value), (Some(&b"k"[..]), None));
        let error = lines.record(7, b"a:1").expect_err("no delimiter");
        assert_eq!(error, "No header delimiter found on line number 7: 'a:1'");
    }

    #[test]
    fn a_line_without_a_key_is_an_error_unless_ignored() {
        let error = reader(&["parse.key=true"]).record(1, b"nokey").expect_err("no separator");
        assert_eq!(error, "No key separator found on line number 1: 'nokey'");
        let record = reader(&["parse.key=true", "ignore.error=true"]).record(1, b"nokey").expect("ignored");
        assert_eq!((record.key, record.value.as_deref()), (None, Some(&b"nokey"[..])));
    }

    #[test]
    fn separators_are_taken_as_they_are_and_must_differ() {
        let record = reader(&["parse.key=true", "key.separator=,"]).record(1, b"k,v").expect("valid");
        assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
        assert!(LineReader::new(&["headers.separator=:".to_owned()]).is_err());
        assert!(LineReader::new(&["parse.keys=true".to_owned()]).expect_err("unknown").contains("parse.keys"));
    }

    #[test]
    fn properties_go_before_flags() {
        let line =
            "p --bootstrap-server b:1 --topic t --compression-codec --command-property acks=1,compression.type=lz4";
        let args = Args::try_parse_from(line.split(' ')).expect("valid");
        let (options, linger) = options(&args).expect("valid");
        assert_eq!((options.acks, linger.as_millis()), (1, 1000));
        assert!(matches!(options.compression, Compression::Lz4));
    }
}
