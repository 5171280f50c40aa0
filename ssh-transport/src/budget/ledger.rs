//! Accounts for the bytes that peers make a process hold, and decides who reads on and who ends. Pure: the clock is an argument.
//!
//! A *carrier* is one connection, a *stream* one forwarded connection on it; an *owner* is the identity that they are accounted
//! to, an identity. What a stream holds waits for its socket; what a carrier holds was read ahead, or waits for a peer
//! that does not read.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A holder that has moved something within this time is slow and not stalled, however little memory is left.
const BREATH: Duration = Duration::from_secs(1);

/// An owner with less than this may read on while the process's budget is spent by others, in bytes.
const ALLOWANCE: u64 = 1024 * 1024;

/// A stall is not worth ending that would give back less than this part of what the largest one holds.
const WORTH: u64 = 8;

/// How many bytes may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// By everyone together.
    pub process: u64,
    /// By all carriers and streams of one owner.
    pub owner: u64,
    /// By one stream, before it holds up its carrier: nothing more is read from there.
    pub stream: u64,
    /// How long a stream that holds up its carrier may take nothing.
    pub patience: Duration,
}

impl Limits {
    /// No limit but that of one stream, for a process that serves its own user.
    pub fn of_streams(stream: u64, patience: Duration) -> Self {
        Self { process: u64::MAX, owner: u64::MAX, stream, patience }
    }
}

/// Names a carrier or a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

/// Why a holder must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its owner's budget is spent, and it has stalled longest.
    OwnerBudget,
    /// The process's budget is spent, its owner holds most, and of that owner's it has stalled longest.
    ProcessBudget,
    /// It holds up its carrier, and took nothing for too long.
    Stalled,
}

/// Which carriers may read on that could not before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// None.
    None,
    /// One.
    Carrier(Id),
    /// All of one owner, or of all of them.
    Many,
}

#[derive(Debug)]
struct Holder {
    owner: u64,
    carrier: Id,
    /// Its sender sends no more than it has room for.
    has_credit: bool,
    held: u64,
    /// Since when it could not move anything.
    stalled: Option<Instant>,
    /// Nothing more comes for it, so it holds up no other stream.
    finished: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Owner {
    held: u64,
    holders: usize,
}

/// The account.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    total: u64,
    last: u64,
    holders: HashMap<Id, Holder>,
    owners: HashMap<u64, Owner>,
    names: HashMap<String, u64>,
    /// How many streams hold up a carrier; a carrier that none holds up is missing.
    holding_up: HashMap<Id, usize>,
}

