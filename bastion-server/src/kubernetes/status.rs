//! Tells the author of a policy what became of it: a condition in its status, and an Event when it is not accepted.
//!
//! Any number of bastions write the same condition without talking to each other: each writes only what differs from what is
//! there, and less and less often where another goes on contradicting it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

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
    compile::{PolicyName, Refused},
    crd::{ClusterTunnelPolicy, TunnelPolicy},
    policies::Seen,
};
use crate::{backoff::Backoff, notice::Notice, telemetry::one_line};

/// The one condition that is ours.
const ACCEPTED: &str = "Accepted";
/// The waits between two writes of the same object's status.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(600));
/// How often what could not be written at once is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two Events on the pod.
const BETWEEN_EVENTS: Duration = Duration::from_secs(1);
/// The longest message, in bytes; Kubernetes takes 32768 in a condition, and 1024 in an Event.
const LONGEST_MESSAGE: usize = 1000;

/// A policy object, and what became of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name.
    pub name: PolicyName,
    /// As it was looked at.
    pub seen: Arc<Seen>,
    /// Whether it is followed.
    pub verdict: Result<(), Refused>,
}

impl Report {
    /// The condition that is to be there, since `now` unless it was there before; none if that is so already.
    fn news(&self, now: Timestamp) -> Option<Condition> {
        let there = self.seen.status.conditions.iter().find(|condition| condition.type_ == ACCEPTED);
        let (status, reason, message) = match &self.verdict {
            Ok(()) => ("True", "Accepted", "the bastion follows it".to_owned()),
            Err(refused) => ("False", refused.reason(), short(&refused.to_string())),
        };
        let generation = Some(self.seen.generation);
        let same = |there: &&Condition| {
            there.status == status
                && there.reason == reason
                && there.message == message
                && there.observed_generation == generation
        };
        if there.as_ref().is_some_and(same) {
            return None;
        }
        let since =
            there.filter(|there| there.status == status).map(|there| there.last_transition_time.clone());
        Some(Condition {
            type_: ACCEPTED.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: since.unwrap_or(Time(now)),
        })
    }
}

fn short(text: &str) -> String {
    let end = (0..=text.len().min(LONGEST_MESSAGE)).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}

/// Writes what is news, for as long as there is somebody to tell it.
pub(super) async fn write(cluster: Cluster, events: bool, mut reports: watch::Receiver<Vec<Report>>) {
    let recorder = events.then(|| recorder(&cluster));
    let mut written: HashMap<String, Written> = HashMap::new();
    loop {
        let current = reports.borrow_and_update().clone();
        written.retain(|uid, _| current.iter().any(|report| report.seen.uid == *uid));
        let mut later = false;
        for report in current {
            let Some(condition) = report.news(Timestamp::now()) else { continue };
            let written = written.entry(report.seen.uid.clone()).or_insert_with(Written::never);
            if !written.may_write(report.seen.generation, Instant::now()) {
                later = true;
                continue;
            }
            match patch(&cluster, &report.name, &condition).await {
                Ok(()) => {
                    if let (Some(recorder), Err(refused)) = (&recorder, &report.verdict) {
                        tell(recorder, &report, refused).await;
                    }
                }
                Err(error) => {
                    later = true;
                    tracing::debug!(policy = %report.name, error = one_line(&error), "the status is not written; trying again");
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

/// When the status of an object was written, and when it may be again.
struct Written {
    generation: i64,
    backoff: Backoff,
    next: Option<Instant>,
}

impl Written {
    fn never() -> Self {
        Self { generation: 0, backoff: AGAIN, next: None }
    }

    /// A change by the author is answered at once, everything else after a wait.
    fn may_write(&mut self, generation: i64, now: Instant) -> bool {
        if self.generation != generation {
            *self = Self { generation, ..Self::never() };
        }
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.next = Some(now + self.backoff.failed());
        true
    }
}

async fn patch(cluster: &Cluster, name: &PolicyName, condition: &Condition) -> Result<(), kube::Error> {
    let params = PatchParams::apply(MANAGER).force();
    let body = |kind: &str| {
        json!({
            "apiVersion": TunnelPolicy::api_version(&()),
            "kind": kind,
            "metadata": {"name": name.name},
            "status": {"conditions": [condition]},
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

/// Tells Events in the bastion's name.
pub(super) fn recorder(cluster: &Cluster) -> Recorder {
    let reporter = Reporter {
        controller: format!("{}/{MANAGER}", super::crd::GROUP),
        instance: cluster.pod.as_ref().map(|pod| pod.name.clone()),
    };
    Recorder::new(cluster.client.clone(), reporter)
}

/// Tells what is heard as Events on the bastion's own pod, one at a time.
pub async fn tell_of_pod(cluster: Cluster, mut notices: mpsc::Receiver<Notice>) {
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
    while let Some(notice) = notices.recv().await {
        let event = Event {
            type_: EventType::Warning,
            reason: notice.reason.name().to_owned(),
            note: Some(short(&notice.message)),
            action: "Follow".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &about).await {
            tracing::debug!(reason = notice.reason.name(), error = one_line(&error), "the event is not told");
        }
        sleep(BETWEEN_EVENTS).await;
    }
}

async fn tell(recorder: &Recorder, report: &Report, refused: &Refused) {
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
        reason: refused.reason().to_owned(),
        note: Some(short(&refused.to_string())),
        action: "Compile".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &about).await {
        tracing::debug!(policy = %report.name, error = one_line(&error), "the event is not told");
    }
}
