//! Keeps one carrier up, and replaces it when it is lost or its certificate has a successor.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use backoff::{Again, Backoff, Trouble, between};
use futures_util::future::join_all;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

use super::{RunOptions, carrier::Carrier, dialler::Dialler, listener::Bound, state::TunnelState};
use crate::{
    credential::{Credentials, Held},
    endpoint::Endpoint,
    failure::{Failure, Retry, Stage},
    network,
    output::{Event, Link, Output},
    ssh::{NotOpened, Streams},
    suspend::{Clocks, woken},
    verdict::{Standing, Verdict, judge},
};

/// Between two attempts to reach the bastion.
const FIRST_RETRY: Duration = Duration::from_millis(300);
/// Between two attempts after many failures.
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// The same where the other side refuses, and has to change something first.
const FIRST_RETRY_OF_REFUSED: Duration = Duration::from_secs(1);
/// The same after many refusals.
const LONGEST_RETRY_OF_REFUSED: Duration = Duration::from_secs(60);
/// The same while a local connection is held: its owner is looking at a prompt that does not come.
const LONGEST_RETRY_IN_DEMAND: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a success, however it ended.
const LASTED: Duration = Duration::from_secs(10);
/// How long a destination may take to answer before we say that it does not.
const PROBE: Duration = Duration::from_secs(5);
/// Keeps one carrier in the state, and replaces it when it is lost or its certificate has a successor.
pub(super) struct CarrierSupervisor {
    pub(super) state: Arc<TunnelState>,
    pub(super) dialler: Dialler,
    pub(super) credentials: Arc<Credentials>,
    pub(super) output: Arc<Output>,
    pub(super) options: RunOptions,
    pub(super) forwards: Vec<Bound>,
    pub(super) ready: Option<oneshot::Sender<()>>,
    pub(super) said_ready: bool,
    /// The absence of a carrier.
    pub(super) outage: Trouble,
    /// The renewal of a carrier that is there.
    pub(super) renewal: Trouble,
    pub(super) lost_at: Option<Instant>,
    /// The streams that outlive their carriers.
    pub(super) streams: Option<Streams>,
    /// How many streams the last carrier took over.
    pub(super) resumed: usize,
    /// Why there should be another carrier, where there should.
    pub(super) wants_another: Option<Another>,
}

/// The waits between tries.
struct Pace {
    /// Where time alone may help, or another network.
    quick: Backoff,
    /// Where the other side refuses.
    refused: Backoff,
}

impl Pace {
    fn new() -> Self {
        Self {
            quick: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            refused: Backoff::new(FIRST_RETRY_OF_REFUSED, LONGEST_RETRY_OF_REFUSED),
        }
    }

    fn failed(&mut self, retry: Retry) -> Duration {
        match retry {
            Retry::Soon | Retry::OnAnotherRoute => self.quick.failed(&mut rand::rng()),
            Retry::AfterClockIsSet | Retry::AfterOperator | Retry::AfterSignIn | Retry::Never => {
                self.refused.failed(&mut rand::rng())
            }
        }
    }

    fn failures(&self) -> u32 {
        self.quick.failures().saturating_add(self.refused.failures())
    }

    fn worked(&mut self) {
        self.quick.worked();
        self.refused.worked();
    }
}

/// An attempt that failed, and what follows from that.
struct FailedAttempt<'a> {
    failure: &'a Failure,
    verdict: Verdict,
    /// Until when the carrier that lives may, if one does.
    left: Option<Duration>,
}

