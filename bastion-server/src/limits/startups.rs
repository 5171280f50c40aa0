//! Decides whether a connection that has not logged in yet may start. Pure.
//!
//! Three bounds hold together: the number of such connections in all, the number from one source, and the
//! rate at which one source may begin them. A connection that ends in a login gives its token back, so that
//! an office behind one address whose clients all reconnect simultaneously is not mistaken for a flood; only
//! starts that come to nothing are paid for.
//!
//! When every place is taken, a newcomer gets the place whose holder makes the least progress. The waste of a
//! place grows with the time since its client last made progress, measured against what an honest client
//! takes for that step (a moment to identify its protocol, half a minute to type a passphrase), and with the
//! number of places that its source holds. So a newcomer gets in beside any number of sources that hold one
//! idle place each, and of two sources that make the same progress, the one with more places gives way.
//!
//! An IPv6 address is counted in three networks, its /64, its /56 and its /48, since the owner of a larger
//! network also has all the smaller ones in it. The larger networks have higher limits, because more clients
//! share them.
//!
//! A source also collects penalties, in seconds, for starts that came to nothing. Time works them off, second
//! by second, and a login clears them. Above a threshold the bastion refuses the source until they are worked
//! off. A source from which a client logged in during the last day is exempt: it is probably an office in
//! which one machine misbehaves, and the other bounds already limit what its failures cost.
//!
//! The table of sources is bounded. Only sources without penalties are dropped from it, so an attacker cannot
//! buy forgetfulness by coming from many addresses. A source for which the table has no room is a new one,
//! which would start with a clean account anyway and is still held by the bound on all.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    common::units::{Delay, Period},
    limits::token_bucket::{Size, TokenBucket},
};

/// The most sources in the table; some 4 MiB.
const REMEMBERED: usize = 1 << 15;
/// The shortest time between two searches of the table for sources that can be dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a login exempts its source from penalties.
const PROVEN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Limits on connections that have not logged in yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most connections, from all sources, that may be between accept and login simultaneously. Default:
    /// 200.
    pub total: NonZeroU32,
    /// The most connections from one source, an IPv4 address or an IPv6 /64, that may be between accept and
    /// login simultaneously. An IPv6 /56 may have twice as many, and a /48 four times as many, of this and of
    /// the following. Default: 100.
    pub per_source: NonZeroU32,
    /// The number of starts in a row that may come to nothing, from one source, before `rate` holds it back.
    /// Default: 200.
    pub burst: NonZeroU32,
    /// The number of starts that one source gets back each second. Default: 20.
    pub rate: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        const HUNDRED: NonZeroU32 = NonZeroU32::new(100).unwrap();
        const TWO_HUNDRED: NonZeroU32 = NonZeroU32::new(200).unwrap();
        const TWENTY: NonZeroU32 = NonZeroU32::new(20).unwrap();
        Self { total: TWO_HUNDRED, per_source: HUNDRED, burst: TWO_HUNDRED, rate: TWENTY }
    }
}

/// Penalties of a source for connections that came to nothing, and the threshold above which the bastion
/// refuses the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Penalties {
    /// The penalty for a connection whose logins were refused, or whose client only asked which keys would be
    /// accepted. Default: `5s`.
    pub login_refused: Delay,
    /// The penalty for a connection that was cut at `limits.login_deadline`. Default: `10s`.
    pub no_login: Delay,
    /// The penalty for a connection whose client broke the protocol. Default: `10s`.
    pub violation: Delay,
    /// The sum of penalties above which the bastion refuses a source. Default: `1m`.
    pub threshold: Period,
    /// The largest sum of penalties, and so the longest time for which a source is refused. `0s` turns
    /// penalties off. Default: `10m`.
    pub longest: Delay,
}

impl Default for Penalties {
    fn default() -> Self {
        const fn seconds(seconds: u64) -> Duration {
            Duration::from_secs(seconds)
        }
        Self {
            login_refused: Delay(seconds(5)),
            no_login: Delay(seconds(10)),
            violation: Delay(seconds(10)),
            threshold: Period(seconds(60)),
            longest: Delay(seconds(600)),
        }
    }
}

