//! Decides, purely, whether a connection that has not yet proved who it is may start.
//!
//! Three bounds hold at once: how many such connections there may be in all, how many from one source, and how fast
//! one source may begin them. A connection that ends in a login gives its token back, so an office behind one address
//! that reconnects all at once is not mistaken for a flood; only starts that come to nothing are paid for.
//!
//! Beyond that a source runs up penalties, in seconds, for what came to nothing; time works them off, second by second,
//! and a login clears them. Past a threshold the source is refused until they are worked off. A source from which
//! somebody logged in during the last day is spared that: behind it is an office, of which one machine misbehaves, and
//! all that its failures cost the bastion is held by the other bounds.
//!
//! The table of sources is bounded. What makes room in it is only who owes nothing, so that nobody buys forgetfulness
//! by coming from many addresses; and a source for which there is no room is a new one, which would start with a clean
//! sheet anyway, and is still held by the bound on all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    bucket::{Bucket, Size},
    unit::{Delay, Period},
};

/// Sources that are remembered; some 4 MiB.
const REMEMBERED: usize = 1 << 15;
/// How often at most the table is searched for those that need not be remembered.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a login speaks for its source.
const PROVEN_FOR: Duration = Duration::from_secs(24 * 3600);

/// The bounds on connections that have not logged in yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections that may be between accept and login at once, from everywhere.
    pub total: NonZeroU32,
    /// The same, from one source: an IPv4 address or an IPv6 /64.
    pub per_source: NonZeroU32,
    /// Failed starts that one source may make at once before `rate` holds it back.
    pub burst: NonZeroU32,
    /// Failed starts that one source gets back each second.
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

impl Limits {
    fn starts(&self) -> Size {
        Size { burst: self.burst, rate: self.rate }
    }
}

/// What a source pays for a connection that came to nothing, and when it is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Penalties {
    /// For a connection whose logins were refused.
    pub login_refused: Delay,
    /// For one that was cut at the login deadline.
    pub no_login: Delay,
    /// For one that broke the protocol.
    pub violation: Delay,
    /// What a source may owe before it is refused.
    pub threshold: Period,
    /// The most that it can owe. Nothing stands for no penalties.
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
            Outcome::LoggedIn | Outcome::Check | Outcome::Silent | Outcome::Left => Duration::ZERO,
            Outcome::Refused => self.login_refused.0,
            Outcome::Overdue => self.no_login.0,
            Outcome::Violation => self.violation.0,
        }
    }
}

/// What became of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody proved who they are.
    LoggedIn,
    /// A trusted proxy looked whether anybody is here.
    Check,
    /// The client left without a word.
    Silent,
    /// The client left without having been refused anything.
    Left,
    /// What the client showed did not let it in.
    Refused,
    /// The login deadline passed.
    Overdue,
    /// The client did not keep to the protocol.
    Violation,
}

/// Why a connection may not start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// `limits.max_startups.total` connections are logging in already.
    #[error("too many connections are logging in; try again in a moment")]
    Total,
    /// This source has `limits.max_startups.per_source` of them.
    #[error("too many connections from your address are logging in; try again in a moment")]
    Source,
    /// This source started more connections that came to nothing than `burst` and `rate` allow.
    #[error("too many connections from your address came to nothing; try again in a moment")]
    Rate,
    /// This source owes too much.
    #[error("too many logins from your address failed; try again in {} s", .remaining.as_secs() + 1)]
    Penalized {
        /// Until it owes nothing.
        remaining: Duration,
    },
}

impl Busy {
    /// The stable name of this reason in metrics, logs and messages.
    pub fn code(self) -> &'static str {
        match self {
            Self::Total => "startups_total",
            Self::Source => "startups_source",
            Self::Rate => "startups_rate",
            Self::Penalized { .. } => "source_penalized",
        }
    }

    /// The setting behind it.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Total => "limits.max_startups.total",
            Self::Source => "limits.max_startups.per_source",
            Self::Rate => "limits.max_startups.burst and .rate",
            Self::Penalized { .. } => "limits.penalties",
        }
    }
}

/// Who a start is counted against: one IPv4 address, or the /64 that one IPv6 host has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        })
    }
}

/// What is known of one source.
#[derive(Debug)]
struct Account {
    pending: u32,
    starts: Bucket,
    /// When it will owe nothing.
    clear_at: Instant,
    /// Whether it is refused until then.
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

