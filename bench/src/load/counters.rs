//! What the broker counted during a load: two scrapes of its metrics, and the difference. Only Coreline has these metrics.

use super::LoadError;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long a scrape may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The metrics of a broker at a time, summed up over its cores.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    requests: f64,
    received_bytes: f64,
    sent_bytes: f64,
    copied_in_bytes: f64,
    copied_out_bytes: f64,
    allocations: f64,
    system_calls: f64,
}

/// What a load cost, by the broker's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Costs {
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes copied in user space on the way in and to the disk, for each byte that was received.
    pub copied_per_received_byte: f64,
    /// Bytes copied in user space on the way out, for each byte that was sent.
    pub copied_per_sent_byte: f64,
    /// Allocations for each request.
    pub allocations_per_request: f64,
    /// System calls on sockets and operations on files for each request.
    pub system_calls_per_request: f64,
}

impl Counted {
    /// Asks the endpoint.
    pub(super) fn scrape(address: &str) -> Result<Self, LoadError> {
        let failed = |cause| LoadError::Connection { address: address.to_owned(), cause };
        let mut stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n").map_err(failed)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(failed)?;
        Self::parse(&answer)
            .ok_or_else(|| LoadError::Workload(format!("{address} answers with no metrics of Coreline's")))
    }

    fn parse(text: &str) -> Option<Self> {
        if !text.trim_end().ends_with("# EOF") {
            return None;
        }
        let of = |name: &str, label: &str| -> f64 {
            let fits = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            let lines = text.lines().filter(fits).filter(|line| line.contains(label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let copied = |place| of("coreline_copied_bytes_total", &format!("where=\"{place}\""));
        Some(Self {
            requests: of("kafka_network_requestmetrics_requests_total", ""),
            received_bytes: of("coreline_received_bytes_total", ""),
            sent_bytes: of("coreline_sent_bytes_total", ""),
            copied_in_bytes: copied("frame") + copied("chunk") + copied("write"),
            copied_out_bytes: copied("read"),
            allocations: of("coreline_allocations_total", ""),
            system_calls: of("coreline_system_calls_total", ""),
        })
    }

    /// What came between.
    pub(super) fn until(&self, later: &Self) -> Costs {
        let per = |amount: f64, of: f64| if of > 0.0 { amount / of } else { 0.0 };
        let requests = later.requests - self.requests;
        let received = later.received_bytes - self.received_bytes;
        let sent = later.sent_bytes - self.sent_bytes;
        Costs {
            requests: requests as u64,
            copied_per_received_byte: per(later.copied_in_bytes - self.copied_in_bytes, received),
            copied_per_sent_byte: per(later.copied_out_bytes - self.copied_out_bytes, sent),
            allocations_per_request: per(later.allocations - self.allocations, requests),
            system_calls_per_request: per(later.system_calls - self.system_calls, requests),
        }
    }
}

impl Costs {
    /// What must be so whatever the machine: on plaintext connections nothing is copied on the way out.
    ///
    /// # Errors
    /// What is not so.
    pub fn check(&self) -> Result<(), String> {
        if self.copied_per_sent_byte == 0.0 {
            return Ok(());
        }
        Err(format!(
            "FAILED: {} bytes were copied in user space for each byte sent; on plaintext connections it must be 0",
            self.copied_per_sent_byte
        ))
    }

    /// A line for a person.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "  broker, by its counters: {} requests; a request: {:.1} allocations, {:.2} system calls; copied in user space: \
             {:.3} bytes a byte received, {:.3} a byte sent\n",
            self.requests,
            self.allocations_per_request,
            self.system_calls_per_request,
            self.copied_per_received_byte,
            self.copied_per_sent_byte
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(sent: u64, copied_out: u64) -> String {
        format!(
            "# TYPE coreline_sent_bytes counter\ncoreline_sent_bytes_total{{shard=\"0\"}} {sent}\n\
             coreline_sent_bytes_total{{shard=\"1\"}} 50\ncoreline_sent_bytes_totally 7\n\
             coreline_received_bytes_total{{shard=\"0\"}} 200\n\
             kafka_network_requestmetrics_requests_total{{shard=\"0\",request=\"Fetch\"}} 10\n\
             coreline_copied_bytes_total{{shard=\"0\",where=\"write\"}} 300\n\
             coreline_copied_bytes_total{{shard=\"0\",where=\"read\"}} {copied_out}\n\
             coreline_allocations_total{{shard=\"0\"}} 45\ncoreline_system_calls_total{{shard=\"0\",call=\"recv\"}} 25\n# EOF\n"
        )
    }

    #[test]
    fn costs_are_what_came_between_two_scrapes() {
        let counted = Counted::parse(&page(150, 0)).expect("a page");
        let costs = Counted::default().until(&counted);
        let expected = Costs {
            requests: 10,
            copied_per_received_byte: 1.5,
            copied_per_sent_byte: 0.0,
            allocations_per_request: 4.5,
            system_calls_per_request: 2.5,
        };
        assert_eq!(costs, expected);
        assert_eq!(costs.check(), Ok(()));
        assert_eq!(counted.until(&counted), Costs::default(), "nothing happened");
    }

    #[test]
    fn a_copy_on_the_way_out_fails_the_report() {
        let before = Counted::parse(&page(150, 0)).expect("a page");
        let costs = before.until(&Counted::parse(&page(250, 20)).expect("a page"));
        assert_eq!(costs.copied_per_sent_byte, 0.2);
        assert!(costs.check().is_err_and(|why| why.starts_with("FAILED")));
    }

    #[test]
    fn a_page_that_is_cut_off_is_none() {
        assert!(Counted::parse("coreline_sent_bytes_total 5\n").is_none());
        assert!(Counted::parse("").is_none());
    }
}
