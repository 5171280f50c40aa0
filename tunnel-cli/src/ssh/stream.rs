//! One stream, from its opening to the end of its relay.

use russh::{Channel, client};
use ssh_transport::{
    budget, channel,
    relay::{self, Account, End},
    socket::Cutter,
    streams,
};
use tokio::net::TcpStream;
use tunnel_stream::Code;

use super::streams::words;

/// One stream.
pub(crate) enum Stream {
    /// A channel of a session, with which it ends.
    Channel(OwnChannel),
    /// One that outlives the session.
    Resumable(streams::Stream),
}

/// A channel, and what its relay needs.
pub(crate) struct OwnChannel {
    pub(super) channel: Channel<client::Msg>,
    pub(super) carrier: Cutter,
    pub(super) budget: budget::Stream,
}

impl Stream {
    /// Whether it needs the session that it was opened on.
    pub(crate) fn needs_its_session(&self) -> bool {
        matches!(self, Self::Channel(_))
    }

    /// Copies between `socket` and the stream until one ends or `stop` is ready. Says also why the other end has ended it, if
    /// that gave a reason.
    pub(crate) async fn relay(
        self,
        socket: TcpStream,
        account: &Account,
        stop: impl Future<Output = ()> + Send,
    ) -> (End, Option<String>) {
        match self {
            Self::Channel(OwnChannel { channel, carrier, budget }) => {
                let (source, sink) = channel::split(channel, carrier);
                (relay::relay(socket, source, sink, account, &budget, stop).await, None)
            }
            Self::Resumable(streams::Stream { source, sink, fate, budget }) => {
                let end = relay::relay(socket, source, sink, account, budget.get(), stop).await;
                // The user's own end of it is told by the relay's.
                let told = fate.ending().filter(|(_, reason)| reason.code() != Code::STOPPED);
                (end, told.map(|(_, reason)| words(&reason)))
            }
        }
    }

    /// Ends a stream that is not needed.
    pub(crate) async fn close(self) {
        match self {
            Self::Channel(OwnChannel { channel, .. }) => {
                let _ = channel.close().await;
            }
            Self::Resumable(stream) => stream.fate.refuse(&Code::STOPPED.into()),
        }
    }
}
