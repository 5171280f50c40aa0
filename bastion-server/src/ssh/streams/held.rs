//! One association at the bastion: whose it is, which permit each of its streams has, and whether it waits
//! for its owner.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use ssh_transport::streams::{Fate, Streams};
use tokio::sync::watch;
use tunnel_stream::{Attachment, Code, Reason, StreamId};

use super::super::{forward::Forwards, handler::Admitted};
use crate::{
    access::{self, Denied, Permit, Policy},
    identity::Identity,
};

/// The session of the last login.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) forwards: Forwards,
    pub(super) admitted: Arc<Admitted>,
}

/// The permit of one open stream, and the address that it is connected to.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) permit: watch::Sender<Permit>,
    pub(super) address: SocketAddr,
    fate: Fate,
    denied: watch::Sender<Option<Denied>>,
}

impl Granted {
    /// Ends the stream, since its permit is void.
    pub(super) fn deny(&self, denied: Denied) {
        self.fate.refuse(&Reason::new(Code::DENIED, format!("{}: {denied}", denied.code())));
        self.denied.send_replace(Some(denied));
    }

    /// Waits until the stream is denied.
    pub(super) async fn denied(&self) -> Denied {
        let mut denied = self.denied.subscribe();
        loop {
            if let Some(denied) = denied.borrow_and_update().clone() {
                return denied;
            }
            // The sender lives as long as `self`.
            let _ = denied.changed().await;
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(in crate::ssh) struct Held {
    streams: Streams,
    owner: Mutex<Owner>,
    granted: Mutex<HashMap<StreamId, Arc<Granted>>>,
    is_attached: watch::Sender<bool>,
}

impl Held {
    pub(super) fn new(streams: Streams, owner: Owner) -> Self {
        Self {
            streams,
            owner: Mutex::new(owner),
            granted: Mutex::default(),
            is_attached: watch::Sender::new(true),
        }
    }

    pub(in crate::ssh) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a login is by the same person: by the same name, certified by the same authority. The proof of
    /// the secret is asked beside it.
    pub(super) fn is_same_owner(&self, identity: &Identity) -> bool {
        let owner = self.owner();
        let known = &owner.admitted.identity;
        known.login() == identity.login() && known.authority() == identity.authority()
    }

    fn granted(&self) -> MutexGuard<'_, HashMap<StreamId, Arc<Granted>>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream is open by this permit.
    pub(super) fn grant(&self, permit: Permit, address: SocketAddr, fate: Fate) -> Arc<Granted> {
        let id = fate.id();
        let granted = Arc::new(Granted {
            permit: watch::Sender::new(permit),
            address,
            fate,
            denied: watch::Sender::new(None),
        });
        self.granted().insert(id, Arc::clone(&granted));
        granted
    }

    /// A stream is no longer open.
    pub(super) fn forget(&self, id: StreamId) {
        self.granted().remove(&id);
    }

    /// Its owner has logged in again. Every open stream is decided about anew; what the owner may not reach
    /// now is ended before a byte of it flows.
    pub(super) fn moves_to(&self, owner: Owner, policy: &Policy, now: SystemTime) {
        let identity = Arc::clone(&owner.admitted.identity);
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
        let open: Vec<Arc<Granted>> = self.granted().values().cloned().collect();
        for granted in open {
            let permit = granted.permit.borrow().clone();
            match access::reauthorize_for(policy, &permit, &identity, granted.address, now) {
                Ok(permit) => {
                    granted.permit.send_replace(permit);
                }
                Err(denied) => granted.deny(denied),
            }
        }
        self.is_attached.send_replace(true);
    }

    /// A carrier is gone. If it was the present one, the streams wait for their owner.
    pub(super) fn detach(&self, from: Attachment) {
        if self.streams.detach(from) {
            self.is_attached.send_replace(false);
        }
    }

    /// Waits until the association has a carrier, or has none.
    pub(super) async fn attached(&self, wanted: bool) {
        // The sender lives as long as `self`.
        let _ = self.is_attached.subscribe().wait_for(|is_attached| *is_attached == wanted).await;
    }

    /// Ends everything, unless another session has taken over since.
    pub(super) async fn end_if_owned_by(&self, forwards: &Forwards, reason: &Reason) {
        if self.owner().forwards.is(forwards) {
            self.streams.end(reason);
            self.streams.flushed().await;
        }
    }
}
