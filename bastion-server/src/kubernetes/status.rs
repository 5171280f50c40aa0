//! Reports to the author of a policy: conditions in the object's status, and an Event when one of them is
//! false.
//!
//! Any number of bastions write the same conditions without talking to each other: each writes only what
//! differs from the current status, and waits longer each time where another contradicts it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use backoff::Backoff;
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    Cluster, MANAGER,
    compile::{PolicyName, Refused, Unresolved},
    crd::{ClusterTunnelPolicy, TunnelPolicy},
    observed::ObservedPolicy,
};
use crate::{common::text::one_line, telemetry::warnings::Warning};

/// The waits between two writes of the same object's status.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(600));
/// The interval at which delayed writes are looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two Events on the pod.
const BETWEEN_EVENTS: Duration = Duration::from_secs(1);
/// The longest message, in bytes; Kubernetes accepts 32768 in a condition, and 1024 in an Event.
const LONGEST_MESSAGE: usize = 1000;

/// The states of a condition.
const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// The subject of a condition. Both are named as in the Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aspect {
    /// Whether the bastion follows the object.
    Accepted,
    /// Whether the Services and ports that the object names exist.
    ResolvedRefs,
}

impl Aspect {
    /// The condition's type.
    const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
        }
    }

    /// The action of the Event about it.
    const fn action(self) -> &'static str {
        match self {
            Self::Accepted => "Compile",
            Self::ResolvedRefs => "Resolve",
        }
    }

    /// The log message when the condition is false.
    pub(crate) const fn complaint(self) -> &'static str {
        match self {
            Self::Accepted => "policy not accepted; it opens nothing",
            Self::ResolvedRefs => {
                "policy names Services or ports that do not exist; it applies to them as soon as they do"
            }
        }
    }
}

/// The content of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub about: Aspect,
    status: &'static str,
    /// The reason, a single word.
    pub reason: &'static str,
    /// The message, of a bounded length.
    pub message: String,
}

impl Finding {
    fn new(about: Aspect, status: &'static str, reason: &'static str, message: &str) -> Self {
        Self { about, status, reason, message: short(message) }
    }
}

/// A policy object, and the findings about it.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub name: PolicyName,
    /// The object as it was when the bastion compiled it.
    pub seen: Arc<ObservedPolicy>,
    findings: [Finding; 2],
}

impl Report {
    /// Makes the findings from the verdict and the unresolved references of an object.
    pub(crate) fn new(
        name: PolicyName,
        seen: Arc<ObservedPolicy>,
        verdict: Result<(), Refused>,
        unresolved: &[Unresolved],
    ) -> Self {
        let missing = unresolved.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let accepted = match &verdict {
            Ok(()) => Finding::new(Aspect::Accepted, TRUE, "Accepted", "the bastion follows this policy"),
            Err(refused) => Finding::new(Aspect::Accepted, FALSE, refused.reason(), &refused.to_string()),
        };
        let (status, reason, message) = match (&verdict, unresolved) {
            (Ok(()), []) => (TRUE, "ResolvedRefs", "every Service and port that it names exists"),
            (Ok(()), [..]) => (FALSE, "BackendNotFound", missing.as_str()),
            (Err(_), _) => (UNKNOWN, "NotAccepted", "references are resolved once the policy is accepted"),
        };
        let resolved = Finding::new(Aspect::ResolvedRefs, status, reason, message);
        Self { name, seen, findings: [accepted, resolved] }
    }

    /// Whether the object is accepted.
    pub(crate) fn is_accepted(&self) -> bool {
        self.complaints().all(|finding| finding.about != Aspect::Accepted)
    }

    /// The findings that are false.
    pub(crate) fn complaints(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.status == FALSE)
    }

    /// The findings that differ from the object's current status.
    fn news(&self) -> Vec<&Finding> {
        let said = |finding: &Finding| {
            self.condition(finding.about).is_some_and(|there| {
                there.status == finding.status
                    && there.reason == finding.reason
                    && there.message == finding.message
                    && there.observed_generation == Some(self.seen.generation)
            })
        };
        self.findings.iter().filter(|finding| !said(finding)).collect()
    }

    /// The conditions to write; a condition that has not changed keeps its transition time, the others get
    /// `now`.
    fn conditions(&self, now: Timestamp) -> [Condition; 2] {
        self.findings.each_ref().map(|finding| {
            let before = self.condition(finding.about).filter(|there| there.status == finding.status);
            Condition {
                type_: finding.about.name().to_owned(),
                status: finding.status.to_owned(),
                reason: finding.reason.to_owned(),
                message: finding.message.clone(),
                observed_generation: Some(self.seen.generation),
                last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
            }
        })
    }

    fn condition(&self, about: Aspect) -> Option<&Condition> {
        self.seen.status.conditions.iter().find(|condition| condition.type_ == about.name())
    }
}