impl Ledger {
    /// Nothing is held.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            total: 0,
            last: 0,
            holders: HashMap::new(),
            owners: HashMap::new(),
            names: HashMap::new(),
            holding_up: HashMap::new(),
        }
    }

    /// A new carrier of the owner of that name.
    pub fn carrier(&mut self, owner: &str) -> Id {
        self.carrier_of(owner, false)
    }

    /// A new carrier whose streams have credit: what waits for one of them holds up no other, however much it is.
    pub fn association(&mut self, owner: &str) -> Id {
        self.carrier_of(owner, true)
    }

    fn carrier_of(&mut self, owner: &str, has_credit: bool) -> Id {
        let id = self.next();
        let owner = match self.names.get(owner) {
            Some(known) => *known,
            None => {
                self.names.insert(owner.to_owned(), id.0);
                id.0
            }
        };
        self.enter(id, owner, id, has_credit)
    }

    /// A new stream on a carrier.
    pub fn stream(&mut self, carrier: Id) -> Id {
        let id = self.next();
        // A carrier outlives its streams.
        let (owner, has_credit) = match self.holders.get(&carrier) {
            Some(holder) => (holder.owner, holder.has_credit),
            None => (carrier.0, false),
        };
        self.enter(id, owner, carrier, has_credit)
    }

    fn next(&mut self) -> Id {
        self.last += 1;
        Id(self.last)
    }

    fn enter(&mut self, id: Id, owner: u64, carrier: Id, has_credit: bool) -> Id {
        let holder =
            Holder { owner, carrier, has_credit, held: 0, stalled: None, finished: false, ended: false };
        self.holders.insert(id, holder);
        self.owners.entry(owner).or_default().holders += 1;
        id
    }

    /// It holds so many bytes more. They are there already: what can be refused is the next read. Says whether
    /// a stream may have to end for it.
    pub fn charge(&mut self, id: Id, bytes: u64) -> bool {
        self.change(id, |holder| holder.held = holder.held.saturating_add(bytes));
        !self.holding_up.is_empty() || self.total >= self.limits.process || self.has_spent(id)
    }

    /// It holds so many bytes less.
    pub fn release(&mut self, id: Id, bytes: u64) -> Opened {
        self.change(id, |holder| holder.held = holder.held.saturating_sub(bytes))
    }

    /// It cannot move anything at present.
    pub fn stall(&mut self, id: Id, now: Instant) {
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.stalled.get_or_insert(now);
        }
    }

    /// It has moved something.
    pub fn progress(&mut self, id: Id) {
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.stalled = None;
        }
    }

    /// Nothing more comes for a stream.
    pub fn finish(&mut self, id: Id) -> Opened {
        self.change(id, |holder| holder.finished = true)
    }

    /// A holder is gone, and what it held.
    pub fn leave(&mut self, id: Id) -> Opened {
        let opened = self.change(id, |holder| {
            holder.held = 0;
            holder.finished = true;
        });
        let Some(holder) = self.holders.remove(&id) else { return opened };
        let Some(owner) = self.owners.get_mut(&holder.owner) else { return opened };
        owner.holders -= 1;
        if owner.holders > 0 {
            return opened;
        }
        self.owners.remove(&holder.owner);
        self.names.retain(|_, known| *known != holder.owner);
        // Fewer owners share the process's budget.
        if self.total >= self.limits.process { Opened::Many } else { opened }
    }

    /// How long a stream that holds up its carrier may take nothing, from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.limits.patience = patience;
    }

    /// Whether more may be read from a carrier's peer.
    pub fn may_read(&self, carrier: Id) -> bool {
        !self.holding_up.contains_key(&carrier) && !self.has_spent(carrier)
    }

    /// Whether the owner of a holder has spent its own budget, or more than its share of the process's.
    pub fn has_spent(&self, id: Id) -> bool {
        self.holders.get(&id).is_some_and(|holder| self.owner_has_spent(holder.owner))
    }

    fn owner_has_spent(&self, owner: u64) -> bool {
        let held = self.owners.get(&owner).map_or(0, |owner| owner.held);
        held >= self.limits.owner || (self.total >= self.limits.process && held >= self.allowance())
    }

    /// What an owner may hold in any case.
    fn allowance(&self) -> u64 {
        let owners = u64::try_from(self.owners.len()).unwrap_or(u64::MAX).max(1);
        ALLOWANCE.min(self.limits.process / owners)
    }

    /// How much is held, in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether a stream may have to end soon.
    pub fn is_pressed(&self) -> bool {
        !self.holding_up.is_empty()
            || self.total >= self.limits.process
            || self.owners.values().any(|owner| owner.held >= self.limits.owner)
    }

    /// Who must end now. Each is named once; while one of an owner's has not yet gone, none follows.
    pub fn judge(&mut self, now: Instant) -> Vec<(Id, Reason)> {
        let mut judged: Vec<(Id, Reason)> =
            self.hold_up_for_too_long(now).into_iter().map(|id| (id, Reason::Stalled)).collect();
        self.end(&judged);
        let spent: Vec<u64> = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.held >= self.limits.owner)
            .map(|(owner, _)| *owner)
            .collect();
        for owner in spent {
            let found = self.longest_stalled(owner, now).map(|id| (id, Reason::OwnerBudget));
            self.end(found.as_slice());
            judged.extend(found);
        }
        if self.total >= self.limits.process && !self.holders.values().any(|holder| holder.ended) {
            let mut greediest: Vec<(u64, u64)> = self
                .owners
                .iter()
                .filter(|(_, owner)| owner.held >= self.allowance())
                .map(|(id, owner)| (owner.held, *id))
                .collect();
            greediest.sort_unstable_by(|a, b| b.cmp(a));
            let found = greediest
                .into_iter()
                .find_map(|(_, owner)| self.longest_stalled(owner, now))
                .map(|id| (id, Reason::ProcessBudget));
            self.end(found.as_slice());
            judged.extend(found);
        }
        judged
    }

    fn hold_up_for_too_long(&self, now: Instant) -> Vec<Id> {
        let stalls = self.holders.iter().filter(|(id, holder)| {
            holder.stalled_for(now) >= Some(self.limits.patience)
                && !holder.ended
                && self.holds_up(**id, holder)
        });
        stalls.map(|(id, _)| *id).collect()
    }

    /// Of all that an owner has, unless one of them is ending already.
    fn longest_stalled(&self, owner: u64, now: Instant) -> Option<Id> {
        let breath = BREATH.min(self.limits.patience);
        let of_owner = || self.holders.iter().filter(|(_, holder)| holder.owner == owner);
        if of_owner().any(|(_, holder)| holder.ended) {
            return None;
        }
        let stalls =
            || of_owner().filter(|(_, holder)| holder.held > 0 && holder.stalled_for(now) >= Some(breath));
        let largest = stalls().map(|(_, holder)| holder.held).max()?;
        let worth = stalls().filter(|(_, holder)| holder.held >= largest / WORTH);
        worth.min_by_key(|(id, holder)| (holder.stalled, **id)).map(|(id, _)| *id)
    }

    fn end(&mut self, judged: &[(Id, Reason)]) {
        for (id, _) in judged {
            if let Some(holder) = self.holders.get_mut(id) {
                holder.ended = true;
            }
        }
    }

    fn holds_up(&self, id: Id, holder: &Holder) -> bool {
        holder.carrier != id && !holder.has_credit && !holder.finished && holder.held >= self.limits.stream
    }

    /// Changes a holder, and keeps all sums.
    fn change(&mut self, id: Id, change: impl FnOnce(&mut Holder)) -> Opened {
        let Some(mut holder) = self.holders.remove(&id) else { return Opened::None };
        let (owner, carrier) = (holder.owner, holder.carrier);
        let (spent, crowded) = (self.owner_has_spent(owner), self.total >= self.limits.process);
        let (held, held_up) = (holder.held, self.holds_up(id, &holder));
        change(&mut holder);
        self.total = (self.total - held).saturating_add(holder.held);
        if let Some(owner) = self.owners.get_mut(&owner) {
            owner.held = (owner.held - held).saturating_add(holder.held);
        }
        let holds_up = self.holds_up(id, &holder);
        self.holders.insert(id, holder);
        match (held_up, holds_up) {
            (false, true) => *self.holding_up.entry(carrier).or_default() += 1,
            (true, false) => {
                if let Some(count) = self.holding_up.get_mut(&carrier) {
                    *count -= 1;
                    if *count == 0 {
                        self.holding_up.remove(&carrier);
                    }
                }
            }
            (true, true) | (false, false) => {}
        }
        if (spent && !self.owner_has_spent(owner)) || (crowded && self.total < self.limits.process) {
            Opened::Many
        } else if held_up && !holds_up {
            Opened::Carrier(carrier)
        } else {
            Opened::None
        }
    }
}

impl Holder {
    fn stalled_for(&self, now: Instant) -> Option<Duration> {
        self.stalled.map(|since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests;
