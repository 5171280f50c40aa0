//! An SSH channel as the two ends that a relay copies between.

use bytes::{Bytes, BytesMut};
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};

use crate::{
    budget,
    relay::{End, Incoming, Lost, Sink, Source},
    socket::Cutter,
};

/// What arrives on a channel.
#[derive(Debug)]
pub struct ChannelSource(ChannelReadHalf);

/// What is sent on a channel.
#[derive(Debug)]
pub struct ChannelSink<S: From<(ChannelId, ChannelMsg)>> {
    channel: ChannelWriteHalf<S>,
    carrier: Cutter,
}

/// Splits an open channel of the session on `carrier`.
pub fn split<S>(channel: Channel<S>, carrier: Cutter) -> (ChannelSource, ChannelSink<S>)
where
    S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    let (read, channel) = channel.split();
    (ChannelSource(read), ChannelSink { channel, carrier })
}

impl Source for ChannelSource {
    async fn next(&mut self) -> Incoming {
        loop {
            match self.0.wait().await {
                Some(ChannelMsg::Data { data }) => return Incoming::Data(data),
                Some(ChannelMsg::Eof) => return Incoming::Eof,
                Some(ChannelMsg::Close) => return Incoming::Closed,
                // Window updates are russh's own business; extended data and requests mean nothing on a forward.
                Some(_) => {}
                None => return Incoming::Lost,
            }
        }
    }
}

impl<S> ChannelSink<S>
where
    S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    /// Sends bytes that are accounted for elsewhere.
    pub(crate) async fn frame(&mut self, frame: Bytes) -> Result<(), Lost> {
        self.carrier.caught_up().await;
        self.channel.data_bytes(frame).await.map_err(|_| Lost)
    }
}

impl<S> Sink for ChannelSink<S>
where
    S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    async fn room(&self) -> usize {
        self.channel.writable_packet_size().await
    }

    async fn data(&mut self, data: BytesMut, budget: &budget::Stream) -> Result<(), Lost> {
        self.frame(budget.carrier().lend(data.freeze())).await
    }

    async fn finish(&mut self) -> Result<(), Lost> {
        self.channel.eof().await.map_err(|_| Lost)
    }

    async fn close(&mut self, _end: End) {
        // A carrier that is gone has closed everything already.
        let _ = self.channel.close().await;
    }
}