/// Writes the findings that are new, until the sender of the reports is gone.
pub(super) async fn write(cluster: Cluster, events: bool, mut reports: watch::Receiver<Vec<Report>>) {
    let recorder = events.then(|| recorder(&cluster));
    let mut written: HashMap<String, Written> = HashMap::new();
    loop {
        let current = reports.borrow_and_update().clone();
        written.retain(|uid, _| current.iter().any(|report| report.seen.uid == *uid));
        let mut later = false;
        for report in current {
            // A slow API server gets the newest findings, not those of the time when it was asked first.
            if reports.has_changed().unwrap_or(true) {
                break;
            }
            let news = report.news();
            if news.is_empty() {
                continue;
            }
            let written = written.entry(report.seen.uid.clone()).or_insert_with(|| Written::never(&report));
            if !written.may_write(&report, Instant::now()) {
                later = true;
                continue;
            }
            match patch(&cluster, &report.name, &report.conditions(Timestamp::now())).await {
                Ok(()) => {
                    let Some(recorder) = &recorder else { continue };
                    for finding in news.into_iter().filter(|finding| finding.status == FALSE) {
                        tell(recorder, &report, finding).await;
                    }
                }
                Err(error) => {
                    later = true;
                    tracing::debug!(policy = %report.name, error = one_line(&error), "cannot write the status; retrying");
                }
            }
        }
        let changed = reports.changed();
        if later {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                changed = changed => if changed.is_err() { return },
            }
        } else if changed.await.is_err() {
            return;
        }
    }
}

/// A recorder of Events in the bastion's name.
pub(super) fn recorder(cluster: &Cluster) -> Recorder {
    let reporter = Reporter {
        controller: format!("{}/{MANAGER}", super::crd::GROUP),
        instance: cluster.pod.as_ref().map(|pod| pod.name.clone()),
    };
    Recorder::new(cluster.client.clone(), reporter)
}

/// Records warnings as Events on the bastion's own pod, one at a time.
pub(crate) async fn tell_of_pod(cluster: Cluster, mut warnings: mpsc::Receiver<Warning>) {
    let Some(pod) = cluster.pod.clone() else { return };
    let recorder = recorder(&cluster);
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(cluster.namespace.clone()),
        name: Some(pod.name),
        uid: pod.uid,
        ..ObjectReference::default()
    };
    while let Some(notice) = warnings.recv().await {
        let event = Event {
            type_: EventType::Warning,
            reason: notice.reason.name().to_owned(),
            note: Some(short(&notice.message)),
            action: "Follow".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &about).await {
            tracing::debug!(
                reason = notice.reason.name(),
                error = one_line(&error),
                "cannot write the Event"
            );
        }
        sleep(BETWEEN_EVENTS).await;
    }
}

/// Cuts a text that is too long.
fn short(text: &str) -> String {
    const MORE: &str = "…";
    if text.len() <= LONGEST_MESSAGE {
        return text.to_owned();
    }
    let end = (0..=LONGEST_MESSAGE - MORE.len()).rev().find(|end| text.is_char_boundary(*end));
    format!("{}{MORE}", text.get(..end.unwrap_or_default()).unwrap_or_default())
}

/// The last write to the status of an object, and when the next is allowed.
struct Written {
    generation: i64,
    findings: [Finding; 2],
    backoff: Backoff,
    next: Option<Instant>,
}

impl Written {
    fn never(report: &Report) -> Self {
        let (generation, findings) = (report.seen.generation, report.findings.clone());
        Self { generation, findings, backoff: AGAIN, next: None }
    }

    /// A change of the object is answered immediately, a change of what it names after the shortest wait. A
    /// bastion that writes the same again is being contradicted by another, and waits longer each time.
    fn may_write(&mut self, report: &Report, now: Instant) -> bool {
        if self.generation != report.seen.generation {
            *self = Self::never(report);
        }
        if self.findings != report.findings {
            self.findings = report.findings.clone();
            self.backoff.worked();
            let shortest = now + self.backoff.first();
            self.next = self.next.map(|next| next.min(shortest));
        }
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.next = Some(now + self.backoff.paced());
        true
    }
}

async fn patch(cluster: &Cluster, name: &PolicyName, conditions: &[Condition; 2]) -> Result<(), kube::Error> {
    let params = PatchParams::apply(MANAGER).force();
    let body = |kind: &str| {
        json!({
            "apiVersion": TunnelPolicy::api_version(&()),
            "kind": kind,
            "metadata": {"name": name.name},
            "status": {"conditions": conditions},
        })
    };
    match &name.namespace {
        Some(namespace) => {
            let api: Api<TunnelPolicy> = Api::namespaced(cluster.client.clone(), namespace);
            let patch = Patch::Apply(body(&TunnelPolicy::kind(&())));
            api.patch_status(&name.name, &params, &patch).await.map(drop)
        }
        None => {
            let api: Api<ClusterTunnelPolicy> = Api::all(cluster.client.clone());
            let patch = Patch::Apply(body(&ClusterTunnelPolicy::kind(&())));
            api.patch_status(&name.name, &params, &patch).await.map(drop)
        }
    }
}

