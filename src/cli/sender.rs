//! Standard input to batches of a topic: what `coreline produce` and `kafka-console-producer` share.

use super::cluster::{error_name, wait_for_leaders};
use crate::error_code::ErrorCode;
use coreline_bench::client::{Client, Compression, NewRecord, partition_of_key};
use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

/// Lines that are read ahead of the broker.
const LINES_AHEAD: usize = 1024;
/// A record is no longer than this: a line without an end must not take all memory.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// How records are sent.
#[derive(Clone, Debug)]
pub(super) struct SendOptions {
    /// The topic; the broker may create it.
    pub topic: String,
    /// All records to this partition.
    pub partition: Option<i32>,
    /// Of each batch.
    pub compression: Compression,
    /// 0, 1 or -1.
    pub acks: i16,
    /// A batch goes out when it holds so many bytes.
    pub batch_bytes: usize,
    /// Times a batch is sent again when its leader has moved or is not there yet.
    pub retries: u32,
    /// Between two of them.
    pub retry_backoff: Duration,
    /// For the connection and for each answer.
    pub timeout: Duration,
}

/// Batches by partition, on their way to the leaders.
pub(super) struct Sender {
    options: SendOptions,
    bootstrap: Client,
    clients: BTreeMap<i32, Client>,
    leaders: Vec<i32>,
    addresses: BTreeMap<i32, String>,
    pending: BTreeMap<i32, (Vec<NewRecord>, usize)>,
    turn: i32,
    /// Records that were acknowledged (or sent, with acks 0).
    pub sent: u64,
}

/// Milliseconds since the epoch.
pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// True for what another try may mend.
fn is_passing(code: i16) -> bool {
    use ErrorCode::{LeaderNotAvailable, NotLeaderOrFollower, UnknownTopicOrPartition};
    [LeaderNotAvailable, NotLeaderOrFollower, UnknownTopicOrPartition].iter().any(|c| c.code() == code)
}

impl Sender {
    /// Connects and finds the topic's leaders.
    pub(super) fn open(bootstrap_server: &str, options: SendOptions) -> Result<Self, String> {
        let mut bootstrap = Client::connect(bootstrap_server, options.timeout).map_err(|e| e.to_string())?;
        let (leaders, addresses) = wait_for_leaders(&mut bootstrap, &options.topic)?;
        Ok(Self {
            options,
            bootstrap,
            clients: BTreeMap::new(),
            leaders,
            addresses,
            pending: BTreeMap::new(),
            turn: 0,
            sent: 0,
        })
    }

    /// Takes a record; sends its batch if that is full.
    pub(super) fn add(&mut self, partition: Option<i32>, record: NewRecord) -> Result<(), String> {
        let count = self.leaders.len();
        let partition = match (partition.or(self.options.partition), &record.key) {
            (Some(p), _) if usize::try_from(p).is_ok_and(|p| p < count) => p,
            (Some(p), _) => {
                return Err(format!("partition {p}: {} has partitions 0 to {}", self.options.topic, count - 1));
            }
            (None, Some(key)) => partition_of_key(key, count),
            (None, None) => self.turn,
        };
        let size = record.key.as_ref().map_or(0, bytes::Bytes::len) + record.value.as_ref().map_or(0, |v| v.len()) + 32;
        let (records, bytes) = self.pending.entry(partition).or_default();
        records.push(record);
        *bytes += size;
        if *bytes >= self.options.batch_bytes {
            self.flush(partition)?;
            self.turn = (self.turn + 1) % count as i32;
        }
        Ok(())
    }

    /// Sends what waits.
    pub(super) fn flush_all(&mut self) -> Result<(), String> {
        for partition in self.pending.keys().copied().collect::<Vec<_>>() {
            self.flush(partition)?;
        }
        Ok(())
    }

    fn flush(&mut self, partition: i32) -> Result<(), String> {
        let Some((records, _)) = self.pending.remove(&partition) else { return Ok(()) };
        let mut tries = 0;
        loop {
            match self.send(partition, &records)? {
                Ok(()) => break,
                Err((code, _)) if is_passing(code) && tries < self.options.retries => {
                    tries += 1;
                    std::thread::sleep(self.options.retry_backoff);
                    (self.leaders, self.addresses) = wait_for_leaders(&mut self.bootstrap, &self.options.topic)?;
                }
                Err((code, message)) => {
                    let said = format!("{}-{partition}: {} {message}", self.options.topic, error_name(code));
                    return Err(said.trim_end().to_owned());
                }
            }
        }
        self.sent += records.len() as u64;
        Ok(())
    }

    fn send(&mut self, partition: i32, records: &[NewRecord]) -> Result<Result<(), (i16, String)>, String> {
        let leader = self.leaders[partition as usize];
        let address = self.addresses.get(&leader).ok_or_else(|| format!("no address of node {leader}"))?;
        let client = match self.clients.entry(leader) {
            std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::btree_map::Entry::Vacant(e) => {
                e.insert(Client::connect(address, self.options.timeout).map_err(|e| e.to_string())?)
            }
        };
        let SendOptions { topic, compression, acks, .. } = &self.options;
        let answer = client.produce(topic, partition, records, *compression, *acks).map_err(|e| e.to_string())?;
        Ok(answer.map(drop))
    }
}

/// Reads standard input line by line (without the end of line) and gives each with its number, from 1, to `take`, which
/// turns it into records of `sender`. What waits is sent once its first record has waited for `linger`, and at the end.
pub(super) fn send_lines(
    sender: &mut Sender,
    linger: Duration,
    mut take: impl FnMut(&mut Sender, u64, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let (lines, received) = sync_channel(LINES_AHEAD);
    // A thread, because a read of standard input cannot be given a time: it ends with the process.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let end = !matches!(read, Ok(n) if n > 0);
            if lines.send(read.map(|_| line)).is_err() || end {
                return;
            }
        }
    });
    let (mut number, mut due) = (0, None::<Instant>);
    loop {
        let wait = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        match received.recv_timeout(wait) {
            Ok(Ok(line)) if line.is_empty() => break,
            Ok(Ok(line)) => {
                number += 1;
                take(sender, number, without_end(&line))?;
                due = if sender.pending.is_empty() { None } else { due.or(Some(Instant::now() + linger)) };
            }
            Ok(Err(cause)) => return Err(format!("standard input: {cause}")),
            Err(RecvTimeoutError::Timeout) => {
                sender.flush_all()?;
                due = None;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // Lines that never pause must not hold back a batch that is slow to fill.
        if due.is_some_and(|due| due <= Instant::now()) {
            sender.flush_all()?;
            due = None;
        }
    }
    sender.flush_all()
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The bytes before and after the first `separator`.
pub(super) fn split_once<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line.windows(separator.len().max(1)).position(|w| w == separator)?;
    Some((&line[..at], &line[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_loses_its_end_only() {
        assert_eq!(without_end(b"a b\r\n"), b"a b");
        assert_eq!(without_end(b"a\r"), b"a");
        assert_eq!(without_end(b" \n"), b" ");
    }

    #[test]
    fn the_first_separator_splits() {
        assert_eq!(split_once(b"k::v::w", b"::"), Some((&b"k"[..], &b"v::w"[..])));
        assert_eq!(split_once(b"kv", b":"), None);
        assert_eq!(split_once(b":v", b":"), Some((&b""[..], &b"v"[..])));
    }
}
