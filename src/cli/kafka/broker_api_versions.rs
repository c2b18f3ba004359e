//! `kafka-broker-api-versions`: which APIs each broker serves, and in which version this client would use them.

use super::{Done, connect, print, said};
use clap::Parser;
use kafka_protocol::messages::{ApiKey, DescribeClusterRequest};
use std::fmt::Write as _;

/// Say which APIs and versions the brokers serve.
#[derive(Debug, Parser)]
#[command(name = "kafka-broker-api-versions", version)]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
}

pub(super) fn run(args: &Args) -> Done {
    let mut client = connect(&args.bootstrap_server)?;
    let mut brokers = client.call(&DescribeClusterRequest::default()).map_err(said)?.brokers;
    brokers.sort_by_key(|b| b.broker_id.0);
    for broker in brokers {
        let address = format!("{}:{}", broker.host.as_str(), broker.port);
        let served = connect(&address)?.served();
        let rack = broker.rack.as_ref().map_or_else(|| "null".to_owned(), ToString::to_string);
        let (id, fenced) = (broker.broker_id.0, broker.is_fenced);
        let mut out = format!("{address} (id: {id} rack: {rack} isFenced: {fenced}) -> (\n");
        let lines: Vec<String> = served.into_iter().map(|(key, min, max)| line(key, min, max)).collect();
        let _ = writeln!(out, "{}\n)", lines.join(",\n"));
        print(&out);
    }
    Ok(())
}

fn line(key: i16, min: i16, max: i16) -> String {
    let range = if min == max { min.to_string() } else { format!("{min} to {max}") };
    let Ok(api) = ApiKey::try_from(key) else {
        return format!("\tUNKNOWN({key}): {range} [unusable: node too new]");
    };
    let ours = api.valid_versions();
    let usable = max.min(ours.max);
    let verdict = if usable < min {
        "[unusable: node too new]".to_owned()
    } else if usable < ours.min {
        "[unusable: node too old]".to_owned()
    } else {
        format!("[usable: {usable}]")
    };
    format!("\t{api:?}({key}): {range} {verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_kafkas() {
        assert_eq!(line(3, 0, 13), "\tMetadata(3): 0 to 13 [usable: 13]");
        assert_eq!(line(61, 0, 0), "\tDescribeProducers(61): 0 [usable: 0]");
        assert_eq!(line(3, 100, 101), "\tMetadata(3): 100 to 101 [unusable: node too new]");
        assert_eq!(line(9999, 0, 1), "\tUNKNOWN(9999): 0 to 1 [unusable: node too new]");
    }
}
