//! The findings of one case: each a measured value beside what is demanded of it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// One demand, and what was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// Names the demand, also in the list of those that are not met yet.
    pub demand: String,
    /// What was measured, for people.
    pub measured: String,
    /// The same, where it is a time.
    pub seconds: Option<f64>,
    /// The most that it may be, where that is a time.
    pub at_most: Option<f64>,
    /// Whether the demand is met.
    pub holds: bool,
}

/// The findings of one case with one peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// The seeds of everything that was random.
    pub seeds: Vec<u64>,
}

impl Report {
    /// One without findings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A seed, to be printed.
    pub fn seed(&mut self) -> u64 {
        let seed = rand::random_range(1..u64::from(u32::MAX));
        self.seeds.push(seed);
        seed
    }

    /// Whether something is as demanded.
    pub fn check(&mut self, demand: &str, holds: bool, measured: impl fmt::Display) {
        let measured = measured.to_string();
        self.checks.push(Check { demand: demand.to_owned(), measured, seconds: None, at_most: None, holds });
    }

    /// Whether something took no longer than demanded. None: it never came about.
    pub fn at_most(&mut self, demand: &str, bound: Duration, took: Option<Duration>) {
        self.checks.push(Check {
            demand: demand.to_owned(),
            measured: took.map_or_else(|| "never".to_owned(), seconds),
            seconds: took.map(|took| took.as_secs_f64()),
            at_most: Some(bound.as_secs_f64()),
            holds: took.is_some_and(|took| took <= bound),
        });
    }

    /// Adds the findings of a part of the case, under its name.
    pub fn part(&mut self, name: &str, part: Self) {
        self.seeds.extend(part.seeds);
        for check in part.checks {
            self.checks.push(Check { demand: format!("{name}: {}", check.demand), ..check });
        }
    }

    /// In one line: what did not hold is marked.
    #[must_use]
    pub fn summary(&self) -> String {
        let one = |check: &Check| {
            format!("{}{} {}", if check.holds { "" } else { "✗ " }, check.demand, check.measured)
        };
        self.checks.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

/// A time as people read it.
#[must_use]
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{:.2} s", time.as_secs_f64())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