impl Penalties {
    fn of(&self, outcome: Outcome) -> Duration {
        match outcome {
            Outcome::LoggedIn
            | Outcome::Check
            | Outcome::Silent
            | Outcome::Left
            | Outcome::Unreadable
            | Outcome::Displaced => Duration::ZERO,
            Outcome::Refused => self.login_refused.0,
            Outcome::Overdue => self.no_login.0,
            Outcome::Violation => self.violation.0,
        }
    }
}

/// The outcome of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The client logged in.
    LoggedIn,
    /// A trusted proxy checked the bastion's health.
    Check,
    /// The client left without sending a byte.
    Silent,
    /// The client left without having been refused.
    Left,
    /// The client offered a key or certificate that the SSH library cannot parse. It may be valid elsewhere.
    Unreadable,
    /// The connection's place was given to a newcomer.
    Displaced,
    /// No key or certificate that the client offered let it in, or it only asked which would.
    Refused,
    /// The login deadline passed.
    Overdue,
    /// The client broke the protocol.
    Violation,
}

/// Why a connection may not start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Busy {
    /// `limits.max_startups.total` connections are logging in, and each makes more of its place than a
    /// newcomer.
    #[error("too many connections are logging in; try again in a moment")]
    Total,
    /// This source has `limits.max_startups.per_source` connections that are logging in.
    #[error("too many connections from your address are logging in; try again in a moment")]
    Source,
    /// This source started more connections that came to nothing than `burst` and `rate` allow.
    #[error("too many connections from your address came to nothing; try again in a moment")]
    Rate,
    /// This source's penalties are above the threshold.
    #[error("too many logins from your address failed; try again in {} s", .remaining.as_secs() + 1)]
    Penalized {
        /// The time until the penalties are worked off.
        remaining: Duration,
    },
}

impl Busy {
    /// The reason code in metrics, logs and messages.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Total => "startups_total",
            Self::Source => "startups_source",
            Self::Rate => "startups_rate",
            Self::Penalized { .. } => "source_penalized",
        }
    }

    /// The setting that holds the connection back.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::Total => "limits.max_startups.total",
            Self::Source => "limits.max_startups.per_source",
            Self::Rate => "limits.max_startups.burst and .rate",
            Self::Penalized { .. } => "limits.penalties",
        }
    }
}

/// The source that a start counts against: one IPv4 address, or one IPv6 /64, which a single host may have to
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(truncated(v6, 64)),
        })
    }
}

fn truncated(address: Ipv6Addr, prefix: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - prefix)))
}

impl Source {
    /// The networks that a start of this source counts in, the source itself first.
    fn networks(self) -> impl Iterator<Item = Network> {
        let of_prefix = move |prefix, share| {
            let address = match self.0 {
                IpAddr::V4(_) => self.0,
                IpAddr::V6(v6) => IpAddr::V6(truncated(v6, prefix)),
            };
            Network { address, prefix, share }
        };
        let larger = if self.0.is_ipv6() { &[(64, 1), (56, 2), (48, 4)][..] } else { &[(32, 1)] };
        larger.iter().map(move |(prefix, share)| of_prefix(*prefix, *share))
    }
}

/// A network whose starts are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Network {
    address: IpAddr,
    prefix: u32,
    /// The factor by which its limits are higher than those of one source.
    share: u32,
}

impl Network {
    fn of(self, limit: NonZeroU32) -> NonZeroU32 {
        limit.saturating_mul(NonZeroU32::new(self.share).unwrap_or(NonZeroU32::MIN))
    }

    fn starts(self, limits: &Limits) -> Size {
        Size { burst: self.of(limits.burst), rate: self.of(limits.rate) }
    }
}

/// How far a client has come with its login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The client has connected and sent nothing.
    Connected,
    /// The client has sent bytes of SSH.
    Spoke,
    /// The key exchange is finished.
    Encrypted,
    /// The bastion told the client that a key would be accepted, and the client has to sign: its user may be
    /// typing a passphrase.
    Signing,
}

impl Stage {
    /// How long an honest client may take for the next step.
    fn allowance(self) -> Duration {
        Duration::from_secs(match self {
            Self::Connected => 1,
            Self::Spoke => 3,
            Self::Encrypted => 5,
            Self::Signing => 30,
        })
    }
}

/// Kept with each start; knows how far its client has come.
pub(crate) trait Progress {
    /// The stage, and since when the client has been in it; `None` while it has only connected.
    fn progress(&self) -> (Stage, Option<Instant>);
}

/// How little a client makes of its place, in thousandths of a place.
type Waste = u64;

