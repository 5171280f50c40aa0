//! Serves resumable streams: the subsystem on a session, by which a client starts an association of streams
//! or goes on with one after a new login.
//!
//! The streams belong to the association ([`Held`]), not to the session. A session that ends takes none of
//! them along, unless it ends because its owner must no longer be here.

mod held;
mod registry;
mod stream;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use russh::{Channel, ChannelMsg, server::Msg};
use ssh_transport::streams::{Parted, Wire};
use tokio::time::timeout;
use tracing::Instrument;
use tunnel_stream::{
    Attachment, Code, Frame, OLDEST_VERSION, Reason, Refused, VERSION,
    frame::{Attach, Hello, MOST_STREAMS},
    proof::{Challenge, Secret},
};

use super::{Ended, forward::Forwards, handler::Admitted};
use crate::{audit::Event, identity::certificate::Refused as LoginRefused};
pub(super) use held::Held;
use held::Owner;
pub(crate) use registry::{Registry, Settings};

/// How long a client may take to say what a session channel is for, if it is for streams.
const REQUEST: Duration = Duration::from_secs(10);
/// How often a client may ask to resume or start on one channel.
const ATTEMPTS: usize = 4;
/// A client that was heard within this time is there: its streams do not wait for it beyond its certificate.
const THERE: Duration = Duration::from_secs(10);

/// Serves streams on a session channel, if its client asks for them. Any other use of the channel drops it
/// here, and is answered by the handler.
pub(super) fn await_request(mut channel: Channel<Msg>, forwards: &Forwards, admitted: Arc<Admitted>) {
    let session = Session { forwards: forwards.clone(), admitted };
    let span = forwards.span().clone();
    let serving = async move {
        let requested = timeout(REQUEST, channel.wait()).await;
        let is_ours = |name: &str| name == tunnel_stream::SUBSYSTEM;
        if matches!(&requested, Ok(Some(ChannelMsg::RequestSubsystem { name, .. })) if is_ours(name)) {
            session.serve(channel).await;
        }
    };
    tokio::spawn(serving.instrument(span));
}

/// A session whose client wants streams.
struct Session {
    forwards: Forwards,
    admitted: Arc<Admitted>,
}

impl Session {
    async fn serve(self, channel: Channel<Msg>) {
        let mut wire = Wire::new(channel, self.forwards.carrier().clone());
        let Some((held, attachment)) = self.attached(&mut wire).await else {
            return wire.close().await;
        };
        self.forwards.carry(Arc::clone(&held));
        let parted = tokio::select! {
            parted = held.streams().carry(attachment, wire) => Some(parted),
            () = self.forwards.stop().cancelled() => None,
        };
        match &parted {
            Some(Parted::Violation(violation)) => {
                tracing::warn!(%violation, "streams: the client broke the protocol")
            }
            Some(Parted::Malformed(malformed)) => {
                tracing::warn!(%malformed, "streams: the client broke the protocol")
            }
            Some(Parted::Lost | Parted::Superseded | Parted::Ended) | None => {}
        }
        held.detach(attachment);
    }

    /// Agrees with the client on an association, which this session carries from then on.
    async fn attached(&self, wire: &mut Wire<Msg>) -> Option<(Arc<Held>, Attachment)> {
        let service = self.forwards.service();
        let challenge = Challenge(rand::random());
        let hello = Hello {
            oldest: OLDEST_VERSION,
            newest: VERSION,
            challenge,
            most_streams: u32::try_from(service.max_channels.min(MOST_STREAMS)).unwrap_or(u32::MAX),
            kept_for: u32::try_from(service.streams.settings().keep_detached.as_secs()).unwrap_or(u32::MAX),
        };
        wire.send(&Frame::Hello(hello)).await.ok()?;
        for _ in 0..ATTEMPTS {
            let refused = match wire.answer().await? {
                Frame::Start { version } if is_spoken(version) => return self.start(wire).await,
                Frame::Attach(attach) if is_spoken(attach.version) => {
                    match self.resume(wire, &attach, &challenge).await {
                        Ok(attached) => return attached,
                        Err(refused) => refused,
                    }
                }
                Frame::Start { .. } | Frame::Attach(_) => Reason::new(Code::PROTOCOL, "no such version"),
                _ => return None,
            };
            service.metrics.resumed(refused.code().name());
            wire.send(&Frame::Refused { reason: refused }).await.ok()?;
        }
        None
    }

