//! Counts the repeated refusals of a session, so that each kind is recorded once in full and then as a
//! number.
//!
//! A client that is logged in may ask for hundreds of things a second and be refused each of them. The first
//! refusal of a kind is written immediately; those like it are counted, and the counts are written at
//! intervals and at the end. So the log grows by a bounded number of records a second and still tells the
//! number of refusals.

use std::{collections::HashMap, num::NonZeroU64};

use super::record::LONGEST_TEXT;

/// The most kinds that one session has counted separately. Refusals of further kinds are counted by their
/// reason only.
const KINDS: usize = 32;

/// A kind of refusal: refusals that are equal in all of this are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A refused forward.
    Forward {
        reason: &'static str,
        /// The destination; `None` counts all destinations that are not counted separately.
        to: Option<Asked>,
    },
    /// A refused request, such as a shell.
    Request { request: &'static str, reason: &'static str },
}

/// The destination that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    /// The host as the client wrote it, cut to the length that a record has room for.
    pub host: String,
    /// The port as the client wrote it.
    pub port: u32,
    /// The rule that decided, if one did.
    pub rule: Option<String>,
}

impl Asked {
    /// Takes as much of the texts as a record has room for.
    pub(crate) fn new(host: &str, port: u32, rule: Option<&str>) -> Self {
        // One character more, from which the record tells that the text was cut.
        let cut = |text: &str| text.chars().take(LONGEST_TEXT + 1).collect();
        Self { host: cut(host), port, rule: rule.map(cut) }
    }
}

/// The counts of one session.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// The refusals of each kind since the last record about it.
    counts: HashMap<Kind, u64>,
    /// Whether the last counts have been taken.
    is_closed: bool,
}

/// When to record a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Immediately, in a record of its own.
    Now,
    /// Later, counted with others like it.
    Later,
}

impl Repeats {
    /// Adds one refusal.
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
        // Reasons and requests are our own codes, of which there are few.
        let alike = match kind {
            Kind::Forward { reason, to: _ } => Kind::Forward { reason, to: None },
            Kind::Request { .. } => kind,
        };
        *self.counts.entry(alike).or_insert(0) += 1;
        Due::Later
    }

    /// Returns the counts since the last call. A kind that did not come again is forgotten, so that its next
    /// refusal is written immediately.
    pub(crate) fn take(&mut self) -> Vec<(Kind, NonZeroU64)> {
        let mut taken = Vec::new();
        self.counts.retain(|kind, count| {
            let came = NonZeroU64::new(std::mem::take(count));
            taken.extend(came.map(|count| (kind.clone(), count)));
            came.is_some()
        });
        taken
    }

    /// Returns the last counts; each later refusal is written immediately.
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