/// The waste of a newcomer's place.
const JUST_COME: Waste = 100;

fn waste(stage: Stage, waited: Duration, places: u32) -> Waste {
    let waited = u64::try_from(waited.as_millis()).unwrap_or(Waste::MAX);
    let allowance = u64::try_from(stage.allowance().as_millis()).unwrap_or(Waste::MAX).max(1);
    (waited.saturating_mul(1000) / allowance).max(JUST_COME).saturating_mul(u64::from(places))
}

/// The account of one network.
#[derive(Debug)]
struct Account {
    pending: u32,
    starts: TokenBucket,
    /// The moment at which all penalties are worked off.
    clear_at: Instant,
    /// Whether the bastion refuses the network until then.
    penalized: bool,
    logged_in_at: Option<Instant>,
}

impl Account {
    fn owes(&self, now: Instant) -> Duration {
        self.clear_at.saturating_duration_since(now)
    }

    fn is_proven(&self, now: Instant) -> bool {
        self.logged_in_at.is_some_and(|at| now.saturating_duration_since(at) < PROVEN_FOR)
    }

    /// Whether the account equals a new one, so that it can be dropped.
    fn is_blank(&mut self, starts: Size, now: Instant) -> bool {
        self.pending == 0
            && self.owes(now).is_zero()
            && !self.is_proven(now)
            && self.starts.is_full(starts, now)
    }
}

/// A start that was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    source: Source,
    /// Grows with each start, so the lowest is the oldest.
    number: u64,
}

/// The connections that are logging in, and the accounts of their sources. Each connection is kept with the
/// value by which its owner ends it.
#[derive(Debug)]
pub(crate) struct Throttle<T> {
    limits: Limits,
    penalties: Penalties,
    pending: BTreeMap<u64, Pending<T>>,
    next: u64,
    sources: HashMap<Network, Account>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Pending<T> {
    source: Source,
    began: Instant,
    kept: T,
}

impl<T: Progress> Throttle<T> {
    pub(crate) fn new(limits: Limits, penalties: Penalties) -> Self {
        Self { limits, penalties, pending: BTreeMap::new(), next: 0, sources: HashMap::new(), swept: None }
    }

    /// Counts a start, which [`finish`](Self::finish) must end, or returns why it may not begin. A connection
    /// that had to give up its place is returned; it counts no longer, but must still be finished.
    ///
    /// # Errors
    /// Why the connection may not start.
    pub(crate) fn start(
        &mut self,
        source: Source,
        keep: T,
        now: Instant,
    ) -> Result<(Ticket, Option<T>), Busy> {
        let displaced = self.must_give_way(source, now)?;
        let limits = self.limits;
        for network in source.networks() {
            let Some(account) = self.account(network, now) else { continue };
            let remaining = account.owes(now);
            account.penalized &= !remaining.is_zero();
            if account.penalized && !account.is_proven(now) {
                return Err(Busy::Penalized { remaining });
            }
            if account.pending >= network.of(limits.per_source).get() {
                return Err(Busy::Source);
            }
            if !account.starts.has_one(network.starts(&limits), now) {
                return Err(Busy::Rate);
            }
        }
        for network in source.networks() {
            if let Some(account) = self.account(network, now) {
                let _ = account.starts.take(network.starts(&limits), now);
                account.pending += 1;
            }
        }
        let displaced = displaced.and_then(|number| self.vacate(number));
        let ticket = Ticket { source, number: self.next };
        self.next += 1;
        self.pending.insert(ticket.number, Pending { source, began: now, kept: keep });
        Ok((ticket, displaced))
    }

    /// Ends a start that [`start`](Self::start) allowed.
    pub(crate) fn finish(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        let _ = self.vacate(ticket.number);
        for network in ticket.source.networks() {
            self.settle(network, outcome, now);
        }
    }

    fn settle(&mut self, network: Network, outcome: Outcome, now: Instant) {
        let (limits, penalties) = (self.limits, self.penalties);
        let Some(account) = self.account(network, now) else { return };
        match outcome {
            Outcome::LoggedIn => {
                account.starts.put_back(network.starts(&limits));
                account.logged_in_at = Some(now);
                account.clear_at = now;
                account.penalized = false;
            }
            Outcome::Check => account.starts.put_back(network.starts(&limits)),
            Outcome::Silent
            | Outcome::Left
            | Outcome::Unreadable
            | Outcome::Displaced
            | Outcome::Refused
            | Outcome::Overdue
            | Outcome::Violation => {
                let owed = account.owes(now).saturating_add(penalties.of(outcome)).min(penalties.longest.0);
                account.clear_at = now + owed;
                account.penalized |= owed >= penalties.threshold.0.saturating_mul(network.share);
            }
        }
    }

