//! Streams that outlive their session, where the bastion knows them: started on the first one, and taken over by each that
//! follows.

use std::{sync::Arc, time::Duration};

use plain_text::escaped;
use ssh_transport::{
    budget::{Budget, Limits as Memory},
    relay::{PATIENCE, SPILL},
    streams::{self, Parted, Wire},
};
use tunnel_stream::{
    Attachment, Code, Frame, Limits, Reason, Request, Role, SUBSYSTEM,
    frame::{Hello, MOST_STREAMS},
};

use super::{NotOpened, Session, refusal::LONGEST_REASON};
use crate::endpoint::Endpoint;

/// How far the window of one stream may grow, in bytes: 64 MiB are 3 Gbit/s at 150 ms.
const WINDOW: u64 = 64 * 1024 * 1024;

/// How much may be kept of all streams together until the bastion acknowledges it, in bytes.
const KEPT: u64 = 256 * 1024 * 1024;

/// The streams of a tunnel, whichever session carries them.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    all: streams::Streams,
    /// How long the bastion keeps them without a carrier.
    kept_for: Duration,
}

/// The bastion did not take the streams over, or start any.
#[derive(Debug)]
pub(crate) struct NotCarried(pub(crate) String);

/// How a session came to carry streams.
pub(crate) struct Carried {
    /// The streams that are on it from now on.
    pub(crate) streams: Streams,
    /// How many of them were open before.
    pub(crate) resumed: usize,
    /// Why those of an earlier session were not taken over.
    pub(crate) lost: Option<String>,
}

impl Streams {
    /// Asks the bastion to connect to `destination`.
    ///
    /// # Errors
    /// See [`NotOpened`]. A stream that is given up before its answer is reset.
    pub(super) async fn open(&self, destination: &Endpoint) -> Result<streams::Stream, NotOpened> {
        let request = Request { host: destination.host().bare().to_owned(), port: destination.port() };
        let Some(mut stream) = self.all.open(request) else {
            return Err(match self.all.has_ended() {
                Some(_) => NotOpened::Lost,
                None => NotOpened::Limit("as many connections are open as the bastion allows".to_owned()),
            });
        };
        let mut given_up = GivenUp(Some(stream.fate.clone()));
        let answer = stream.fate.answered().await;
        given_up.0 = None;
        answer.map(|()| stream).map_err(|reason| not_opened(&reason))
    }

    /// Waits until the bastion wants new streams to be opened elsewhere.
    pub(crate) async fn drained(&self) {
        self.all.drained().await;
    }

    /// Ends all of them, and lets the bastion know.
    pub(crate) async fn end(&self) {
        self.all.end(&Reason::new(Code::STOPPED, "the user ended the tunnel"));
        self.all.flushed().await;
    }

    /// Waits until there is none.
    pub(crate) async fn idle(&self) {
        self.all.idle().await;
    }

    /// Gives them up: the bastion that held them has ended.
    pub(crate) fn lose(&self) {
        self.all.end(&Code::UNKNOWN.into());
    }
}

/// Resets a stream whose opening is given up half-way.
struct GivenUp(Option<streams::Fate>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(fate) = self.0.take() {
            fate.refuse(&Code::STOPPED.into());
        }
    }
}

fn not_opened(reason: &Reason) -> NotOpened {
    let text = reason.text().to_owned();
    match reason.code() {
        Code::PROHIBITED => NotOpened::Policy(text),
        Code::RESOURCE_SHORTAGE => NotOpened::Limit(text),
        Code::CONNECT_FAILED => NotOpened::Target(text),
        // The streams of this process have ended, and others may be started.
        _ => NotOpened::Lost,
    }
}

/// What a stream's end means to a person.
pub(super) fn words(reason: &Reason) -> String {
    match reason.code() {
        Code::UNKNOWN => "the bastion process that held the connection is gone".to_owned(),
        Code::RESET => "reset by the destination".to_owned(),
        Code::DETACHED_TOO_LONG => "lost: there was no connection to the bastion for too long".to_owned(),
        code if reason.text().is_empty() => format!("ended by the bastion: {}", code.name()),
        _ => format!("ended by the bastion: {}", escaped(reason.text(), LONGEST_REASON)),
    }
}

