//! Writes logs to standard error: text for people, or one JSON object a line for machines.
//!
//! Standard output belongs to the audit records.

pub(crate) mod metrics;
pub(crate) mod repeated_failure;
pub(crate) mod warnings;

use std::{io::IsTerminal, sync::Arc};

use schemars::JsonSchema;
use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::telemetry::metrics::Metrics;

/// The lowest level that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Only what an operator must act on.
    Error,
    /// Also where the bastion is degraded and recovers by itself.
    Warn,
    /// Also changes of state, such as start, reload and shutdown.
    #[default]
    Info,
    /// Also each connection and each decision.
    Debug,
    /// Everything that the bastion's own code logs.
    Trace,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text; coloured on a terminal.
    #[default]
    Human,
    /// One JSON object a line, with the fields at the top level.
    Json,
}

/// Sends log lines, panics among them, to standard error.
pub(crate) fn start(level: Level, format: Format) {
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
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_span_list(false)
                    .with_writer(std::io::stderr)
                    .with_target(false),
            )
            .try_init(),
    };
    // Installing fails only where a test, or a program around this library, already has a subscriber.
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

/// Counts every panic, in any task. Each is a defect.
pub(crate) fn count_panics(metrics: Arc<Metrics>) {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        next(panic);
    }));
}

/// Logs our own crates at `level`, and libraries only from `warn`, at any level. The SSH library is silenced:
/// it repeats what peers sent, so any peer could write to the log, and the bastion logs what became of a peer
/// itself. The Kubernetes client is silenced too: it logs each failed request and any answer that it cannot
/// parse, Secrets among them, and the bastion logs what became of a watch itself.
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
