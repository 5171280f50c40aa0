//! Records the refusals of one session in the audit log.

use std::{
    convert::Infallible,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    audit::{Asked, Audit, Due, Event, Kind, Repeats, Route},
    identity::Identity,
    session::Session,
};

/// How often counted refusals are written.
const EVERY: Duration = Duration::from_secs(10);

/// Records or counts each refusal.
#[derive(Clone, Debug)]
pub(super) struct Refusals {
    session: Session,
    audit: Audit,
    repeats: Arc<Mutex<Repeats>>,
}

impl Refusals {
    pub(super) fn new(session: Session, audit: Audit) -> Self {
        Self { session, audit, repeats: Arc::default() }
    }

    /// Records a refused forward.
    pub(super) fn forward(&self, identity: &Identity, route: Route<'_>, reason: &'static str) {
        let to = Some(Asked::new(route.host, route.port, route.rule));
        let event = Event::ForwardRefused { identity, route, reason };
        self.add(Kind::Forward { reason, to }, event);
    }

    /// Records a request for something that the bastion never grants.
    pub(super) fn request(&self, identity: &Identity, request: &'static str, reason: &'static str) {
        self.add(Kind::Request { request, reason }, Event::RequestRefused { identity, request, reason });
    }

    /// Writes the counts at intervals, for as long as it is polled.
    pub(super) async fn keep_writing(&self, identity: &Identity) -> Infallible {
        loop {
            tokio::time::sleep(EVERY).await;
            let taken = self.repeats().take();
            self.write(identity, taken);
        }
    }

    /// Writes the counts for the last time.
    pub(super) fn close(&self, identity: &Identity) {
        let taken = self.repeats().close();
        self.write(identity, taken);
    }

    fn add(&self, kind: Kind, event: Event<'_>) {
        let due = self.repeats().add(kind);
        match due {
            Due::Now => self.audit.record(self.session, event),
            Due::Later => {}
        }
    }

    fn write(&self, identity: &Identity, taken: Vec<(Kind, NonZeroU64)>) {
        for (kind, count) in &taken {
            self.audit.record(self.session, Event::RefusedAgain { identity, kind, count: *count });
        }
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