impl Session {
    /// Has the streams of `earlier` go on on this session, or starts new ones. `None` where the server knows no streams that
    /// outlive a session.
    ///
    /// # Errors
    /// When the bastion does neither. Streams of an earlier session that lives are still on that one.
    pub(crate) async fn carry(
        self: &Arc<Self>,
        earlier: Option<&Streams>,
    ) -> Result<Option<Carried>, NotCarried> {
        if !self.knows_streams {
            return Ok(None);
        }
        let earlier = earlier.filter(|streams| streams.all.has_ended().is_none());
        let agreed = self.agree(earlier).await.inspect_err(|_| {
            if let Some(earlier) = earlier {
                earlier.all.not_resumed();
            }
        });
        let (wire, carried, attachment) = agreed?;
        let (session, streams) = (Arc::clone(self), carried.streams.clone());
        tokio::spawn(async move {
            let parted = streams.all.carry(attachment, wire).await;
            if !streams.all.detach(attachment) {
                return;
            }
            let broken = match parted {
                Parted::Violation(violation) => Some(violation.to_string()),
                Parted::Malformed(malformed) => Some(malformed.to_string()),
                // The session knows why.
                Parted::Lost | Parted::Superseded | Parted::Ended => None,
            };
            if let Some(why) = broken {
                session.cut(&format!("it broke the protocol of streams: {why}"));
            }
            drop(session);
            streams.all.end_unless_resumed(attachment, streams.kept_for).await;
        });
        Ok(Some(carried))
    }

    async fn agree(
        &self,
        earlier: Option<&Streams>,
    ) -> Result<(ClientWire, Carried, Attachment), NotCarried> {
        let lost = || NotCarried("the bastion did not answer about open connections".to_owned());
        let channel = self.handle.channel_open_session().await.map_err(|_| lost())?;
        channel.request_subsystem(true, SUBSYSTEM).await.map_err(|_| lost())?;
        let mut wire = Wire::new(channel, self.cutter.clone());
        let Some(Frame::Hello(hello)) = wire.answer().await else { return Err(lost()) };
        let Some(version) = hello.version() else {
            return Err(NotCarried(
                "the bastion and this program know no version of resumable streams in common".to_owned(),
            ));
        };
        let mut not_taken_over = None;
        if let Some(earlier) = earlier {
            let streams = &earlier.all;
            let attach = streams.attach(&hello.challenge);
            wire.send(&Frame::Attach(attach)).await.map_err(|_| lost())?;
            match wire.answer().await {
                Some(Frame::Attached(attached)) => {
                    let open = streams.len();
                    let attachment =
                        streams.resumed(attached).map_err(|violation| NotCarried(violation.to_string()))?;
                    let carried = Carried { streams: earlier.clone(), resumed: open, lost: None };
                    return Ok((wire, carried, attachment));
                }
                Some(Frame::Refused { reason }) => {
                    if !streams.is_empty() {
                        not_taken_over = Some(words(&reason));
                    }
                    streams.end(&reason);
                }
                _ => return Err(lost()),
            }
        }
        let (streams, attachment) = self.start(&mut wire, version, &hello).await?;
        Ok((wire, Carried { streams, resumed: 0, lost: not_taken_over }, attachment))
    }

    async fn start(
        &self,
        wire: &mut ClientWire,
        version: u16,
        hello: &Hello,
    ) -> Result<(Streams, Attachment), NotCarried> {
        let lost = || NotCarried("the bastion did not start streams".to_owned());
        wire.send(&Frame::Start { version }).await.map_err(|_| lost())?;
        let Some(Frame::Started { association, secret }) = wire.answer().await else { return Err(lost()) };
        let most = usize::try_from(hello.most_streams).unwrap_or(usize::MAX);
        // The user's own programs may take what memory there is.
        let memory = Budget::start(Memory::of_streams(SPILL, PATIENCE)).association("");
        let limits = Limits { streams: most.min(MOST_STREAMS), window: WINDOW, kept: KEPT };
        let all = streams::Streams::new(Role::Client, association, secret, limits, memory, None);
        let attachment = all.attachment();
        let kept_for = Duration::from_secs(hello.kept_for.into());
        Ok((Streams { all, kept_for }, attachment))
    }
}

type ClientWire = Wire<russh::client::Msg>;