    /// Returns the connection that has to give way to a newcomer from `source`, if one has to: the one that
    /// makes the least of its place, and less than the newcomer would at first.
    fn must_give_way(&self, source: Source, now: Instant) -> Result<Option<u64>, Busy> {
        if self.pending.len() < usize::try_from(self.limits.total.get()).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        let mut held = HashMap::<Network, u32>::new();
        for network in self.pending.values().flat_map(|pending| pending.source.networks()) {
            *held.entry(network).or_default() += 1;
        }
        // Of the networks that contain a source, the one counts that is fullest relative to its limit.
        let places = |source: Source, more: u32| {
            let held = |network: Network| held.get(&network).map_or(0, |held| *held) + more;
            source.networks().map(|network| held(network) / network.share).max().unwrap_or(0)
        };
        let least = self.pending.iter().map(|(number, pending)| {
            let (stage, since) = pending.kept.progress();
            let waited = now.saturating_duration_since(since.unwrap_or(pending.began));
            (waste(stage, waited, places(pending.source, 0)), Reverse(*number))
        });
        least
            .max()
            .filter(|(most, _)| *most > waste(Stage::Connected, Duration::ZERO, places(source, 1)))
            .map(|(_, Reverse(number))| Some(number))
            .ok_or(Busy::Total)
    }

    /// Takes a connection out of the count, if it is still in.
    fn vacate(&mut self, number: u64) -> Option<T> {
        let Pending { source, kept, began: _ } = self.pending.remove(&number)?;
        // A network without an account, for lack of room, may have got one since, with fewer starts than it
        // has.
        for network in source.networks() {
            if let Some(account) = self.sources.get_mut(&network) {
                account.pending = account.pending.saturating_sub(1);
            }
        }
        Some(kept)
    }