impl CarrierSupervisor {
    pub(super) async fn run(&mut self) -> Result<Infallible, Failure> {
        let mut pace = Pace::new();
        let mut present: Option<Arc<Carrier>> = None;
        loop {
            if let Some(carrier) = present.take_if(|carrier| carrier.has_ended()) {
                self.lost(&carrier).await?;
                if carrier.since().elapsed() >= LASTED {
                    pace.worked();
                }
                self.pause(&mut pace, None).await;
                continue;
            }
            let attempted = match (present.clone(), self.wants_another) {
                // A carrier that does not answer may be found dead before there is another.
                (Some(carrier), Some(Another::Suspected)) => tokio::select! {
                    biased;
                    attempted = self.attempt(Some(&carrier)) => attempted,
                    _ = carrier.ended() => continue,
                },
                (present, _) => self.attempt(present.as_ref()).await,
            };
            match attempted {
                Ok(Attempt::Nothing(held)) => {
                    if let Some(carrier) = present.clone() {
                        self.wants_another = self.idle(&carrier, &held).await;
                        if self.wants_another == Some(Another::Drained) {
                            self.leave(carrier);
                        }
                    }
                }
                Ok(Attempt::New(carrier)) => {
                    self.wants_another = None;
                    self.publish(&carrier, present.as_ref());
                    present = Some(Arc::clone(&carrier));
                    if !self.said_ready {
                        self.get_ready(&carrier).await?;
                    }
                }
                Err(failure) => {
                    let alive = present.as_ref().filter(|carrier| !carrier.has_ended());
                    let verdict = judge(failure.retry(), self.standing(alive.is_some()));
                    if verdict == Verdict::Ends {
                        return Err(failure);
                    }
                    let left = alive.map(|carrier| carrier.held().validity.left(&Clocks::now()));
                    self.pause(&mut pace, Some(FailedAttempt { failure: &failure, verdict, left })).await;
                }
            }
        }
    }

    fn standing(&self, carrier_lives: bool) -> Standing {
        Standing { once: self.options.once, was_ready: self.said_ready, carrier_lives }
    }

    /// One try: a certificate that is fit for use, and a carrier that was logged in with it.
    async fn attempt(&mut self, present: Option<&Arc<Carrier>>) -> Result<Attempt, Failure> {
        let held = self.credentials.current().await?;
        if self.state.shown().link == Link::SigningIn {
            self.state.show(Link::Connecting, None);
        }
        if self.wants_another == Some(Another::Suspected)
            && present.is_some_and(|carrier| !carrier.is_suspected())
        {
            self.wants_another = None;
        }
        let is_held = present.is_some_and(|carrier| Arc::ptr_eq(carrier.held(), &held));
        if self.wants_another.is_none() && is_held {
            return Ok(Attempt::Nothing(held));
        }
        let dialled = self.dialler.dial(&held).await;
        match &dialled {
            Ok(_) => held.has_worked(),
            // It was taken before, and is not any more: another one may be.
            Err(failure) if failure.stage() == Stage::Certificate && held.worked() => {
                self.credentials.discard(&held).await;
            }
            Err(_) => {}
        }
        let carrier = dialled?;
        if let Some(carried) = carrier.take_over(self.streams.as_ref()).await? {
            self.streams = Some(carried.streams);
            self.resumed = carried.resumed;
            let open = self.state.open();
            if let (Some(lost), true) = (carried.lost, open > 0) {
                self.output.say(&Event::Warning(&format!("open connections have ended ({open}): {lost}")));
            }
        }
        Ok(Attempt::New(carrier))
    }

    /// Waits until there is something to do for a carrier that works, and says why there should be another one although its
    /// certificate is the newest.
    async fn idle(&self, carrier: &Carrier, held: &Held) -> Option<Another> {
        tokio::select! {
            _ = carrier.ended() => None,
            () = self.credentials.succeeded(held) => None,
            () = carrier.drained() => Some(Another::Drained),
            () = carrier.suspected() => Some(Another::Suspected),
        }
    }

    /// The bastion at the other end of `carrier` is about to end: new streams are opened on another one, and those that are
    /// open stay on this one until they end.
    fn leave(&mut self, carrier: Arc<Carrier>) {
        let Some(streams) = self.streams.take() else { return };
        tokio::spawn(async move {
            tokio::select! {
                () = streams.idle() => {}
                _ = carrier.ended() => streams.lose(),
            }
        });
    }

