//! All associations of this process, and how long each waits without a carrier.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ssh_transport::streams::Streams;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::Instrument;
use tunnel_stream::{
    Code, Limits, Reason, Role,
    proof::{AssociationId, Secret},
};

use super::{
    super::{Service, reached},
    held::{Held, Owner},
    stream,
};
use crate::{
    identity::certificate::{self, Claim, Refused, Requirements},
    limits::identities,
    process::drain::Drain,
};

/// The operator's settings of resumable streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How long streams wait for their owner's next login.
    pub keep_detached: Duration,
    /// How long beyond the end of the certificate that they were last carried by.
    pub keep_after_expiry: Duration,
    /// How far the window of one stream may grow, in bytes.
    pub max_window: u64,
    /// How much an association may keep until its client acknowledges it, in bytes.
    pub kept: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    drain: Drain,
    held: Mutex<HashMap<AssociationId, Arc<Held>>>,
}

impl Registry {
    pub(crate) fn new(settings: Settings, drain: Drain) -> Self {
        Self(Arc::new(Inner { settings, drain, held: Mutex::default() }))
    }

    pub(super) fn settings(&self) -> Settings {
        self.0.settings
    }

    fn held(&self) -> MutexGuard<'_, HashMap<AssociationId, Arc<Held>>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The association of that name, if it is here.
    pub(super) fn find(&self, id: AssociationId) -> Option<Arc<Held>> {
        self.held().get(&id).cloned()
    }

    /// A new association of the client that has just logged in.
    pub(super) fn start(&self, service: &Arc<Service>, owner: Owner, secret: Secret) -> Arc<Held> {
        let account = identities::account_of(&owner.admitted.identity);
        let (requests, mut requested) = mpsc::unbounded_channel();
        let streams = Streams::new(
            Role::Server,
            AssociationId(rand::random()),
            secret,
            Limits {
                streams: service.max_channels,
                window: self.0.settings.max_window,
                kept: self.0.settings.kept,
            },
            service.budget.association(&account),
            Some(requests),
        );
        let span = owner.forwards.span().clone();
        let held = Arc::new(Held::new(streams, owner));
        let id = held.streams().id();
        self.held().insert(id, Arc::clone(&held));

        let serving = {
            let (held, service) = (Arc::clone(&held), Arc::clone(service));
            async move {
                loop {
                    let request = tokio::select! {
                        request = requested.recv() => request,
                        _ = held.streams().ended() => None,
                    };
                    let Some(request) = request else { return };
                    let serving = stream::serve(Arc::clone(&held), Arc::clone(&service), request);
                    tokio::spawn(serving.in_current_span());
                }
            }
        };
        tokio::spawn(serving.instrument(span.clone()));
        let waiting = {
            let (registry, held) = (self.clone(), Arc::clone(&held));
            let requirements = service.requirements.subscribe();
            async move {
                if let Some(reason) = registry.must_end(&held, requirements).await {
                    tracing::info!(
                        reason = reason.code().name(),
                        "streams that waited for their owner have ended"
                    );
                    held.streams().end(&reason);
                }
                registry.held().remove(&id);
            }
        };
        tokio::spawn(waiting.instrument(span));
        held
    }

    /// Waits until an association has ended, or must.
    async fn must_end(
        &self,
        held: &Held,
        mut requirements: watch::Receiver<Arc<Requirements>>,
    ) -> Option<Reason> {
        loop {
            tokio::select! {
                () = held.attached(false) => {}
                _ = held.streams().ended() => return None,
                () = self.0.drain.over() => return Some(Reason::new(Code::SHUTDOWN, "this bastion shuts down")),
            }
            let owner = held.owner();
            let identity = &owner.admitted.identity;
            let expiry = identity.valid_before().checked_add(self.0.settings.keep_after_expiry);
            tokio::select! {
                () = held.attached(true) => {}
                _ = held.streams().ended() => return None,
                () = held.streams().idle() => return Some(Code::STOPPED.into()),
                () = sleep(self.0.settings.keep_detached) => {
                    return Some(Reason::new(Code::DETACHED_TOO_LONG, "its owner did not come back in time"));
                }
                () = reached(expiry.unwrap_or_else(SystemTime::now)) => {
                    return Some(Reason::new(Code::EXPIRED, "its owner's certificate has expired"));
                }
                refused = refused(&owner, &mut requirements) => {
                    return Some(Reason::new(Code::REVOKED, refused.to_string()));
                }
                () = self.0.drain.begun() => {
                    return Some(Reason::new(Code::SHUTDOWN, "this bastion shuts down"));
                }
            }
        }
    }
}

/// Waits until the owner would not be admitted any more, for another reason than the time.
async fn refused(owner: &Owner, requirements: &mut watch::Receiver<Arc<Requirements>>) -> Refused {
    let admitted = &owner.admitted;
    let client = owner.forwards.session().client.ip();
    let claim = Claim { login: admitted.identity.login(), client };
    loop {
        let current = Arc::clone(&requirements.borrow_and_update());
        match certificate::admit_again(&admitted.certificate, claim, &current, SystemTime::now()) {
            Ok(_) | Err(Refused::Expired) => {}
            Err(refused) => return refused,
        }
        // The sender lives as long as the service.
        let _ = requirements.changed().await;
    }
}
