//! One SSH channel that carries frames: what is said on it before an association is carried, and then that.

use std::time::Duration;

use russh::{Channel, ChannelId, ChannelMsg};
use tokio::time::timeout;
use tunnel_stream::{Frame, Malformed, frame::Decoder};

use crate::{
    channel::{self, ChannelSink, ChannelSource},
    relay::{End, Incoming, Lost, Sink, Source},
    socket::Cutter,
};

/// How long the other end may take for its next frame before an association is carried.
const ANSWER: Duration = Duration::from_secs(10);

/// An open channel of the subsystem.
#[derive(Debug)]
pub struct Wire<S: From<(ChannelId, ChannelMsg)>> {
    arriving: Arriving,
    sink: ChannelSink<S>,
}

/// What arrives on it.
#[derive(Debug)]
pub(super) struct Arriving {
    source: ChannelSource,
    decoder: Decoder,
}

impl Arriving {
    /// The next frame with its length, or `None` at the channel's end.
    pub(super) async fn next(&mut self) -> Result<Option<(Frame, usize)>, Malformed> {
        loop {
            if let Some(next) = self.decoder.next_frame()? {
                return Ok(Some(next));
            }
            match self.source.next().await {
                Incoming::Data(data) => self.decoder.feed(data),
                Incoming::Eof | Incoming::Closed | Incoming::Lost => return Ok(None),
            }
        }
    }
}

impl<S> Wire<S>
where
    S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    /// On a channel of the session on `carrier`.
    pub fn new(channel: Channel<S>, carrier: Cutter) -> Self {
        let (source, sink) = channel::split(channel, carrier);
        Self { arriving: Arriving { source, decoder: Decoder::default() }, sink }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), Lost> {
        self.sink.frame(frame.encode()).await
    }

    /// The other end's next frame, if it is one and comes in time.
    pub async fn answer(&mut self) -> Option<Frame> {
        let next = timeout(ANSWER, self.arriving.next()).await.ok()?;
        next.ok().flatten().map(|(frame, _)| frame)
    }

    /// Ends the channel.
    pub async fn close(&mut self) {
        self.sink.close(End::Stopped).await;
    }

    pub(super) fn halves(&mut self) -> (&mut Arriving, &mut ChannelSink<S>) {
        (&mut self.arriving, &mut self.sink)
    }
}
