//! One stream of a session, from its opening to the end of its relay.

use russh::{Channel, client};
use ssh_transport::{
    budget, channel,
    relay::{self, Account, End},
    socket::Cutter,
};
use tokio::net::TcpStream;

/// One stream of a session.
pub(crate) struct Stream {
    pub(super) channel: Channel<client::Msg>,
    pub(super) carrier: Cutter,
    pub(super) budget: budget::Stream,
}

impl Stream {
    /// Copies between `socket` and the stream until one ends or `stop` is ready.
    pub(crate) async fn relay(
        self,
        socket: TcpStream,
        account: &Account,
        stop: impl Future<Output = ()> + Send,
    ) -> End {
        let (source, sink) = channel::split(self.channel, self.carrier);
        relay::relay(socket, source, sink, account, &self.budget, stop).await
    }

    /// Ends a stream that is not needed.
    pub(crate) async fn close(self) {
        let _ = self.channel.close().await;
    }
}