    fn owner(&self) -> Owner {
        Owner { forwards: self.forwards.clone(), admitted: Arc::clone(&self.admitted) }
    }

    async fn start(&self, wire: &mut Wire<Msg>) -> Option<(Arc<Held>, Attachment)> {
        let service = self.forwards.service();
        let secret = Secret::new(rand::random());
        let held = service.streams.start(service, self.owner(), secret.clone());
        let attachment = held.streams().attachment();
        let started = Frame::Started { association: held.streams().id(), secret };
        if wire.send(&started).await.is_err() {
            held.detach(attachment);
            return None;
        }
        Some((held, attachment))
    }

    /// Moves an association to this session, if its client proves to hold it, is the same person, and may
    /// still reach what is open.
    async fn resume(
        &self,
        wire: &mut Wire<Msg>,
        attach: &Attach,
        challenge: &Challenge,
    ) -> Result<Option<(Arc<Held>, Attachment)>, Reason> {
        let service = self.forwards.service();
        // Which of the two it is that does not fit, the client is not told.
        let not_yours = || Reason::new(Code::NOT_YOURS, "these connections are not this login's");
        let held = service.streams.find(attach.association).ok_or_else(|| {
            Reason::new(Code::UNKNOWN, "this bastion does not have these connections any more")
        })?;
        if !held.is_same_owner(&self.admitted.identity) {
            tracing::warn!("another identity asked to resume streams");
            return Err(not_yours());
        }
        let fresh = Secret::new(rand::random());
        let (attached, attachment) = held.streams().resume(attach, challenge, fresh).map_err(|refused| {
            tracing::warn!(%refused, "streams were not resumed");
            match refused {
                Refused::Proof | Refused::Stale => not_yours(),
                Refused::Positions => Reason::new(Code::PROTOCOL, refused.to_string()),
            }
        })?;
        let policy = Arc::clone(&service.policy.borrow());
        held.moves_to(self.owner(), &policy, SystemTime::now());
        service.metrics.resumed("resumed");
        let event =
            Event::StreamsResumed { identity: &self.admitted.identity, streams: held.streams().len() as u64 };
        service.audit.record(self.forwards.session(), event);
        if wire.send(&Frame::Attached(attached)).await.is_err() {
            held.detach(attachment);
            return Ok(None);
        }
        Ok(Some((held, attachment)))
    }
}

fn is_spoken(version: u16) -> bool {
    (OLDEST_VERSION..=VERSION).contains(&version)
}

/// Ends what a session carries, where the end of the session is the end of its owner's right, and gives the
/// client a moment to hear it. Everything else waits for the owner's next login.
pub(super) async fn session_ended(forwards: &Forwards, ended: &Ended) {
    let Some(held) = forwards.carried() else { return };
    let reason = match ended {
        // An owner whose computer sleeps renews the certificate when it wakes.
        Ended::Refused(LoginRefused::Expired) if forwards.carrier().last_heard().elapsed() >= THERE => return,
        Ended::Refused(refused @ LoginRefused::Expired) => Reason::new(Code::EXPIRED, refused.to_string()),
        Ended::Refused(refused) => Reason::new(Code::REVOKED, refused.to_string()),
        Ended::OverBudget => Reason::new(Code::MEMORY, "memory is spent"),
        Ended::Shutdown => Reason::new(Code::SHUTDOWN, "this bastion shuts down"),
        Ended::ByClient
        | Ended::Lost
        | Ended::Protocol
        | Ended::Silent
        | Ended::NotReading
        | Ended::Stalled
        | Ended::Overrun
        | Ended::Cut
        | Ended::Defect => return,
    };
    held.end_if_owned_by(forwards, &reason).await;
}
