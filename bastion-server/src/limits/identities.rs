//! Limits connections, channels and bandwidth per identity.
//!
//! An identity is the certified key with the login name. The key id is free text that an authority may give
//! to many users, principals are roles, and a serial number changes with each certificate. But one key is
//! held by one person or program, also across renewals of its certificate, and each client that logs in with
//! it has proved to hold it.

use std::{
    collections::{HashMap, hash_map::Entry},
    num::{NonZeroU32, NonZeroU64},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::Deserialize;
use ssh_key::Fingerprint;
use ssh_transport::turns::{Rate, Turns};

use crate::{
    common::units::{BufferSize, ByteSize},
    identity::{Identity, LoginName},
    limits::bandwidth::Bandwidth,
};

/// The longest time that a channel which is opened too fast may wait for its turn. A longer wait would look
/// to the client like an unreachable target.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The most channels of one identity that may wait simultaneously. Each takes some kilobytes.
const WAITING_EACH: usize = 1000;
/// The most channels of all identities together that may wait simultaneously.
const WAITING_ALL: usize = 8000;

/// Limits on what one identity may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most SSH connections of one identity that may be open simultaneously. Default: 100.
    pub connections: NonZeroU32,
    /// The number of channels that one identity may open in a burst, before `opens_per_second` holds it back.
    /// Default: 2000.
    pub opens: NonZeroU32,
    /// The number of channels that one identity may open each second, over all its connections. Default: 500.
    pub opens_per_second: NonZeroU32,
    /// The most bytes that may wait in the bastion's memory for one identity, in both directions together and
    /// over all its connections. Default: `32MiB`.
    pub buffered_bytes: BufferSize,
    /// The most bytes that one identity may move each second, in both directions together and over all its
    /// connections, for example `100MiB`. Default: no limit.
    pub bytes_per_second: Option<ByteSize>,
}

impl Default for Limits {
    fn default() -> Self {
        const HUNDRED: NonZeroU32 = NonZeroU32::new(100).unwrap();
        const TWO_THOUSAND: NonZeroU32 = NonZeroU32::new(2000).unwrap();
        const FIVE_HUNDRED: NonZeroU32 = NonZeroU32::new(500).unwrap();
        Self {
            connections: HUNDRED,
            opens: TWO_THOUSAND,
            opens_per_second: FIVE_HUNDRED,
            buffered_bytes: BufferSize(ByteSize(32 << 20)),
            bytes_per_second: None,
        }
    }
}

impl Limits {
    pub fn opens(&self) -> Rate {
        Rate { burst: self.opens, per_second: self.opens_per_second }
    }

    fn flow(&self, now: Instant) -> Option<Arc<Bandwidth>> {
        let rate = NonZeroU64::new(self.bytes_per_second?.0)?;
        Some(Arc::new(Bandwidth::new(rate, now)))
    }
}

/// The identity has as many connections as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this key has as many connections as it may have; close one (limits.per_identity.connections)")]
pub(crate) struct TooMany;

impl TooMany {
    /// The reason code in metrics, records and messages.
    pub(crate) fn code(self) -> &'static str {
        "too_many_connections"
    }
}

/// Permission to open a channel after a wait, and the bandwidth that the channel shares.
#[derive(Clone, Debug)]
pub(crate) struct ChannelGrant {
    /// The time to wait first.
    pub wait: Duration,
    /// The channel's place among those that wait, held until it is dropped. `None` if the channel need not
    /// wait.
    pub waiting: Option<Waiting>,
    /// The rate that all channels of the identity share, if it is limited.
    pub flow: Option<Arc<Bandwidth>>,
}

/// A place among the channels that wait: of one identity, and of all.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    _each: Arc<()>,
    _all: Arc<()>,
}

/// The identity opens channels faster than it may, and too many wait already or this one would wait too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateExceeded;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Who {
    key: Fingerprint,
    login: LoginName,
}

#[derive(Debug)]
struct Account {
    connections: u32,
    opens: Turns,
    waiting: Arc<()>,
    flow: Option<Arc<Bandwidth>>,
}

/// Counts the channels of all identities that wait, by its references minus one.
type WaitingCount = Arc<Arc<()>>;

/// The key under which other modules keep an identity's accounts.
pub(crate) fn account_of(identity: &Identity) -> String {
    format!("{} {}", identity.key(), identity.login().as_str())
}

type Accounts = Arc<Mutex<HashMap<Who, Account>>>;

/// Counts the connections of each identity that is logged in. The number of sessions bounds the table: an
/// identity is dropped with its last connection.
#[derive(Clone, Debug)]
pub(crate) struct Quotas {
    limits: Limits,
    accounts: Accounts,
    waiting: WaitingCount,
}

/// One connection of an identity, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    limits: Limits,
    accounts: Accounts,
    waiting: WaitingCount,
    who: Who,
}

impl Quotas {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, accounts: Arc::default(), waiting: Arc::default() }
    }

    /// Counts one more connection of an identity.
    ///
    /// # Errors
    /// When the identity has as many as it may have.
    pub(crate) fn enter(&self, identity: &Identity, now: Instant) -> Result<ConnectionSlot, TooMany> {
        self.count(Who { key: identity.key(), login: identity.login().clone() }, now)
    }

    fn count(&self, who: Who, now: Instant) -> Result<ConnectionSlot, TooMany> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(who.clone()).or_insert_with(|| Account {
            connections: 0,
            opens: Turns::new(now),
            waiting: Arc::default(),
            flow: self.limits.flow(now),
        });
        if account.connections >= self.limits.connections.get() {
            return Err(TooMany);
        }
        account.connections += 1;
        Ok(ConnectionSlot {
            limits: self.limits,
            accounts: Arc::clone(&self.accounts),
            waiting: Arc::clone(&self.waiting),
            who,
        })
    }
}

