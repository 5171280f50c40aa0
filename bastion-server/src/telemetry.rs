//! Logs on standard error: for people, or one JSON object a line for machines.
//!
//! Standard output belongs to the audit records.

pub mod metrics;
pub mod warnings;

use std::{
    io::IsTerminal,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::telemetry::metrics::Metrics;

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What needs somebody.
    Error,
    /// What may soon.
    Warn,
    /// Starts, reloads, stops.
    #[default]
    Info,
    /// Each connection and each decision.
    Debug,
    /// Everything of ours.
    Trace,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For reading; coloured on a terminal.
    #[default]
    Human,
    /// One JSON object a line, fields at the top.
    Json,
}

/// Sends what is logged, panics among it, to standard error.
pub fn start(level: Level, format: Format) {
    let registry = tracing_subscriber::registry().with(EnvFilter::new(filter(level)));
    let installed = match format {
        Format::Human => registry
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_target(false),
            )
            .try_init(),
        Format::Json => registry
            .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_target(false))
            .try_init(),
    };
    // It fails only where a test, or a program around this library, already logs in its own way.
    if installed.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let payload = panic.payload();
            let message = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            tracing::error!(place, message = %message.escape_debug(), "panic");
        }));
    }
}

/// Counts every panic, whichever task it ends. They are all defects.
pub fn count_panics(metrics: Arc<Metrics>) {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        next(panic);
    }));
}

/// An error and its remedy on one line, as a log wants it; a terminal gets a line for each.
pub fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" | ")
}

/// [`one_line`], and what is behind it all, where the error does not say that itself: that something failed is not yet why.
pub fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let (line, mut last) = (one_line(&error), error);
    while let Some(source) = last.source() {
        last = source;
    }
    let cause = one_line(&last);
    if line.contains(&cause) { line } else { format!("{line}: {cause}") }
}

/// A moment as logs and audit records write it; one that is too far away to be written stands at the year 2106.
pub fn moment(time: SystemTime) -> String {
    let latest = UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX));
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, latest)).to_string()
}

/// Our own crates at `level`; the libraries only when they warn, whatever the level. The SSH library never, since what it says repeats what
/// peers sent, and any of them can make it say so: what becomes of a peer is ours to say. The Kubernetes client never, since it writes down
/// answers that it does not understand, Secrets among them, and each request that fails: what becomes of a watch is ours to say too.
fn filter(level: Level) -> String {
    let (libraries, ours) = match level {
        Level::Error => ("error", "error"),
        Level::Warn => ("warn", "warn"),
        Level::Info => ("warn", "info"),
        Level::Debug => ("warn", "debug"),
        Level::Trace => ("warn", "trace"),
    };
    format!(
        "{libraries},russh=off,kube_client=off,kube_runtime=off,bastion_server={ours},ssh_transport={ours},vault_signer={ours}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_in_whatever_thread() {
        let metrics = Arc::new(Metrics::new());
        count_panics(Arc::clone(&metrics));
        assert!(std::thread::spawn(|| panic!("met a defect")).join().is_err());
        let counted = metrics.render().lines().any(|line| {
            line.strip_prefix("bastion_panics_total ").is_some_and(|count| count.parse::<u64>().unwrap() > 0)
        });
        assert!(counted, "{}", metrics.render());
    }

    #[test]
    fn every_moment_can_be_written() {
        assert_eq!(moment(UNIX_EPOCH + Duration::from_millis(1500)), "1970-01-01T00:00:01.500Z");
        assert_eq!(moment(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
        assert_eq!(moment(UNIX_EPOCH + Duration::from_secs(1 << 60)), "2106-02-07T06:28:15.000Z");
    }

    #[test]
    fn no_level_lets_libraries_repeat_what_others_sent() {
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
            let filter = filter(level);
            for library in ["russh=off", "kube_client=off", "kube_runtime=off"] {
                assert!(filter.contains(library), "{filter}");
            }
            assert!(filter.parse::<EnvFilter>().is_ok(), "{filter}");
        }
    }
}
