//! Counts events under the metric names that dashboards and alerts rely on.
//!
//! Labels are codes of our own enums, hence `&'static str`, or values from the configuration. Text that peers
//! chose never becomes a label, so a peer cannot grow the number of series.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

/// The `Content-Type` of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resumption {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Upstreams {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flow {
    direction: &'static str,
}

/// The labels of a watch on the cluster, in words of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WatchLabels {
    /// The kind of object.
    pub resource: &'static str,
    /// The namespace; empty for all namespaces.
    pub namespace: String,
    /// The object's name; empty for all objects.
    pub name: String,
}

/// A moment in seconds since 1970, absent until it is set: an alert must not take "never" for 1970.
#[derive(Clone, Debug, Default)]
pub struct Moment(Arc<AtomicI64>);

impl Moment {
    pub fn set(&self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.0.store(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The moment in seconds since 1970; 0 if it was never set.
    pub fn seconds(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl TypedMetric for Moment {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for Moment {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            seconds => encoder.encode_gauge(&seconds),
        }
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// The direction of forwarded bytes, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target.
    Sent,
    /// From the target to the client.
    Received,
}

/// All counters and gauges of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sessions_active: Gauge,
    sessions_ended: Family<Reason, Counter>,
    channels_active: Gauge,
    bytes: Family<Flow, Counter>,
    auth: Family<Outcome, Counter>,
    forward: Family<Outcome, Counter>,
    evictions: Family<Reason, Counter>,
    stream_resumptions: Family<Resumption, Counter>,
    ca_keys: Gauge,
    ca_refresh_timestamp: Moment,
    ca_refresh_failures: Counter,
    revocation_entries: Gauge,
    revocation_refresh_timestamp: Moment,
    revocation_refresh_failures: Counter,
    host_cert_expiry_timestamp: Moment,
    host_cert_renewal_failures: Counter,
    config_reloads: Family<Outcome, Counter>,
    ready: Gauge,
    draining: Gauge,
    connections_refused: Family<Reason, Counter>,
    accept_errors: Counter,
    audit_lost: Counter,
    fence: Family<Upstreams, Gauge>,
    policies: Family<Outcome, Gauge>,
    endpoints: Gauge,
    watch_contact_timestamp: Family<WatchLabels, Moment>,
    watch_failures: Family<WatchLabels, Counter>,
    panics: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Every metric at zero; a metric that holds a moment is absent until it is set.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("bastion");
        macro_rules! metric {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                registry.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        let metrics = Self {
            sessions_active: metric!("sessions_active", "SSH sessions that are logged in"),
            sessions_ended: metric!(
                "sessions_ended",
                "SSH sessions that were logged in and have ended, by reason"
            ),
            channels_active: metric!("channels_active", "Forwarded connections that are open"),
            bytes: metric!("bytes", "Bytes forwarded; sent is from client to target"),
            auth: metric!("auth", "Logins by result and reason"),
            forward: metric!("forward", "Requests to forward by result and reason"),
            stream_resumptions: metric!(
                "stream_resumptions",
                "Attempts of clients to go on with their open connections after a new login, by result"
            ),
            evictions: metric!(
                "evictions",
                "Forwarded connections and sessions that took nothing, and ended so that others could go on, by reason"
            ),
            ca_keys: metric!("ca_keys", "Authority keys trusted for users"),
            ca_refresh_timestamp: metric!(
                "ca_refresh_timestamp_seconds",
                "When every source of authorities was last read without error"
            ),
            ca_refresh_failures: metric!("ca_refresh_failures", "Failed reads of a source of authorities"),
            revocation_entries: metric!(
                "revocation_entries",
                "Keys, key ids and ranges of serial numbers that are revoked"
            ),
            revocation_refresh_timestamp: metric!(
                "revocation_refresh_timestamp_seconds",
                "When every list of what is revoked was last looked at and found good"
            ),
            revocation_refresh_failures: metric!(
                "revocation_refresh_failures",
                "Lists of what is revoked that became unreadable or corrupt"
            ),
            host_cert_expiry_timestamp: metric!(
                "host_cert_expiry_timestamp_seconds",
                "When the host certificate in use expires"
            ),
            host_cert_renewal_failures: metric!(
                "host_cert_renewal_failures",
                "Failed renewals of the host certificate"
            ),
            config_reloads: metric!("config_reloads", "Changes of the configuration file by result"),
            ready: metric!("ready", "1 while /readyz says 200: clients are served"),
            draining: metric!("draining", "1 while shutting down"),
            connections_refused: metric!("connections_refused", "Connections closed before SSH, by reason"),
            accept_errors: metric!("accept_errors", "Errors of accept(2), such as too many open files"),
            audit_lost: metric!("audit_lost", "Audit records that could not be written"),
            fence: metric!("fence", "1 where the process is confined by this means"),
            policies: metric!("kubernetes_policies", "Policy objects of the cluster, by what became of them"),
            endpoints: metric!("kubernetes_endpoints", "Addresses behind the cluster's Services"),
            watch_contact_timestamp: metric!(
                "kubernetes_watch_contact_timestamp_seconds",
                "When the API server last answered a watch; a minute ago at most while all is well"
            ),
            watch_failures: metric!(
                "kubernetes_watch_failures",
                "Failed requests of a watch to the API server"
            ),
            panics: metric!("panics", "Defects of the bastion, each of which ended one connection at most"),
            registry: Registry::default(),
        };
        registry.register(
            "build",
            "Version of this bastion",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self { registry, ..metrics }
    }

    /// The metrics as OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    /// Counts a session for as long as the value lives.
    #[must_use]
    pub fn session(&self) -> Active {
        Active::new(&self.sessions_active)
    }

    /// Counts a session that was logged in and has ended; `reason` is the code of its end.
    pub fn session_ended(&self, reason: &'static str) {
        self.sessions_ended.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a forwarded connection for as long as the value lives.
    #[must_use]
    pub fn channel(&self) -> Active {
        Active::new(&self.channels_active)
    }

    /// The counter of forwarded bytes in one direction, which a relay keeps.
    pub fn bytes(&self, direction: Direction) -> Counter {
        let direction = match direction {
            Direction::Sent => "sent",
            Direction::Received => "received",
        };
        self.bytes.get_or_create_owned(&Flow { direction })
    }

    /// Counts an accepted login.
    pub fn auth_accepted(&self) {
        self.auth.get_or_create(&Outcome { result: "accepted", reason: "" }).inc();
    }

    /// Counts a refused login; `reason` is the code of the refusal.
    pub fn auth_refused(&self, reason: &'static str) {
        self.auth.get_or_create(&Outcome { result: "refused", reason }).inc();
    }

    /// Counts an opened forward.
    pub fn forward_opened(&self) {
        self.forward.get_or_create(&Outcome { result: "opened", reason: "" }).inc();
    }

    /// Counts a refused forward; `reason` is the code of the refusal.
    pub fn forward_refused(&self, reason: &'static str) {
        self.forward.get_or_create(&Outcome { result: "refused", reason }).inc();
    }

    /// Counts a forwarded connection, or a session, that ended to free memory for others; `reason` is the
    /// code of its record.
    pub fn evicted(&self, reason: &'static str) {
        self.evictions.get_or_create(&Reason { reason }).inc();
    }

    /// Counts an attempt to resume streams; `result` is `resumed`, or the code of the refusal.
    pub fn resumed(&self, result: &'static str) {
        self.stream_resumptions.get_or_create(&Resumption { result }).inc();
    }

    /// Records that the trusted set changed, or was confirmed, at `now`.
    pub fn authorities_read(&self, keys: usize, now: SystemTime) {
        self.ca_keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.ca_refresh_timestamp.set(now);
    }

    /// Counts a source of authorities that could not be read.
    pub fn authorities_failed(&self) {
        self.ca_refresh_failures.inc();
    }

    /// Records that every revocation list was good at `now`.
    pub fn revocations_read(&self, entries: usize, now: SystemTime) {
        self.revocation_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.revocation_refresh_timestamp.set(now);
    }

    /// Counts a revocation list that is missing, unreadable or corrupt.
    pub fn revocations_failed(&self) {
        self.revocation_refresh_failures.inc();
    }

    /// Records when the host certificate in use expires.
    pub fn host_certificate(&self, expires: SystemTime) {
        self.host_cert_expiry_timestamp.set(expires);
    }

    /// Counts a failed renewal of the host certificate.
    pub fn host_certificate_failed(&self) {
        self.host_cert_renewal_failures.inc();
    }

    /// Counts a changed configuration that is now in force.
    pub fn config_read(&self) {
        self.config_reloads.get_or_create(&Outcome { result: "applied", reason: "" }).inc();
    }

    /// Counts a changed configuration that is broken, so that the old one stays.
    pub fn config_failed(&self) {
        self.config_reloads.get_or_create(&Outcome { result: "refused", reason: "broken" }).inc();
    }

    /// Sets whether clients are served.
    pub fn ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// Records that the shutdown has begun.
    pub fn draining(&self) {
        self.draining.set(1);
    }

    /// Counts a connection closed before SSH began; `reason` is the code of the refusal.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a failed `accept(2)`.
    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// Counts lost audit records.
    pub fn audit_lost(&self, records: u64) {
        self.audit_lost.inc_by(records);
    }

    /// Sets whether one part of the sandbox holds.
    pub fn fence(&self, kind: &'static str, holds: bool) {
        self.fence.get_or_create(&Upstreams { kind }).set(holds.into());
    }

    /// Sets the number of the cluster's policy objects that are in force, and of those that are refused.
    pub fn policies(&self, accepted: usize, refused: usize) {
        for (result, count) in [("accepted", accepted), ("refused", refused)] {
            let gauge = self.policies.get_or_create(&Outcome { result, reason: "" }).clone();
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Sets the number of addresses behind the cluster's Services.
    pub fn endpoints(&self, addresses: usize) {
        self.endpoints.set(i64::try_from(addresses).unwrap_or(i64::MAX));
    }

    /// The moment at which the API server last answered a watch, for the watch to set.
    pub fn watch_contact(&self, labels: &WatchLabels) -> Moment {
        self.watch_contact_timestamp.get_or_create(labels).clone()
    }

    /// Counts a request of a watch that the API server did not answer as asked.
    pub fn watch_failed(&self, labels: &WatchLabels) {
        self.watch_failures.get_or_create(labels).inc();
    }

    /// Counts a defect of the bastion that ended a connection.
    pub fn panicked(&self) {
        self.panics.inc();
    }
}

/// Counts one in a gauge until it is dropped.
#[derive(Debug)]
pub struct Active(Gauge);

impl Active {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_dashboards_use() {
        let metrics = Metrics::new();
        metrics.auth_refused("expired");
        metrics.forward_opened();
        metrics.bytes(Direction::Sent).inc_by(7);
        metrics.authorities_read(2, UNIX_EPOCH + Duration::from_secs(100));
        metrics.revocations_read(3, UNIX_EPOCH + Duration::from_secs(150));
        metrics.revocations_failed();
        metrics.host_certificate(UNIX_EPOCH + Duration::from_secs(200));
        metrics.ready(true);
        metrics.draining();
        metrics.connection_refused("startups_total");
        let session = metrics.session();
        let text = metrics.render();
        for line in [
            "bastion_sessions_active 1",
            "bastion_channels_active 0",
            "bastion_bytes_total{direction=\"sent\"} 7",
            "bastion_auth_total{result=\"refused\",reason=\"expired\"} 1",
            "bastion_forward_total{result=\"opened\",reason=\"\"} 1",
            "bastion_ca_keys 2",
            "bastion_ca_refresh_timestamp_seconds 100",
            "bastion_revocation_entries 3",
            "bastion_revocation_refresh_timestamp_seconds 150",
            "bastion_revocation_refresh_failures_total 1",
            "bastion_host_cert_expiry_timestamp_seconds 200",
            "bastion_ready 1",
            "bastion_draining 1",
            "bastion_connections_refused_total{reason=\"startups_total\"} 1",
            "bastion_accept_errors_total 0",
            "bastion_audit_lost_total 0",
            "bastion_panics_total 0",
            concat!("bastion_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        drop(session);
        assert!(metrics.render().contains("bastion_sessions_active 0\n"));
    }

    #[test]
    fn a_moment_that_never_was_is_absent_rather_than_1970() {
        let text = Metrics::new().render();
        assert!(!text.lines().any(|line| line.starts_with("bastion_host_cert_expiry")), "{text}");
    }
}
