//! What the machine and the broker do while a load runs: busy cores, the broker's CPU and memory, a few times a second.

use super::process;
use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One look.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Moment {
    /// Seconds since the load began.
    pub at_seconds: f64,
    /// How busy each core was since the look before, in percent: by whatever, the load generator too.
    pub cores: Vec<u8>,
    /// CPU of the broker since the look before, in percent of a core.
    pub broker_cpu_percent: Option<f64>,
    /// Resident memory of the broker, in bytes.
    pub broker_rss_bytes: Option<u64>,
}

const INTERVAL: Duration = Duration::from_millis(250);
/// Looks that are kept, at most; then every other one goes, and the interval doubles.
const MOMENTS_MAX: usize = 240;

/// A thread that looks until it is told to stop.
pub(super) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Moment>>,
}

impl Watch {
    pub(super) fn start(broker: Option<u32>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            let (mut moments, mut interval) = (Vec::new(), INTERVAL);
            let mut before = Look::now(broker);
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let look = Look::now(broker);
                moments.push(look.since(&before, begin));
                before = look;
                if moments.len() >= MOMENTS_MAX {
                    thin(&mut moments);
                    interval *= 2;
                }
            }
            moments
        });
        Self { stop, thread }
    }

    pub(super) fn stop(self) -> Vec<Moment> {
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

/// Two looks become one.
fn thin(moments: &mut Vec<Moment>) {
    let pairs = std::mem::take(moments);
    moments.extend(pairs.chunks_exact(2).map(|pair| {
        let mean = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| f64::midpoint(a, b));
        Moment {
            cores: pair[0].cores.iter().zip(&pair[1].cores).map(|(a, b)| u8::midpoint(*a, *b)).collect(),
            broker_cpu_percent: mean(pair[0].broker_cpu_percent, pair[1].broker_cpu_percent),
            ..pair[1].clone()
        }
    }));
}

struct Look {
    at: Instant,
    /// Of each core: busy and all ticks.
    cores: Vec<(u64, u64)>,
    broker: Option<process::Sample>,
}

impl Look {
    fn now(broker: Option<u32>) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self { at: Instant::now(), cores: cores(&stat), broker: broker.and_then(process::sample) }
    }

    fn since(&self, before: &Self, begin: Instant) -> Moment {
        let busy = |((busy, all), (busy_before, all_before)): (&(u64, u64), &(u64, u64))| {
            let all = all.saturating_sub(*all_before).max(1);
            (100 * busy.saturating_sub(*busy_before) / all).min(100) as u8
        };
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(1e-6);
        let broker = self.broker.zip(before.broker);
        Moment {
            at_seconds: self.at.duration_since(begin).as_secs_f64(),
            cores: self.cores.iter().zip(&before.cores).map(busy).collect(),
            broker_cpu_percent: broker.map(|(now, then)| 100.0 * (now.cpu_seconds - then.cpu_seconds) / seconds),
            broker_rss_bytes: self.broker.map(|sample| sample.rss_bytes),
        }
    }
}

/// Busy and all ticks of each core, of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
fn cores(stat: &str) -> Vec<(u64, u64)> {
    let lines = stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu "));
    lines
        .map(|line| {
            let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
            let all: u64 = ticks.iter().sum();
            (all - ticks.iter().skip(3).take(2).sum::<u64>(), all)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 1 5 80 4 0 0 0 0 0\ncpu1 1 0 1 8 0 1 1 0 0 0\nintr 5\n";
        assert_eq!(cores(stat), [(16, 100), (4, 12)]);
        assert_eq!(cores("cpu0 x\n"), [(0, 0)]);
    }

    #[test]
    fn thinning_keeps_the_mean_and_the_end() {
        let moment = |at, core, cpu| Moment {
            at_seconds: at,
            cores: vec![core],
            broker_cpu_percent: Some(cpu),
            broker_rss_bytes: Some(at as u64),
        };
        let mut moments = vec![moment(1.0, 10, 50.0), moment(2.0, 30, 70.0)];
        thin(&mut moments);
        assert_eq!(moments, [moment(2.0, 20, 60.0)]);
    }
}