async fn tell(recorder: &Recorder, report: &Report, finding: &Finding) {
    let kind = match report.name.namespace {
        Some(_) => TunnelPolicy::kind(&()),
        None => ClusterTunnelPolicy::kind(&()),
    };
    let about = ObjectReference {
        api_version: Some(TunnelPolicy::api_version(&()).into_owned()),
        kind: Some(kind.into_owned()),
        namespace: report.name.namespace.clone(),
        name: Some(report.name.name.clone()),
        uid: Some(report.seen.uid.clone()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: finding.reason.to_owned(),
        note: Some(finding.message.clone()),
        action: finding.about.action().to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &about).await {
        tracing::debug!(policy = %report.name, error = one_line(&error), "cannot write the Event");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::service::{Missing, ServicePattern, Which},
        kubernetes::crd::Status,
    };

    fn seen(generation: i64, conditions: Vec<Condition>) -> Arc<ObservedPolicy> {
        let (uid, status) = ("uid".to_owned(), Status { conditions });
        Arc::new(ObservedPolicy { uid, generation, spec: Err(String::new()), status })
    }

    fn report(seen: Arc<ObservedPolicy>, verdict: Result<(), Refused>, missing: &[&str]) -> Report {
        let unresolved: Vec<_> = missing
            .iter()
            .map(|name| {
                let which = Which::Named((*name).to_owned());
                let pattern = ServicePattern { namespace: "databases".to_owned(), which, ports: vec![] };
                Unresolved { place: "to[0].service".to_owned(), pattern, missing: Missing::Service }
            })
            .collect();
        let name = PolicyName { namespace: Some("databases".to_owned()), name: "orders".to_owned() };
        Report::new(name, seen, verdict, &unresolved)
    }

    fn malformed() -> Result<(), Refused> {
        Err(Refused::Malformed("?".to_owned()))
    }

    #[test]
    fn two_conditions_say_what_became_of_an_object() {
        for (verdict, missing, expected, complaints) in [
            (Ok(()), &[][..], [("True", "Accepted"), ("True", "ResolvedRefs")], 0),
            (Ok(()), &["a", "b"], [("True", "Accepted"), ("False", "BackendNotFound")], 1),
            (malformed(), &["a"], [("False", "Invalid"), ("Unknown", "NotAccepted")], 1),
        ] {
            let report = report(seen(1, vec![]), verdict, missing);
            let conditions = report.conditions(Timestamp::UNIX_EPOCH);
            let said =
                conditions.each_ref().map(|condition| (condition.status.as_str(), condition.reason.as_str()));
            assert_eq!((said, report.complaints().count()), (expected, complaints));
            assert_eq!(report.is_accepted(), expected[0].0 == "True");
        }
        let two = report(seen(1, vec![]), Ok(()), &["a", "b"]);
        let [_, resolved] = &two.findings;
        let expected =
            "to[0].service: there is no Service databases/a; to[0].service: there is no Service databases/b";
        assert_eq!(resolved.message, expected);
        let many = report(seen(1, vec![]), Ok(()), &["ä-rather-long-name"; 64]);
        let [_, resolved] = &many.findings;
        assert!((LONGEST_MESSAGE - 4..=LONGEST_MESSAGE).contains(&resolved.message.len()));
        assert!(resolved.message.ends_with('…'));
    }

    #[test]
    fn what_is_said_already_is_not_said_again_and_stays_since_when() {
        let (then, now) = (Timestamp::UNIX_EPOCH, Timestamp::now());
        let first = report(seen(1, vec![]), Ok(()), &["a"]);
        assert_eq!(first.news().len(), 2);
        let there = first.conditions(then).to_vec();
        assert!(report(seen(1, there.clone()), Ok(()), &["a"]).news().is_empty());
        assert_eq!(report(seen(2, there.clone()), Ok(()), &["a"]).news().len(), 2, "another generation");
        let without = report(seen(1, there[..1].to_vec()), Ok(()), &["a"]);
        assert_eq!(without.news().len(), 1, "an older bastion wrote one");

        let found = report(seen(1, there.clone()), Ok(()), &[]);
        let [news] = found.news()[..] else { panic!("{found:?}") };
        assert_eq!(news.about, Aspect::ResolvedRefs);
        assert_eq!(found.conditions(now).map(|condition| condition.last_transition_time.0), [then, now]);
        let another = report(seen(1, there), Ok(()), &["b"]);
        assert_eq!(another.conditions(now).map(|condition| condition.last_transition_time.0), [then, then]);
    }

    #[test]
    fn who_is_contradicted_waits_and_who_has_news_does_not() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let missing = report(seen(1, vec![]), Ok(()), &["a"]);
        let found = report(seen(1, vec![]), Ok(()), &[]);
        let changed = report(seen(2, vec![]), Ok(()), &[]);
        let mut written = Written::never(&missing);
        for (report, seconds, expected) in [
            (&missing, 0.0, true),
            (&missing, 0.9, false),
            (&missing, 1.0, true),
            (&missing, 3.0, true),
            (&missing, 6.9, false),
            (&missing, 7.0, true),
            (&found, 7.5, false),
            (&found, 8.5, true),
            (&missing, 8.6, false),
            (&missing, 9.6, true),
            (&changed, 9.7, true),
            (&changed, 9.8, false),
        ] {
            assert_eq!(written.may_write(report, at(seconds)), expected, "{seconds}");
        }
    }
}