    /// Returns the account of a network, if the table has room for it.
    fn account(&mut self, network: Network, now: Instant) -> Option<&mut Account> {
        let limits = self.limits;
        let is_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if self.sources.len() >= REMEMBERED && is_due && !self.sources.contains_key(&network) {
            self.swept = Some(now);
            self.sources.retain(|network, account| !account.is_blank(network.starts(&limits), now));
        }
        if self.sources.len() >= REMEMBERED {
            return self.sources.get_mut(&network);
        }
        Some(self.sources.entry(network).or_insert_with(|| Account {
            pending: 0,
            starts: TokenBucket::full(network.starts(&limits), now),
            clear_at: now,
            penalized: false,
            logged_in_at: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// The account of the source itself.
    fn account(source: Source) -> Network {
        source.networks().next().unwrap()
    }

    impl Progress for &'static str {
        fn progress(&self) -> (Stage, Option<Instant>) {
            (Stage::Connected, None)
        }
    }

    impl Progress for usize {
        fn progress(&self) -> (Stage, Option<Instant>) {
            (Stage::Connected, None)
        }
    }

    impl Progress for (Stage, Instant) {
        fn progress(&self) -> (Stage, Option<Instant>) {
            (self.0, Some(self.1))
        }
    }

    fn throttle(total: u32, per_source: u32, burst: u32, rate: u32) -> Throttle<&'static str> {
        let [total, per_source, burst, rate] =
            [total, per_source, burst, rate].map(|limit| NonZeroU32::new(limit).unwrap());
        let mut throttle = Throttle::new(Limits { total, per_source, burst, rate }, Penalties::default());
        throttle.penalties.longest = Delay(Duration::ZERO);
        throttle
    }

    /// A throttle with no limits but penalties.
    fn strict() -> Throttle<&'static str> {
        Throttle { penalties: Penalties::default(), ..throttle(u32::MAX, u32::MAX, u32::MAX, 1) }
    }

    type Started = Result<Ticket, Busy>;

    /// A start for which no other connection has to give way.
    fn begin(throttle: &mut Throttle<&'static str>, source: Source, now: Instant) -> Started {
        throttle.start(source, "", now).map(|(ticket, displaced)| {
            assert_eq!(displaced, None);
            ticket
        })
    }

    fn fail(throttle: &mut Throttle<&'static str>, source: Source, outcome: Outcome, now: Instant) {
        let ticket = begin(throttle, source, now).unwrap();
        throttle.finish(ticket, outcome, now);
    }

    #[test]
    fn the_total_holds_over_all_sources() {
        let mut throttle = throttle(2, 9, 9, 1);
        let now = Instant::now();
        let first = begin(&mut throttle, source("192.0.2.1"), now).unwrap();
        begin(&mut throttle, source("192.0.2.2"), now).unwrap();
        assert_eq!(begin(&mut throttle, source("192.0.2.3"), now), Err(Busy::Total));
        throttle.finish(first, Outcome::LoggedIn, now);
        assert!(begin(&mut throttle, source("192.0.2.3"), now).is_ok());
    }

    #[test]
    fn one_source_that_floods_leaves_room_for_others() {
        let mut throttle = throttle(100, 3, 100, 1);
        let now = Instant::now();
        for _ in 0..3 {
            begin(&mut throttle, source("192.0.2.1"), now).unwrap();
        }
        assert_eq!(begin(&mut throttle, source("192.0.2.1"), now), Err(Busy::Source));
        assert!(begin(&mut throttle, source("192.0.2.2"), now).is_ok());
    }

    #[test]
    fn who_holds_most_makes_room_with_its_oldest() {
        let mut throttle = throttle(4, 9, 9, 1);
        let now = Instant::now();
        let (many, few, third) = (source("192.0.2.1"), source("192.0.2.2"), source("192.0.2.3"));
        let mut start = |source, name| throttle.start(source, name, now).map(|(_, displaced)| displaced);
        for (source, name) in [(few, "few"), (many, "oldest"), (many, "older"), (many, "young")] {
            assert_eq!(start(source, name), Ok(None));
        }
        assert_eq!(start(many, "one more"), Err(Busy::Total), "not for itself");
        assert_eq!(start(third, "newcomer"), Ok(Some("oldest")));
        assert_eq!(start(third, "greedy"), Err(Busy::Total), "not for who would hold as many");
        assert_eq!(start(source("192.0.2.4"), "another"), Ok(Some("older")));
        assert_eq!(start(source("192.0.2.5"), "late"), Err(Busy::Total), "each has one");
    }

    #[test]
    fn who_was_displaced_is_finished_once() {
        let mut throttle = throttle(2, 9, 9, 1);
        let (now, many) = (Instant::now(), source("192.0.2.1"));
        let (first, _) = throttle.start(many, "first", now).unwrap();
        throttle.start(many, "second", now).unwrap();
        assert_eq!(throttle.start(source("192.0.2.2"), "", now).unwrap().1, Some("first"));
        throttle.finish(first, Outcome::Displaced, now);
        assert_eq!(throttle.pending.len(), 2);
        assert_eq!(throttle.sources[&account(many)].pending, 1);
    }

    /// A start or an end, by the number of the source or of the pending connection.
    #[derive(Clone, Debug)]
    enum Deed {
        Start(u8),
        Finish(usize),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let deed =
            prop_oneof![3 => (0..6_u8).prop_map(Deed::Start), 1 => any::<usize>().prop_map(Deed::Finish)];
        proptest::collection::vec(deed, 1..200)
    }

    proptest! {
        #[test]
        fn a_source_that_has_none_gets_in_while_another_has_two(deeds in deeds(), total in 1..12_u32) {
            let mut throttle = Throttle::new(
                Limits {
                    total: NonZeroU32::new(total).unwrap(),
                    per_source: NonZeroU32::MAX,
                    burst: NonZeroU32::MAX,
                    rate: NonZeroU32::MIN,
                },
                Penalties::default(),
            );
            let now = Instant::now();
            // The source and the ticket of each, in the order in which they started.
            let mut there = Vec::<(Source, Ticket)>::new();
            for (name, deed) in deeds.into_iter().enumerate() {
                let held = |source| there.iter().filter(|(owner, _)| *owner == source).count();
                match deed {
                    Deed::Start(number) => {
                        let source = Source::from(IpAddr::V4(u32::from(number).into()));
                        let most = there.iter().map(|(owner, _)| held(*owner)).max().unwrap_or(0);
                        let is_full = there.len() == usize::try_from(total).unwrap();
                        match throttle.start(source, name, now) {
                            Ok((ticket, None)) => {
                                prop_assert!(!is_full);
                                there.push((source, ticket));
                            }
                            Ok((ticket, Some(_))) => {
                                prop_assert!(is_full && most > held(source) + 1);
                                let gone = there.iter().position(|(owner, _)| held(*owner) == most).unwrap();
                                let (owner, displaced) = there.remove(gone);
                                prop_assert!(owner != source);
                                throttle.finish(displaced, Outcome::Displaced, now);
                                there.push((source, ticket));
                            }
                            Err(busy) => {
                                prop_assert_eq!(busy, Busy::Total);
                                prop_assert!(is_full && most <= held(source) + 1);
                            }
                        }
                    }
                    Deed::Finish(which) if !there.is_empty() => {
                        let (_, ticket) = there.remove(which % there.len());
                        throttle.finish(ticket, Outcome::Left, now);
                    }
                    Deed::Finish(_) => {}
                }
                let pending: Vec<_> = throttle.pending.keys().copied().collect();
                let expected: Vec<_> = there.iter().map(|(_, ticket)| ticket.number).collect();
                prop_assert_eq!(pending, expected);
                let counted: u32 = throttle.sources.values().map(|account| account.pending).sum();
                prop_assert_eq!(usize::try_from(counted).unwrap(), there.len());
            }
        }
    }

    #[test]
    fn failed_starts_are_paid_for_and_earned_back_with_time() {
        let mut throttle = throttle(100, 100, 2, 1);
        let (start, flooder) = (Instant::now(), source("192.0.2.1"));
        for _ in 0..2 {
            fail(&mut throttle, flooder, Outcome::Left, start);
        }
        assert_eq!(begin(&mut throttle, flooder, start), Err(Busy::Rate));
        assert_eq!(begin(&mut throttle, flooder, start + Duration::from_millis(999)), Err(Busy::Rate));
        assert!(begin(&mut throttle, flooder, start + Duration::from_millis(1000)).is_ok());
        assert_eq!(begin(&mut throttle, flooder, start + Duration::from_millis(1999)), Err(Busy::Rate));
        assert!(begin(&mut throttle, flooder, start + Duration::from_millis(2000)).is_ok());
    }

    #[test]
    fn a_login_costs_nothing() {
        let mut throttle = throttle(100, 100, 2, 1);
        let (now, office) = (Instant::now(), source("192.0.2.1"));
        for _ in 0..1000 {
            fail(&mut throttle, office, Outcome::LoggedIn, now);
        }
    }

    #[test]
    fn a_host_cannot_be_many_by_its_spelling() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    /// The nth /64 of a network.
    fn part(network: &str, n: u32) -> Source {
        let network = network.parse::<Ipv6Addr>().unwrap().to_bits();
        IpAddr::V6(Ipv6Addr::from_bits(network | (u128::from(n) << 64))).into()
    }

    #[test]
    fn a_larger_network_is_counted_as_one_too() {
        let now = Instant::now();
        for (network, share) in [("2001:db8:0:100::", 2), ("2001:db8::", 4)] {
            let step = if share == 2 { 1 } else { 256 };
            let mut throttle = throttle(u32::MAX, 10, u32::MAX, 1);
            let all: Vec<_> = (0..=10 * share).map(|n| part(network, n * step)).collect();
            let (last, rest) = all.split_last().unwrap();
            for one in rest {
                begin(&mut throttle, *one, now).unwrap();
            }
            assert_eq!(begin(&mut throttle, *last, now), Err(Busy::Source), "{network}");
            assert!(begin(&mut throttle, source("2001:db8:1::1"), now).is_ok(), "another /48");

            let mut throttle = strict();
            for one in (0..6 * share).map(|n| part(network, n * step)) {
                fail(&mut throttle, one, Outcome::Violation, now);
            }
            assert!(matches!(begin(&mut throttle, *last, now), Err(Busy::Penalized { .. })), "{network}");
            assert!(begin(&mut throttle, source("2001:db8:1::1"), now).is_ok(), "another /48");
        }
    }

    /// A throttle whose 200 places are held by as many sources, all at `stage` since `began`.
    fn held_by_many(stage: Stage, began: Instant) -> Throttle<(Stage, Instant)> {
        let limits = Limits::default();
        let mut throttle = Throttle::new(limits, Penalties::default());
        for n in 0..limits.total.get() {
            throttle.start(source(&format!("10.0.{}.{}", n / 250, n % 250)), (stage, began), began).unwrap();
        }
        throttle
    }

    #[test]
    fn a_newcomer_gets_in_beside_any_number_of_those_that_come_no_further() {
        let began = Instant::now();
        for stage in [Stage::Connected, Stage::Spoke, Stage::Encrypted, Stage::Signing] {
            let mut throttle = held_by_many(stage, began);
            let newcomer = |number: u32| source(&format!("192.0.2.{number}"));
            let just_now = throttle.start(newcomer(1), (Stage::Connected, began), began);
            assert_eq!(just_now, Err(Busy::Total), "{stage:?}: no client has had time");
            let now = began + stage.allowance();
            for number in 1..=35 {
                let (_, displaced) = throttle.start(newcomer(number), (Stage::Connected, now), now).unwrap();
                assert_eq!(displaced, Some((stage, began)), "{stage:?}: never another newcomer");
            }
        }
    }

    #[test]
    fn who_types_a_passphrase_stays_while_others_only_stand_there() {
        let began = Instant::now();
        let mut throttle = Throttle::new(Limits::default(), Penalties::default());
        let person = (Stage::Signing, began);
        throttle.start(source("192.0.2.1"), person, began).unwrap();
        // For 20 seconds, silent sources come, and each gives way to the next.
        for n in 0..2000_u32 {
            let now = began + Duration::from_millis((n * 10).into());
            let silent = source(&format!("10.1.{}.{}", n / 250, n % 250));
            if let Ok((_, displaced)) = throttle.start(silent, (Stage::Connected, now), now) {
                assert_ne!(displaced, Some(person), "after {n}");
            }
        }
        assert_eq!(throttle.pending.len(), 200);
    }

    #[test]
    fn of_those_that_stand_alike_the_larger_network_gives_way() {
        let began = Instant::now();
        let mut throttle = Throttle::new(Limits::default(), Penalties::default());
        let here = (Stage::Connected, began);
        for n in 0..180 {
            throttle.start(part("2001:db8:0:100::", n), here, began).unwrap();
        }
        for n in 0..20 {
            throttle.start(source(&format!("10.0.0.{n}")), (Stage::Spoke, began), began).unwrap();
        }
        let now = began + Duration::from_millis(500);
        for n in 0..20 {
            let newcomer = source(&format!("192.0.2.{n}"));
            assert_eq!(throttle.start(newcomer, (Stage::Connected, now), now).unwrap().1, Some(here));
        }
        assert_eq!(
            throttle.start(part("2001:db8:0:100::", 200), (Stage::Spoke, now), now).map(|(_, gone)| gone),
            Ok(Some(here)),
            "its own are worth no more"
        );
    }

    #[test]
    fn a_larger_network_counts_for_its_share_of_what_it_may_have() {
        let began = Instant::now();
        let limits = Limits { total: NonZeroU32::new(5).unwrap(), ..Limits::default() };
        let mut throttle = Throttle::new(limits, Penalties::default());
        // Three hosts of one /48, each in a /56 of its own, and one that has come twice.
        let all = ["2001:db8:0:100::1", "2001:db8:0:200::1", "2001:db8:0:300::1", "192.0.2.1", "192.0.2.1"];
        for (number, address) in all.into_iter().enumerate() {
            throttle.start(source(address), number, began).unwrap();
        }
        let now = began + Duration::from_millis(500);
        assert_eq!(throttle.start(source("198.51.100.1"), 5, now).unwrap().1, Some(3));
    }

    #[test]
    fn who_only_asks_is_refused_and_who_shows_what_cannot_be_read_is_not() {
        let (mut throttle, now) = (strict(), Instant::now());
        let (asks, unlucky) = (source("192.0.2.1"), source("192.0.2.2"));
        for _ in 0..12 {
            fail(&mut throttle, asks, Outcome::Refused, now);
        }
        assert!(matches!(begin(&mut throttle, asks, now), Err(Busy::Penalized { .. })));
        for _ in 0..1000 {
            fail(&mut throttle, unlucky, Outcome::Unreadable, now);
        }
    }

    #[test]
    fn a_source_that_only_fails_is_refused_until_it_has_worked_it_off() {
        let (mut throttle, start, bad) = (strict(), Instant::now(), source("192.0.2.1"));
        for _ in 0..6 {
            fail(&mut throttle, bad, Outcome::Violation, start);
        }
        let minute = Duration::from_secs(60);
        assert_eq!(begin(&mut throttle, bad, start), Err(Busy::Penalized { remaining: minute }));
        assert!(begin(&mut throttle, source("192.0.2.2"), start).is_ok());
        let almost = start + minute - Duration::from_millis(1);
        assert!(
            matches!(begin(&mut throttle, bad, almost), Err(Busy::Penalized { .. })),
            "not only below the threshold"
        );
        assert!(begin(&mut throttle, bad, start + minute).is_ok());
    }

    #[test]
    fn failures_that_are_far_apart_never_add_up() {
        let (mut throttle, start, clumsy) = (strict(), Instant::now(), source("192.0.2.1"));
        for attempt in 0..1000 {
            fail(&mut throttle, clumsy, Outcome::Refused, start + Duration::from_secs(5 * attempt));
        }
    }

    #[test]
    fn what_is_owed_has_an_end() {
        let (mut throttle, start, bad) = (strict(), Instant::now(), source("192.0.2.1"));
        for _ in 0..1000 {
            if let Ok(ticket) = begin(&mut throttle, bad, start) {
                throttle.finish(ticket, Outcome::Overdue, start);
            }
        }
        let longest = throttle.penalties.longest.0;
        assert!(begin(&mut throttle, bad, start + longest).is_ok());
    }

    #[test]
    fn an_office_is_not_locked_out_by_one_of_its_machines() {
        let (mut throttle, start, office) = (strict(), Instant::now(), source("192.0.2.1"));
        fail(&mut throttle, office, Outcome::LoggedIn, start);
        for second in 0..3600 {
            for _ in 0..10 {
                fail(&mut throttle, office, Outcome::Refused, start + Duration::from_secs(second));
            }
        }
        // No other client of that source logs in for a day.
        let tomorrow = start + PROVEN_FOR;
        for _ in 0..12 {
            fail(&mut throttle, office, Outcome::Refused, tomorrow - Duration::from_secs(1));
        }
        assert!(matches!(begin(&mut throttle, office, tomorrow), Err(Busy::Penalized { .. })));
    }

    #[test]
    fn a_health_check_costs_nothing() {
        let mut throttle = throttle(100, 100, 2, 1);
        let (now, balancer) = (Instant::now(), source("192.0.2.1"));
        for _ in 0..1000 {
            fail(&mut throttle, balancer, Outcome::Check, now);
        }
    }

    #[test]
    fn offenders_are_not_forgotten_for_the_sake_of_many_others() {
        let (mut throttle, start, bad) = (strict(), Instant::now(), source("2001:db8::1"));
        for _ in 0..6 {
            fail(&mut throttle, bad, Outcome::Violation, start);
        }
        // A new /48 for each, as the owner of a /32 has them, over 50 seconds.
        for n in 0..65_536_u32 {
            let now = start + Duration::from_millis((n / 1311 * 1000).into());
            let one = Ipv6Addr::from_bits((0x2001_0db9 << 96) | (u128::from(n) << 80));
            fail(&mut throttle, Source::from(IpAddr::V6(one)), Outcome::Refused, now);
        }
        let now = start + Duration::from_secs(50);
        assert!(matches!(begin(&mut throttle, bad, now), Err(Busy::Penalized { .. })));
        assert!(throttle.sources.len() <= REMEMBERED);
    }

    #[test]
    fn memory_stays_bounded_and_those_pending_are_never_forgotten() {
        let mut throttle = throttle(10, 1, 5, 1);
        let now = Instant::now();
        begin(&mut throttle, source("192.0.2.1"), now).unwrap();
        for n in 0..100_000_u32 {
            let source = Source::from(IpAddr::V4(n.into()));
            fail(&mut throttle, source, Outcome::Left, now);
        }
        assert!(throttle.sources.len() <= REMEMBERED, "{}", throttle.sources.len());
        assert_eq!(begin(&mut throttle, source("192.0.2.1"), now), Err(Busy::Source));
        // Of whom there is nothing to say any more is forgotten, and a newcomer is known again.
        begin(&mut throttle, source("198.51.100.1"), now + Duration::from_secs(60)).unwrap();
        assert_eq!(throttle.sources.len(), 2);
    }
}
