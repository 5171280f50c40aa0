//! Decides, purely, whether a connection that has not yet proved who it is may start.
//!
//! Three bounds hold at once: how many such connections there may be in all, how many from one source, and how fast
//! one source may begin them. A connection that ends in a login gives its token back, so an office behind one address
//! that reconnects all at once is not mistaken for a flood; only starts that come to nothing are paid for.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use serde::Deserialize;

/// Idle sources remembered beyond those that have a connection pending; past it the idle ones are forgotten.
const REMEMBERED: usize = 4096;

/// The bounds on connections that have not logged in yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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

/// Why a connection may not start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// `limits.max_startups.total` connections are logging in already.
    #[error("too many connections are logging in (limits.max_startups.total)")]
    Total,
    /// This source has `limits.max_startups.per_source` of them.
    #[error("too many connections from this source are logging in (limits.max_startups.per_source)")]
    Source,
    /// This source started more connections that came to nothing than `burst` and `rate` allow.
    #[error("too many failed logins from this source (limits.max_startups.burst and .rate)")]
    Rate,
}

impl Busy {
    /// The stable name of this reason in metrics and logs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Total => "startups_total",
            Self::Source => "startups_source",
            Self::Rate => "startups_rate",
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
    tokens: u32,
    refilled: Instant,
}

impl Account {
    /// Gives back the tokens of the whole seconds that passed; the rest of a second goes on counting.
    fn refill(&mut self, limits: &Limits, now: Instant) {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        let earned = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(limits.rate.get());
        self.tokens = self.tokens.saturating_add(earned).min(limits.burst.get());
        self.refilled += Duration::from_secs(seconds);
    }
}

/// The count of connections that are logging in.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    pending: u32,
    sources: HashMap<Source, Account>,
}

impl Throttle {
    /// A throttle that has seen nobody.
    pub fn new(limits: Limits) -> Self {
        Self { limits, pending: 0, sources: HashMap::new() }
    }

    /// Counts a start, which [`finish`](Self::finish) must end, or says why it may not be.
    pub fn start(&mut self, source: Source, now: Instant) -> Result<(), Busy> {
        if self.pending >= self.limits.total.get() {
            return Err(Busy::Total);
        }
        if self.sources.len() >= REMEMBERED + self.pending as usize {
            self.sources.retain(|_, account| account.pending > 0);
        }
        let limits = &self.limits;
        let account = self.sources.entry(source).or_insert(Account {
            pending: 0,
            tokens: limits.burst.get(),
            refilled: now,
        });
        account.refill(limits, now);
        if account.pending >= limits.per_source.get() {
            return Err(Busy::Source);
        }
        account.tokens = account.tokens.checked_sub(1).ok_or(Busy::Rate)?;
        account.pending += 1;
        self.pending += 1;
        Ok(())
    }

    /// Ends a start that [`start`](Self::start) allowed; one that ended in a login is given its token back.
    pub fn finish(&mut self, source: Source, logged_in: bool) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(account) = self.sources.get_mut(&source) {
            account.pending = account.pending.saturating_sub(1);
            if logged_in {
                account.tokens = account.tokens.saturating_add(1).min(self.limits.burst.get());
            }
        }
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
        Throttle::new(Limits { total, per_source, burst, rate })
    }

    #[test]
    fn the_total_holds_over_all_sources() {
        let mut throttle = throttle(2, 9, 9, 1);
        let now = Instant::now();
        throttle.start(source("192.0.2.1"), now).unwrap();
        throttle.start(source("192.0.2.2"), now).unwrap();
        assert_eq!(throttle.start(source("192.0.2.3"), now), Err(Busy::Total));
        throttle.finish(source("192.0.2.1"), true);
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
            throttle.finish(flooder, false);
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
            throttle.finish(office, true);
        }
    }

    #[test]
    fn a_host_cannot_be_many_by_its_spelling() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn memory_stays_bounded_and_those_pending_are_never_forgotten() {
        let mut throttle = throttle(10, 1, 5, 1);
        let now = Instant::now();
        throttle.start(source("192.0.2.1"), now).unwrap();
        for n in 0..100_000_u32 {
            let source = Source::from(IpAddr::V4(n.into()));
            throttle.start(source, now).unwrap();
            throttle.finish(source, false);
        }
        assert!(throttle.sources.len() <= REMEMBERED + 2, "{}", throttle.sources.len());
        assert_eq!(throttle.start(source("192.0.2.1"), now), Err(Busy::Source));
    }
}
