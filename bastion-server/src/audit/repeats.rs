//! What one session is refused again and again: written once in full, and then counted.
//!
//! A client that is logged in may ask for hundreds of things a second, and be refused every one. The first refusal of a
//! kind is written at once; those like it are counted, and what was counted is written at intervals and at the end. So
//! the log grows by a bounded number of records a second, and says how many refusals there were all the same.

use std::{collections::HashMap, num::NonZeroU64};

use super::record::LONGEST_TEXT;

/// Kinds that are told apart at a time, in one session. What more there is is told apart by its reason only.
const KINDS: usize = 32;

/// A kind of refusal: what is like it, in all of this, is counted with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A forward.
    Forward {
        /// Why not.
        reason: &'static str,
        /// Where to; without it, to one of more destinations than are told apart.
        to: Option<Asked>,
    },
    /// Something else that is never given.
    Request {
        /// What.
        request: &'static str,
        /// Why not.
        reason: &'static str,
    },
}

/// What a client asked to be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    /// The host in the client's words, no longer than what is written of it.
    pub host: String,
    /// The port in the client's words.
    pub port: u32,
    /// The rule that decided, if one did.
    pub rule: Option<String>,
}

impl Asked {
    /// Takes as much of the texts as a record has room for.
    pub(crate) fn new(host: &str, port: u32, rule: Option<&str>) -> Self {
        // One more, by which a record tells that there was more.
        let cut = |text: &str| text.chars().take(LONGEST_TEXT + 1).collect();
        Self { host: cut(host), port, rule: rule.map(cut) }
    }
}

/// The count of one session.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// How many came since the last record that said so.
    counts: HashMap<Kind, u64>,
    /// Nobody will ask any more.
    is_closed: bool,
}

/// When a refusal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// At once, in a record of its own.
    Now,
    /// With others like it.
    Later,
}

impl Repeats {
    /// Takes in one refusal.
    pub(crate) fn add(&mut self, kind: Kind) -> Due {
        if self.is_closed {
            return Due::Now;
        }
        if let Some(count) = self.counts.get_mut(&kind) {
            *count += 1;
            return Due::Later;
        }
        if self.counts.len() < KINDS {
            self.counts.insert(kind, 0);
            return Due::Now;
        }
        // Reasons and requests are words of ours, so of these there are few.
        let alike = match kind {
            Kind::Forward { reason, to: _ } => Kind::Forward { reason, to: None },
            Kind::Request { .. } => kind,
        };
        *self.counts.entry(alike).or_insert(0) += 1;
        Due::Later
    }

    /// What came since it was last asked for. What did not come again is forgotten, so that the next of its kind is
    /// written at once.
    pub(crate) fn take(&mut self) -> Vec<(Kind, NonZeroU64)> {
        let mut taken = Vec::new();
        self.counts.retain(|kind, count| {
            let came = NonZeroU64::new(std::mem::take(count));
            taken.extend(came.map(|count| (kind.clone(), count)));
            came.is_some()
        });
        taken
    }

    /// The same for the last time: whatever still comes is written at once.
    pub(crate) fn close(&mut self) -> Vec<(Kind, NonZeroU64)> {
        self.is_closed = true;
        self.take()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forward(host: &str, reason: &'static str) -> Kind {
        Kind::Forward { reason, to: Some(Asked::new(host, 5432, None)) }
    }

    #[test]
    fn the_first_is_written_at_once_and_the_rest_are_counted() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.add(forward("a", "no_rule")), Due::Now);
        assert_eq!(repeats.add(forward("b", "no_rule")), Due::Now);
        for _ in 0..500 {
            assert_eq!(repeats.add(forward("a", "no_rule")), Due::Later);
        }
        let expected = vec![(forward("a", "no_rule"), NonZeroU64::new(500).unwrap())];
        assert_eq!(repeats.take(), expected);
        assert_eq!(
            repeats.add(forward("b", "no_rule")),
            Due::Now,
            "it did not come again, and was forgotten"
        );
        assert_eq!(repeats.add(forward("a", "no_rule")), Due::Later, "it did, and goes on");
        assert_eq!(repeats.close().len(), 1);
        assert_eq!(repeats.add(forward("a", "no_rule")), Due::Now);
    }

    #[test]
    fn a_host_of_any_length_takes_little_room() {
        let Asked { host, .. } = Asked::new(&"x".repeat(1 << 20), 1, None);
        assert_eq!(host.len(), LONGEST_TEXT + 1);
    }

    proptest! {
        #[test]
        fn every_refusal_is_written_or_counted_and_memory_is_bounded(
            hosts in proptest::collection::vec((0..200_u8, any::<bool>(), 0..20_u8), 0..500),
        ) {
            let mut repeats = Repeats::default();
            let (mut written, mut records) = (0, 0);
            let mut intervals = 1;
            for (host, is_denied, tick) in &hosts {
                let reason = if *is_denied { "denied_by_rule" } else { "no_rule" };
                if repeats.add(forward(&host.to_string(), reason)) == Due::Now {
                    (written, records) = (written + 1, records + 1);
                }
                prop_assert!(repeats.counts.len() <= KINDS + 2);
                if *tick == 0 {
                    let taken = repeats.take();
                    written += taken.iter().map(|(_, count)| count.get()).sum::<u64>();
                    (records, intervals) = (records + taken.len(), intervals + 1);
                }
            }
            let taken = repeats.close();
            written += taken.iter().map(|(_, count)| count.get()).sum::<u64>();
            records += taken.len();
            prop_assert_eq!(written, hosts.len() as u64);
            prop_assert!(records <= intervals * 2 * (KINDS + 2));
        }
    }
}