    /// Whether a new account would say the same.
    fn is_blank(&mut self, limits: &Limits, now: Instant) -> bool {
        self.pending == 0
            && self.owes(now).is_zero()
            && !self.is_proven(now)
            && self.starts.is_full(limits.starts(), now)
    }
}

/// The count of connections that are logging in, and the memory of what became of them.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    penalties: Penalties,
    pending: u32,
    sources: HashMap<Source, Account>,
    swept: Option<Instant>,
}

impl Throttle {
    /// A throttle that has seen nobody.
    pub fn new(limits: Limits, penalties: Penalties) -> Self {
        Self { limits, penalties, pending: 0, sources: HashMap::new(), swept: None }
    }

    /// Counts a start, which [`finish`](Self::finish) must end, or says why it may not be.
    ///
    /// # Errors
    /// When it may not be.
    pub fn start(&mut self, source: Source, now: Instant) -> Result<(), Busy> {
        if self.pending >= self.limits.total.get() {
            return Err(Busy::Total);
        }
        let limits = self.limits;
        if let Some(account) = self.account(source, now) {
            let remaining = account.owes(now);
            account.penalized &= !remaining.is_zero();
            if account.penalized && !account.is_proven(now) {
                return Err(Busy::Penalized { remaining });
            }
            if account.pending >= limits.per_source.get() {
                return Err(Busy::Source);
            }
            account.starts.take(limits.starts(), now).ok_or(Busy::Rate)?;
            account.pending += 1;
        }
        self.pending += 1;
        Ok(())
    }

    /// Ends a start that [`start`](Self::start) allowed.
    pub fn finish(&mut self, source: Source, outcome: Outcome, now: Instant) {
        self.pending = self.pending.saturating_sub(1);
        let (limits, penalties) = (self.limits, self.penalties);
        // Where there was no room for it before there may be now, and there may be more pending than were counted.
        let Some(account) = self.account(source, now) else { return };
        account.pending = account.pending.saturating_sub(1);
        match outcome {
            Outcome::LoggedIn => {
                account.starts.put_back(limits.starts());
                account.logged_in_at = Some(now);
                account.clear_at = now;
                account.penalized = false;
            }
            Outcome::Check => account.starts.put_back(limits.starts()),
            Outcome::Silent | Outcome::Left | Outcome::Refused | Outcome::Overdue | Outcome::Violation => {
                let owed = account.owes(now).saturating_add(penalties.of(outcome)).min(penalties.longest.0);
                account.clear_at = now + owed;
                account.penalized |= owed >= penalties.threshold.0;
            }
        }
    }

