//! The rows: each fault by its name, what must happen, and what of that does not happen yet.

use std::time::Duration;

use crate::{
    fault::{address, death, silence, wire},
    peer::Peer,
    report::Report,
};

/// What is met today of a row's demand. A row that falls short names each demand that is not met, and fails
/// as soon as all of these are: then it is whole, and says so here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Today {
    /// All of it.
    Whole,
    /// All but these demands.
    Without(&'static [&'static str]),
}

use Today::{Whole, Without};

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name, such as `F03`.
    pub id: &'static str,
    /// What breaks.
    pub fault: &'static str,
    /// What must happen then.
    pub demand: &'static str,
    /// Injects it.
    pub case: fn(Peer) -> Report,
    /// Who is tried.
    pub peers: &'static [Peer],
    /// What `pf-tunnel` with the bastion meets.
    pub ours: Today,
    /// What `pf-tunnel` with a stock sshd meets of what is demanded there.
    pub to_sshd: Today,
    /// How long it may take before it counts as hung.
    pub patience: Duration,
}

const ALL: &[Peer] = &Peer::ALL;
const MINUTES: fn(u64) -> Duration = |minutes| Duration::from_secs(60 * minutes);

/// A connection that is open when its carrier is lost is lost with it.
const STREAMS: Today = Without(&["stream survives"]);

/// A carrier is given up after ten seconds, when the network of the shorter outage is back.
const BLACK_HOLE: Today =
    Without(&["8 s: stream survives", "8 s: new connection after it", "30 s: stream survives"]);

/// Every row, in the order of the table.
#[must_use]
pub fn rows() -> Vec<Row> {
    vec![
        Row {
            id: "F01",
            fault: "the server is killed, and comes back 3 s later",
            demand: "RST within 1 s of knowing, never a clean end; new connections wait, and work within 2 s of its return",
            case: death::killed,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F02",
            fault: "rolling update: a new server is up, the old one gets SIGTERM and 20 s",
            demand: "no new connection refused or lost; open ones live on; the old one exits when the last ends",
            case: death::rolled,
            peers: ALL,
            ours: STREAMS,
            to_sshd: Without(&["stream survives", "stream lives while the old one drains"]),
            patience: MINUTES(5),
        },
        Row {
            id: "F03",
            fault: "the connection is reset (ss -K)",
            demand: "open connections survive, stall at most 1 s; to sshd: RST immediately, new connections within 2 s",
            case: wire::reset,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F04",
            fault: "a black hole for 8 s, for 30 s",
            demand: "open connections survive, stall at most the outage and 2 s; detected within 15 s",
            case: wire::black_hole,
            peers: ALL,
            ours: Whole,
            to_sshd: BLACK_HOLE,
            patience: MINUTES(6),
        },
        Row {
            id: "F05",
            fault: "a black hole for 5 min",
            demand: "open connections survive, within the time for which they are kept",
            case: silence::five_minutes,
            peers: ALL,
            ours: Whole,
            to_sshd: STREAMS,
            patience: MINUTES(9),
        },
        Row {
            id: "F06",
            fault: "the peer's host vanishes without a packet",
            demand: "the client knows within 15 s; the server frees the session within 60 s",
            case: silence::vanishes,
            peers: ALL,
            ours: Whole,
            to_sshd: Without(&["the server has freed it"]),
            patience: MINUTES(5),
        },
        Row {
            id: "F07",
            fault: "the client's address changes",
            demand: "open connections survive, reconnected within 2 s",
            case: address::client_moves,
            peers: ALL,
            ours: Whole,
            to_sshd: Without(&["stream survives"]),
            patience: MINUTES(4),
        },
        Row {
            id: "F25",
            fault: "the server is stopped for 60 s; the client sleeps for 10 min",
            demand: "on waking open connections go on; reconnected within 3 s",
            case: death::asleep,
            peers: ALL,
            ours: Whole,
            to_sshd: Without(&[
                "server stopped 60 s: stream survives",
                "client frozen 10 min: stream survives",
            ]),
            patience: MINUTES(16),
        },
        Row {
            id: "F26",
            fault: "an idle tunnel behind a balancer that forgets flows after 350 s",
            demand: "keepalives prevent it",
            case: silence::silent_flow,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(10),
        },
    ]
}

impl Row {
    /// The row of this name.
    #[must_use]
    pub fn named(id: &str) -> Option<Self> {
        rows().into_iter().find(|row| row.id.eq_ignore_ascii_case(id))
    }

    /// What is met today with a peer; none where it is not ours, and only shown.
    #[must_use]
    pub fn today(&self, peer: Peer) -> Option<Today> {
        match peer {
            Peer::Ours => Some(self.ours),
            Peer::OursToSshd => Some(self.to_sshd),
            Peer::Autossh => None,
        }
    }

    /// Why the findings are not as expected, if they are not.
    #[must_use]
    pub fn disagrees(&self, peer: Peer, report: &Report) -> Option<String> {
        let missing: &[&str] = match self.today(peer)? {
            Whole => &[],
            Without(missing) => missing,
        };
        let fails = |check: &&crate::report::Check| !check.holds && !missing.contains(&check.demand.as_str());
        let failed: Vec<_> = report.checks.iter().filter(fails).map(|check| check.demand.as_str()).collect();
        if !failed.is_empty() {
            return Some(format!("not met: {}", failed.join(", ")));
        }
        let unknown = missing.iter().find(|name| !report.checks.iter().any(|check| check.demand == **name));
        if let Some(name) = unknown {
            return Some(format!("no demand is called {name:?}"));
        }
        let still = report.checks.iter().any(|check| !check.holds);
        (!missing.is_empty() && !still).then(|| format!("{} is whole by now: say so in row.rs", self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: Today) -> Row {
        Row { ours, ..Row::named("F03").unwrap() }
    }

    fn report(survives: bool, listens: bool) -> Report {
        let mut report = Report::new();
        report.check("stream survives", survives, "");
        report.check("new connection", listens, "");
        report
    }

    #[test]
    fn a_demand_that_is_not_met_fails_a_row_unless_the_row_says_so() {
        assert_eq!(row(Whole).disagrees(Peer::Ours, &report(true, true)), None);
        let lost = report(false, true);
        assert_eq!(row(STREAMS).disagrees(Peer::Ours, &lost), None);
        assert_eq!(row(Whole).disagrees(Peer::Ours, &lost).unwrap(), "not met: stream survives");
        let both = row(STREAMS).disagrees(Peer::Ours, &report(false, false));
        assert_eq!(both.unwrap(), "not met: new connection");
        assert_eq!(row(Whole).disagrees(Peer::Autossh, &report(false, false)), None, "only shown");
    }

    #[test]
    fn a_row_that_is_met_must_not_say_that_it_is_not() {
        let met = row(STREAMS).disagrees(Peer::Ours, &report(true, true)).unwrap();
        assert!(met.contains("whole by now"), "{met}");
        let misspelt = row(Without(&["stream lives"])).disagrees(Peer::Ours, &report(false, true)).unwrap();
        assert!(misspelt.contains("not met"), "{misspelt}");
    }

    #[test]
    fn each_row_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = rows().iter().map(|row| row.id).collect();
        assert_eq!(names.len(), rows().len());
    }
}
