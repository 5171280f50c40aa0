//! Answers what russh asks while a session runs, and keeps what the session's owner wants to know. Refuses whatever the
//! server asks of a client.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use plain_text::escaped;
use russh::{
    Channel, ChannelId, ChannelOpenFailure,
    client::{self, DisconnectReason},
    keys::PublicKeyOrCertificate,
};
use tokio::sync::watch;

use super::{
    refusal::{LONGEST_REASON, lost},
    refusal_text::RefusalTexts,
};
use crate::{
    endpoint::Host,
    trust::{HostKeyMismatch, Trust},
};

/// The reason of an end of which nothing else is known.
pub(super) const ENDED: &str = "the connection ended";
/// How much of what the server says before login is kept, in bytes.
const LONGEST_BANNER: usize = 2048;

/// Shared by the session's task and its owner.
pub(super) struct Shared {
    /// Key exchanges that are done.
    pub(super) exchanges: AtomicU64,
    pub(super) banner: Mutex<String>,
    /// The description in the server's SSH_MSG_DISCONNECT (RFC 4253 §11.1).
    pub(super) farewell: Mutex<Option<String>>,
    pub(super) ended: watch::Sender<Option<String>>,
    pub(super) refusal_texts: RefusalTexts,
}

impl Shared {
    /// The first reason stays: it is the cause of those that follow.
    pub(super) fn end(&self, reason: &str) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(escaped(reason, LONGEST_REASON));
            }
            first
        });
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    pub(super) fn farewell(&self) -> Option<String> {
        self.farewell
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .filter(|told| !told.trim().is_empty())
    }

    pub(super) fn banner(&self) -> String {
        self.banner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The handler of one session.
pub(super) struct Handler {
    pub(super) shared: Arc<Shared>,
    pub(super) trust: Trust,
    pub(super) host: Host,
    pub(super) at: fn() -> SystemTime,
}

/// Why the handler ended a session.
#[derive(Debug)]
pub(super) enum Ended {
    HostKey(HostKeyMismatch),
    NotStrict,
    Russh(russh::Error),
}

impl From<russh::Error> for Ended {
    fn from(error: russh::Error) -> Self {
        Self::Russh(error)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.shared.end(ENDED);
    }
}

impl client::Handler for Handler {
    type Error = Ended;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, Ended> {
        self.trust.verify(presented, &self.host, (self.at)()).map_err(Ended::HostKey)?;
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        names: &russh::Names,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        self.shared.exchanges.fetch_add(1, Ordering::Relaxed);
        if names.strict_kex() { Ok(()) } else { Err(Ended::NotStrict) }
    }

    async fn auth_banner(&mut self, banner: &str, _session: &mut client::Session) -> Result<(), Ended> {
        let mut kept = self.shared.banner.lock().unwrap_or_else(PoisonError::into_inner);
        for character in banner.chars().chain(['\n']) {
            if kept.len() >= LONGEST_BANNER {
                break;
            }
            kept.push(character);
        }
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        channel: ChannelId,
        _reason: ChannelOpenFailure,
        description: &str,
        _language: &str,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        self.shared.refusal_texts.tell(channel.into(), escaped(description, LONGEST_REASON));
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Ended>) -> Result<(), Ended> {
        match reason {
            DisconnectReason::ReceivedDisconnect(told) => {
                *self.shared.farewell.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(told.message.clone());
                self.shared.end(&format!("it said: {}", told.message));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                match &error {
                    Ended::Russh(error) => self.shared.end(&lost(error)),
                    Ended::HostKey(_) | Ended::NotStrict => {}
                }
                Err(error)
            }
        }
    }

    // What a server may open on a client is refused by dropping the reply; russh's own answer to a channel of an
    // unknown kind is no.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<client::Msg>,
        _connected_address: &str,
        _connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<client::Msg>,
        _socket_path: &str,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<client::Msg>,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    fn should_accept_unknown_server_channel(
        &mut self,
        _id: ChannelId,
        _channel_type: &str,
    ) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<client::Msg>,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<client::Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<client::Msg>,
        _socket_path: &str,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<client::Msg>,
        _originator_address: &str,
        _originator_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Ended> {
        drop(reply);
        Ok(())
    }
}
