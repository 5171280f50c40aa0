//! Loads that other projects wrote: iperf3 and pgbench.

use std::{net::SocketAddr, time::Duration};

use harness::{
    process::{Program, installed},
    wait,
};
use serde_json::Value;

/// How long one run may take beyond its time, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which way the bytes go, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the target.
    Up,
    /// From the target.
    Down,
}

impl Direction {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// As the table has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What one run moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moved {
    /// Bytes that arrived.
    pub(crate) bytes: f64,
    /// In this time.
    pub(crate) seconds: f64,
}

impl Moved {
    /// MiB a second.
    pub(crate) fn rate(self) -> f64 {
        self.bytes / self.seconds / f64::from(1 << 20)
    }

    /// GiB.
    pub(crate) fn gib(self) -> f64 {
        self.bytes / f64::from(1 << 30)
    }
}

/// A run of iperf3 that goes on.
pub(crate) struct Iperf3(harness::process::Process);

impl Iperf3 {
    /// Starts one through a local port.
    pub(crate) fn start(address: SocketAddr, direction: Direction, streams: u32, time: Duration) -> Self {
        let mut words = vec!["--client".to_owned(), address.ip().to_string()];
        words.extend(["--port".to_owned(), address.port().to_string()]);
        words.extend(["--time".to_owned(), time.as_secs().to_string()]);
        words.extend(["--parallel".to_owned(), streams.to_string()]);
        words.extend(["--interval".to_owned(), "0".to_owned(), "--json".to_owned()]);
        if direction == Direction::Down {
            words.push("--reverse".to_owned());
        }
        Self(Program::new(installed("iperf3")).args(words).start())
    }

    /// Whether it still moves something.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.ended().is_none()
    }

    /// Waits for its end. `None` when it fails, or hangs.
    pub(crate) fn end(mut self, time: Duration) -> Option<Moved> {
        let deadline = std::time::Instant::now() + time + PATIENCE;
        wait::until_true("the end of iperf3", time + 2 * PATIENCE, || {
            !self.is_running() || std::time::Instant::now() > deadline
        });
        if self.is_running() {
            eprintln!("  iperf3 hangs");
            return None;
        }
        let moved = moved(&self.0.stdout());
        if moved.is_none() {
            eprintln!("  iperf3 failed: {}", first_error(&self.0.stdout()));
        }
        moved
    }
}

/// One run of iperf3.
pub(crate) fn iperf3(
    address: SocketAddr,
    direction: Direction,
    streams: u32,
    time: Duration,
) -> Option<Moved> {
    Iperf3::start(address, direction, streams, time).end(time)
}

/// What iperf3 says that its receiver got.
fn moved(text: &str) -> Option<Moved> {
    let report: Value = serde_json::from_str(text).ok()?;
    if report.get("error").is_some() {
        return None;
    }
    let received = report.pointer("/end/sum_received")?;
    let figure = |name: &str| received.get(name)?.as_f64().filter(|figure| *figure > 0.0);
    Some(Moved { bytes: figure("bytes")?, seconds: figure("seconds")? })
}

fn first_error(text: &str) -> String {
    let report: Option<Value> = serde_json::from_str(text).ok();
    let said = report.as_ref().and_then(|report| report.get("error")?.as_str());
    said.unwrap_or("it said nothing").escape_debug().to_string()
}

/// Transactions a second, as pgbench says.
pub(crate) fn transactions(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_counts_and_a_run_that_failed_does_not() {
        let report = |error: &str, bytes: u64| {
            format!(
                r#"{{{error}"end":{{"sum_sent":{{"bytes":9,"seconds":9}},"sum_received":{{"bytes":{bytes},"seconds":2.0}}}}}}"#
            )
        };
        let moved_some = moved(&report("", 2 << 30)).unwrap();
        assert_eq!((moved_some.gib(), moved_some.rate()), (2.0, 1024.0));
        assert_eq!(moved(&report(r#""error":"unable to connect","#, 2 << 30)), None);
        assert_eq!(moved(&report("", 0)), None);
        assert_eq!(moved(""), None);
    }

    #[test]
    fn transactions_are_read_from_either_kind_of_line() {
        let text = "latency average = 0.1 ms\ntps = 8123.456 (without initial connection time)\n";
        assert_eq!(transactions(text), Some(8123.456));
        assert_eq!(transactions("tps = 98.5 (including reconnection times)"), Some(98.5));
        assert_eq!(transactions("failed"), None);
    }
}