impl ConnectionSlot {
    /// Counts a channel that is to be opened, and returns when it may be.
    ///
    /// # Errors
    /// When the identity opens channels too fast for this one to wait.
    pub(crate) fn open(&self, now: Instant) -> Result<ChannelGrant, RateExceeded> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.get_mut(&self.who).ok_or(RateExceeded)?;
        // One reference of each count belongs to the account, not to a channel.
        let room = Arc::strong_count(&account.waiting) <= WAITING_EACH
            && Arc::strong_count(self.waiting.as_ref()) <= WAITING_ALL;
        let waiting = room.then(|| Waiting {
            _each: Arc::clone(&account.waiting),
            _all: Arc::clone(self.waiting.as_ref()),
        });
        let longest = if room { LONGEST_WAIT } else { Duration::ZERO };
        let wait = account.opens.take(self.limits.opens(), longest, now).ok_or(RateExceeded)?;
        Ok(ChannelGrant { wait, waiting, flow: account.flow.clone() })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut account) = accounts.entry(self.who.clone()) {
            account.get_mut().connections -= 1;
            if account.get().connections == 0 {
                account.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::certificate::tests::admitted;

    fn who(key: u8, login: &str) -> Who {
        Who { key: Fingerprint::Sha256([key; 32]), login: LoginName::new(login) }
    }

    fn quotas(connections: u32, opens: u32, opens_per_second: u32) -> Quotas {
        let [connections, opens, opens_per_second] =
            [connections, opens, opens_per_second].map(|limit| NonZeroU32::new(limit).unwrap());
        Quotas::new(Limits { connections, opens, opens_per_second, ..Limits::default() })
    }

    #[test]
    fn connections_are_counted_by_key_and_name_and_forgotten_when_they_end() {
        let (quotas, now) = (quotas(2, 9, 9), Instant::now());
        let first = quotas.count(who(1, "tunnel"), now).unwrap();
        let second = quotas.count(who(1, "tunnel"), now).unwrap();
        assert_eq!(quotas.count(who(1, "tunnel"), now).unwrap_err(), TooMany);
        let other_name = quotas.count(who(1, "admin"), now).unwrap();
        let other_key = quotas.count(who(2, "tunnel"), now).unwrap();
        drop(first);
        let again = quotas.count(who(1, "tunnel"), now).unwrap();
        drop((second, other_name, other_key, again));
        assert!(quotas.accounts.lock().unwrap().is_empty());
    }

    #[test]
    fn one_identity_has_one_rate_and_one_account() {
        let now = Instant::now();
        let flow = |slot: &ConnectionSlot| slot.open(now).unwrap().flow;
        let limits = Limits { bytes_per_second: Some(ByteSize(1000)), ..Limits::default() };
        let paced = Quotas::new(limits);
        let [first, second] = [(); 2].map(|()| paced.count(who(1, "tunnel"), now).unwrap());
        let other = paced.count(who(2, "tunnel"), now).unwrap();
        let [first, second, other] = [first, second, other].map(|slot| flow(&slot).unwrap());
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        assert!(flow(&quotas(9, 9, 9).count(who(1, "tunnel"), now).unwrap()).is_none());
        let identity = admitted(&["dev"], true);
        assert_eq!(account_of(&identity), format!("{} tunnel", identity.key()));
    }

    #[test]
    fn opens_are_counted_over_all_connections_of_an_identity() {
        let (quotas, now) = (quotas(9, 3, 1), Instant::now());
        let first = quotas.count(who(1, "tunnel"), now).unwrap();
        let second = quotas.count(who(1, "tunnel"), now).unwrap();
        let other = quotas.count(who(2, "tunnel"), now).unwrap();
        let (second_later, at_once) = (now + Duration::from_secs(1), Some(Duration::ZERO));
        let wait = |member: &ConnectionSlot, now| member.open(now).ok().map(|turn| turn.wait);
        for _ in 0..3 {
            assert_eq!(wait(&first, now), at_once);
        }
        assert_eq!(wait(&other, now), at_once);
        assert_eq!(wait(&second, second_later), at_once);
        for seconds in 1..=LONGEST_WAIT.as_secs() {
            assert_eq!(wait(&first, second_later), Some(Duration::from_secs(seconds)), "in turn");
        }
        assert_eq!(second.open(second_later).unwrap_err(), RateExceeded, "too long");
        assert_eq!(wait(&other, second_later), at_once);
    }

    #[test]
    fn who_waits_takes_a_place_of_a_bounded_number() {
        let (quotas, now) = (quotas(1, 1, 1000), Instant::now());
        let first = quotas.count(who(1, "tunnel"), now).unwrap();
        let held: Vec<ChannelGrant> = (0..WAITING_EACH).map(|_| first.open(now).unwrap()).collect();
        assert_eq!(first.open(now).unwrap_err(), RateExceeded);
        drop(held);
        assert!(first.open(now).unwrap().wait >= Duration::from_millis(999));
        let mut held = Vec::new();
        let members: Vec<ConnectionSlot> =
            (2..=11).map(|key| quotas.count(who(key, "tunnel"), now).unwrap()).collect();
        for member in &members {
            held.extend((0..WAITING_EACH).filter_map(|_| member.open(now).ok()));
        }
        assert!(held.len() <= WAITING_ALL + members.len(), "{}", held.len());
        let newcomer = quotas.count(who(99, "tunnel"), now).unwrap();
        assert_eq!(
            newcomer.open(now).unwrap().wait,
            Duration::ZERO,
            "who need not wait gets in all the same"
        );
    }
}