    /// What is known of a source, if there is room to know it.
    fn account(&mut self, source: Source, now: Instant) -> Option<&mut Account> {
        let limits = self.limits;
        let is_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if self.sources.len() >= REMEMBERED && is_due && !self.sources.contains_key(&source) {
            self.swept = Some(now);
            self.sources.retain(|_, account| !account.is_blank(&limits, now));
        }
        if self.sources.len() >= REMEMBERED {
            return self.sources.get_mut(&source);
        }
        Some(self.sources.entry(source).or_insert_with(|| Account {
            pending: 0,
            starts: Bucket::full(limits.starts(), now),
            clear_at: now,
            penalized: false,
            logged_in_at: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn throttle(total: u32, per_source: u32, burst: u32, rate: u32) -> Throttle {
        let [total, per_source, burst, rate] =
            [total, per_source, burst, rate].map(|limit| NonZeroU32::new(limit).unwrap());
        let mut throttle = Throttle::new(Limits { total, per_source, burst, rate }, Penalties::default());
        throttle.penalties.longest = Delay(Duration::ZERO);
        throttle
    }

    /// With nothing in the way but penalties.
    fn strict() -> Throttle {
        Throttle { penalties: Penalties::default(), ..throttle(u32::MAX, u32::MAX, u32::MAX, 1) }
    }

    fn fail(throttle: &mut Throttle, source: Source, outcome: Outcome, now: Instant) {
        throttle.start(source, now).unwrap();
        throttle.finish(source, outcome, now);
    }

    #[test]
    fn the_total_holds_over_all_sources() {
        let mut throttle = throttle(2, 9, 9, 1);
        let now = Instant::now();
        throttle.start(source("192.0.2.1"), now).unwrap();
        throttle.start(source("192.0.2.2"), now).unwrap();
        assert_eq!(throttle.start(source("192.0.2.3"), now), Err(Busy::Total));
        throttle.finish(source("192.0.2.1"), Outcome::LoggedIn, now);
        assert_eq!(throttle.start(source("192.0.2.3"), now), Ok(()));
    }

    #[test]
    fn one_source_that_floods_leaves_room_for_others() {
        let mut throttle = throttle(100, 3, 100, 1);
        let now = Instant::now();
        for _ in 0..3 {
            throttle.start(source("192.0.2.1"), now).unwrap();
        }
        assert_eq!(throttle.start(source("192.0.2.1"), now), Err(Busy::Source));
        assert_eq!(throttle.start(source("192.0.2.2"), now), Ok(()));
    }

    #[test]
    fn failed_starts_are_paid_for_and_earned_back_with_time() {
        let mut throttle = throttle(100, 100, 2, 1);
        let (start, flooder) = (Instant::now(), source("192.0.2.1"));
        for _ in 0..2 {
            throttle.start(flooder, start).unwrap();
            throttle.finish(flooder, Outcome::Left, start);
        }
        assert_eq!(throttle.start(flooder, start), Err(Busy::Rate));
        assert_eq!(throttle.start(flooder, start + Duration::from_millis(999)), Err(Busy::Rate));
        assert_eq!(throttle.start(flooder, start + Duration::from_millis(1000)), Ok(()));
        assert_eq!(throttle.start(flooder, start + Duration::from_millis(1999)), Err(Busy::Rate));
        assert_eq!(throttle.start(flooder, start + Duration::from_millis(2000)), Ok(()));
    }

    #[test]
    fn a_login_costs_nothing() {
        let mut throttle = throttle(100, 100, 2, 1);
        let (now, office) = (Instant::now(), source("192.0.2.1"));
        for _ in 0..1000 {
            throttle.start(office, now).unwrap();
            throttle.finish(office, Outcome::LoggedIn, now);
        }
    }

    #[test]
    fn a_host_cannot_be_many_by_its_spelling() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn a_source_that_only_fails_is_refused_until_it_has_worked_it_off() {
        let (mut throttle, start, bad) = (strict(), Instant::now(), source("192.0.2.1"));
        for _ in 0..6 {
            fail(&mut throttle, bad, Outcome::Violation, start);
        }
        let minute = Duration::from_secs(60);
        assert_eq!(throttle.start(bad, start), Err(Busy::Penalized { remaining: minute }));
        assert_eq!(throttle.start(source("192.0.2.2"), start), Ok(()));
        let almost = start + minute - Duration::from_millis(1);
        assert!(
            matches!(throttle.start(bad, almost), Err(Busy::Penalized { .. })),
            "not only below the threshold"
        );
        assert_eq!(throttle.start(bad, start + minute), Ok(()));
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
            throttle.start(source("192.0.2.1"), start).ok();
            throttle.finish(bad, Outcome::Overdue, start);
        }
        assert_eq!(throttle.start(bad, start + throttle.penalties.longest.0), Ok(()));
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
        // Not a word from anybody else there for a day.
        let tomorrow = start + PROVEN_FOR;
        for _ in 0..12 {
            throttle.start(office, tomorrow - Duration::from_secs(1)).unwrap();
            throttle.finish(office, Outcome::Refused, tomorrow - Duration::from_secs(1));
        }
        assert!(matches!(throttle.start(office, tomorrow), Err(Busy::Penalized { .. })));
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
        // A new /64 for each, as one /48 has them, over 50 seconds.
        for n in 0..65_536_u32 {
            let now = start + Duration::from_millis((n / 1311 * 1000).into());
            let one = Ipv6Addr::from_bits((0x2001_0db9 << 96) | (u128::from(n) << 64));
            fail(&mut throttle, Source::from(IpAddr::V6(one)), Outcome::Refused, now);
        }
        let now = start + Duration::from_secs(50);
        assert!(matches!(throttle.start(bad, now), Err(Busy::Penalized { .. })));
        assert!(throttle.sources.len() <= REMEMBERED);
    }

    #[test]
    fn memory_stays_bounded_and_those_pending_are_never_forgotten() {
        let mut throttle = throttle(10, 1, 5, 1);
        let now = Instant::now();
        throttle.start(source("192.0.2.1"), now).unwrap();
        for n in 0..100_000_u32 {
            let source = Source::from(IpAddr::V4(n.into()));
            throttle.start(source, now).unwrap();
            throttle.finish(source, Outcome::Left, now);
        }
        assert!(throttle.sources.len() <= REMEMBERED, "{}", throttle.sources.len());
        assert_eq!(throttle.start(source("192.0.2.1"), now), Err(Busy::Source));
    }
}