    /// New streams use `carrier` from now on, in place of `before`, which lives until the last stream that needs it ends.
    fn publish(&mut self, carrier: &Arc<Carrier>, before: Option<&Arc<Carrier>>) {
        self.state.publish(Some(Arc::clone(carrier)));
        self.state.show(Link::Up(None), None);
        self.outage.clear();
        self.renewal.clear();
        if let Some(before) = before {
            if !Arc::ptr_eq(before.held(), carrier.held()) {
                self.output.say(&Event::Renewed { until: carrier.held().validity.until });
            }
        } else if let Some(lost_at) = self.lost_at.take()
            && self.said_ready
        {
            let (bastion, away) = (carrier.bastion(), lost_at.elapsed());
            self.output.say(&Event::Back { bastion, away, kept: self.resumed });
        }
    }

    async fn lost(&mut self, carrier: &Carrier) -> Result<(), Failure> {
        self.state.publish(None);
        let reason = carrier.ended().await;
        let what = format!("the connection with {} is lost: {reason}", carrier.bastion().host());
        let failure = Failure::transient(Stage::Session, what);
        if judge(failure.retry(), self.standing(false)) == Verdict::Ends {
            return Err(failure);
        }
        self.lost_at.get_or_insert_with(Instant::now);
        self.state.show(Link::Away { tries: 0, next: Duration::ZERO, reason: reason.clone() }, None);
        self.output.say(&Event::Lost { bastion: carrier.bastion(), reason: &reason });
        Ok(())
    }

    /// Waits before the next try: not long while a connection waits for it, and not at all after this computer slept or its
    /// owner signed in.
    async fn pause(&mut self, pace: &mut Pace, attempt: Option<FailedAttempt<'_>>) {
        let begun = Instant::now();
        let retry = attempt.as_ref().map_or(Retry::Soon, |attempt| attempt.failure.retry());
        let asked = attempt.as_ref().and_then(|attempt| attempt.failure.retry_after()).unwrap_or_default();
        let mut until = begun + pace.failed(retry).max(asked);
        let in_demand = between(LONGEST_RETRY_IN_DEMAND / 2, LONGEST_RETRY_IN_DEMAND, &mut rand::rng());
        // A server that refuses is not asked each second because a connection waits.
        let in_demand = if retry.is_soon() { begun + in_demand.max(asked) } else { until };
        // An open connection that outlived its carrier waits too.
        if self.state.waiting() > 0 || self.state.open() > 0 {
            until = until.min(in_demand);
        }
        // The loss of a connection is not a try.
        let tries = pace.failures().saturating_sub(u32::from(self.lost_at.is_some()));
        let verdict = attempt.as_ref().map_or(Verdict::Retries, |attempt| attempt.verdict);
        if let Some(attempt) = attempt {
            self.complain(&attempt, tries, until.saturating_duration_since(begun), until).await;
        }
        let (woken, news) = (woken(), self.credentials.news_for(verdict));
        let moved = network::changed();
        tokio::pin!(woken, moved, news);
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.state.demand() => until = until.min(in_demand),
                () = &mut woken => return,
                () = &mut moved => return,
                () = &mut news => return,
            }
        }
    }

    /// Says what is wrong: each time to scripts, and to people when it is news.
    async fn complain(&mut self, attempt: &FailedAttempt<'_>, tries: u32, next: Duration, until: Instant) {
        let FailedAttempt { failure, verdict, left } = attempt;
        let reason = failure.what();
        if let Some(left) = left {
            self.output.say(&Event::Retry { tries, next, reason, is_news: false });
            if self.renewal.raise_renewal(reason, failure.is_transient(), *left, std::time::Instant::now()) {
                self.credentials.tell(failure, *verdict, *left).await;
            }
            return;
        }
        let first = !self.said_ready && tries == 1;
        // An absence passes by itself, and its end is told. A failure that needs the user is not kept from them.
        let another =
            !failure.is_transient() && self.outage.raise(reason, Again::Never, std::time::Instant::now());
        let awaits = *verdict == Verdict::AwaitsSignIn;
        self.output.say(&Event::Retry { tries, next, reason, is_news: (first || another) && !awaits });
        if awaits && another {
            self.credentials.tell(failure, *verdict, Duration::ZERO).await;
        }
        let shown = if awaits {
            format!("waiting for you to sign in: {}", self.credentials.sign_in_command().await)
        } else {
            reason.to_owned()
        };
        self.state.show(Link::Away { tries, next, reason: shown }, Some(until));
    }

    /// Says that the first byte can flow, after it was seen to be so.
    async fn get_ready(&mut self, carrier: &Carrier) -> Result<(), Failure> {
        let answers = if self.options.probe {
            join_all(self.forwards.iter().map(|forward| probe(carrier, &forward.destination))).await
        } else {
            self.forwards.iter().map(|_| Answer::Open).collect()
        };
        if answers.iter().any(|answer| matches!(answer, Answer::Lost)) {
            return Ok(());
        }
        let all_refused = answers.iter().all(|answer| matches!(answer, Answer::Policy(_)));
        let mut refused = None;
        let mut lines = Vec::new();
        for (forward, answer) in self.forwards.iter().zip(answers) {
            match answer {
                Answer::Open | Answer::Lost => lines.push((forward, None)),
                Answer::Policy(reason) => {
                    let failure = self.refused(carrier, &forward.destination, &reason).await;
                    if let Some(earlier) = refused.replace(failure) {
                        self.output.fail(&earlier);
                    }
                }
                Answer::Target(reason) => {
                    if self.options.target_must_answer {
                        let what = format!("{} does not answer the bastion: {reason}", forward.destination);
                        return Err(Failure::permanent(Stage::Target, what)
                            .advise("The tunnel is up; what is behind it is not. Is it running, and is the name right?"));
                    }
                    lines.push((forward, Some(reason)));
                }
            }
        }
        match refused {
            Some(failure) if all_refused => return Err(failure),
            Some(failure) => self.output.fail(&failure),
            None => {}
        }
        for (Bound { listen, addresses, destination }, missing) in lines {
            self.output.say(&Event::Ready {
                listen: *listen,
                addresses,
                destination,
                bastion: carrier.bastion(),
                until: carrier.held().validity.until,
                left: carrier.held().validity.left(&Clocks::now()),
            });
            if !listen.ip().is_loopback() {
                let warning = format!("{listen} can be reached by other computers");
                self.output.say(&Event::Warning(&warning));
            }
            if let Some(reason) = missing {
                self.output.say(&Event::NotOpened { destination, cause: "target", reason: &reason });
            }
        }
        self.said_ready = true;
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(());
        }
        Ok(())
    }

    async fn refused(&self, carrier: &Carrier, destination: &Endpoint, reason: &str) -> Failure {
        let certificate = carrier.held().credential.certificate();
        Failure::permanent(Stage::Policy, format!("the bastion refused this destination: {destination}"))
            .advise(format!(
                "You are {} (principals: {}). It says: {reason}",
                self.credentials.name().await,
                certificate.valid_principals().join(", "),
            ))
            .advise("Ask the bastion's operator, and give them:")
            .advise(format!(
                "  key id {}, serial {}, {}, {}",
                certificate.key_id(),
                certificate.serial(),
                carrier.bastion().host(),
                humantime::format_rfc3339_seconds(SystemTime::now()),
            ))
    }
}

/// Why there should be another carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Another {
    /// The bastion of the present one wants to be left.
    Drained,
    /// The bastion of the present one does not answer, and the streams could go on elsewhere.
    Suspected,
}

/// The result of one try.
enum Attempt {
    /// A carrier.
    New(Arc<Carrier>),
    /// The present one is as good as it gets until this has a successor.
    Nothing(Arc<Held>),
}

/// The answer of a destination to the first attempt.
enum Answer {
    Open,
    Policy(String),
    Target(String),
    Lost,
}

/// Opens a stream and closes it again.
async fn probe(carrier: &Carrier, destination: &Endpoint) -> Answer {
    let no_program = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    match timeout(PROBE, carrier.open(destination, no_program)).await {
        Ok(Ok(stream)) => {
            stream.close().await;
            Answer::Open
        }
        Ok(Err(NotOpened::Policy(reason))) => Answer::Policy(reason),
        Ok(Err(NotOpened::Target(reason) | NotOpened::Limit(reason))) => Answer::Target(reason),
        Ok(Err(NotOpened::Lost)) => Answer::Lost,
        Err(_) => Answer::Target(format!("no answer within {} s", PROBE.as_secs())),
    }
}
