//! The rows: each fault by its name, what must happen, and what of that does not happen yet.

use std::time::Duration;

use crate::{
    fault::{address, certificates, crowd, death, proven, settings, silence, streams, wire},
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
    /// All but these demands, which are met in some runs and not in others.
    Unsure(&'static [&'static str]),
}

use Today::{Unsure, Whole, Without};

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
/// Where the others have nothing of the kind.
const OURS: &[Peer] = &[Peer::Ours];
const MINUTES: fn(u64) -> Duration = |minutes| Duration::from_secs(60 * minutes);

/// A connection that is open when its carrier is lost is lost with it.
const STREAMS: Today = Without(&["stream survives"]);

/// A carrier is given up after ten seconds, when the network of the shorter outage is back.
const BLACK_HOLE: Today =
    Without(&["8 s: stream survives", "8 s: new connection after it", "30 s: stream survives"]);

/// The carrier is given up meanwhile.
const ASLEEP: Today = Without(&[
    "server stopped 60 s: stream survives",
    "client frozen 10 min: stream survives",
    "client frozen 10 min: new connection after it",
]);

/// One reader that takes nothing stops the whole carrier, and what came before is in the client's memory.
const STALLED: Today = Without(&[
    "others' slowest of 200 beside one",
    "others' slowest of 200 beside a hundred",
    "memory is bounded",
]);

/// The faults that are not injected here, and why.
pub const ELSEWHERE: [(&str, &str, &str); 3] = [
    (
        "F09",
        "200 ms delay, 5 % loss, MTU 576, 64 kbit/s",
        "a relay of packets is not there yet, and the kernel's own means is not everywhere",
    ),
    ("F30", "one connection's task panics", "nothing outside of a bastion can make it panic"),
    ("F33", "the node is drained", "needs a cluster: tests/tests/cluster/rolling.rs; here F02 stands for it"),
];

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
            id: "F08",
            fault: "the server's name moves; the name server is silent",
            demand: "resolved anew for each attempt, all addresses tried; the last good one while names do not resolve",
            case: address::name_moves,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(6),
        },
        Row {
            id: "F10",
            fault: "Vault is down, sealed, slow, or answers 429 and 500, when a certificate has to be renewed",
            demand: "untouched until the certificate ends; tries on, and says so",
            case: proven::vault_away,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(20),
        },
        Row {
            id: "F11",
            fault: "the Vault token ends",
            demand: "logs in again where it can, else one line with the command",
            case: proven::token_ends,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(10),
        },
        Row {
            id: "F12",
            fault: "certificates of 60 s, here for 10 min",
            demand: "no interruption",
            case: certificates::short_lives,
            peers: ALL,
            ours: Unsure(&["stream survives"]),
            to_sshd: Whole,
            patience: MINUTES(15),
        },
        Row {
            id: "F13",
            fault: "the certificate expires, and renewal is impossible",
            demand: "the server ends it within 5 s and says why; open connections get RST",
            case: certificates::expires,
            peers: &[Peer::Ours, Peer::Autossh],
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F14",
            fault: "an authority is added, then the old one removed",
            demand: "in force within 5 s, no restart, never a moment without one",
            case: certificates::authority_exchanged,
            peers: &[Peer::Ours, Peer::Autossh],
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F15",
            fault: "a live session's certificate is revoked; the policy is narrowed",
            demand: "no new login within 5 s, open connections cut within 10 s, others untouched",
            case: certificates::revoked,
            peers: &[Peer::Ours, Peer::Autossh],
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F16",
            fault: "the clock is wrong, or set",
            demand: "says how far it is off, and goes on",
            case: proven::clocks,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(10),
        },
        Row {
            id: "F17",
            fault: "the local port is busy",
            demand: "exits within 200 ms, naming the port and its holder",
            case: streams::busy_port,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F18",
            fault: "a target refuses, is a black hole, does not resolve",
            demand: "that connection alone fails, by RST, with its reason",
            case: streams::bad_targets,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(5),
        },
        Row {
            id: "F19",
            fault: "a half-close either way, then 10 MB",
            demand: "all bytes arrive",
            case: streams::half_closed,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(5),
        },
        Row {
            id: "F20",
            fault: "RST from either end with data in flight",
            demand: "arrives as RST, nothing leaks",
            case: streams::resets,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(5),
        },
        Row {
            id: "F21",
            fault: "a reader that never reads, and 100 of them",
            demand: "memory is bounded; others wait at most 20 ms longer",
            case: streams::never_reads,
            peers: ALL,
            ours: Whole,
            to_sshd: STALLED,
            patience: MINUTES(5),
        },
        Row {
            id: "F22",
            fault: "100,000 short connections",
            demand: "no error; files and memory are back where they were",
            case: streams::short_ones,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(14),
        },
        Row {
            id: "F23",
            fault: "the server has no more files (prlimit)",
            demand: "sheds load, and recovers within 1 s",
            case: streams::no_more_files,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(5),
        },
        Row {
            id: "F24",
            fault: "256 MiB of memory, 100 stalled connections",
            demand: "it is not killed, and serves",
            case: streams::little_memory,
            peers: ALL,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(5),
        },
        Row {
            id: "F25",
            fault: "the server is stopped for 60 s; the client sleeps for 10 min",
            demand: "on waking open connections go on; reconnected within 3 s",
            case: death::asleep,
            peers: ALL,
            ours: Whole,
            to_sshd: ASLEEP,
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
        Row {
            id: "F27",
            fault: "200 clients reconnect simultaneously",
            demand: "all are back within 30 s",
            case: crowd::all_reconnect,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(6),
        },
        Row {
            id: "F28",
            fault: "the client's disk is full, read-only, there is no HOME",
            demand: "it serves; keys stay in memory",
            case: settings::no_disk,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F29",
            fault: "a broken configuration is to be reloaded",
            demand: "the old one stays, one line and a metric; --check-config fails",
            case: settings::broken_reload,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F31",
            fault: "64 streams each way while keys are replaced",
            demand: "no connection ends, hashes equal",
            case: proven::keys_replaced,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(15),
        },
        Row {
            id: "F32",
            fault: "a portal or a broken proxy answers for Vault at a renewal",
            demand: "keeps trying, says what it sees; what is open goes on",
            case: proven::vault_is_another,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(20),
        },
        Row {
            id: "F34",
            fault: "a person is revoked while asleep",
            demand: "after waking not one byte flows, either way",
            case: certificates::revoked_asleep,
            peers: &[Peer::Ours, Peer::Autossh],
            ours: Unsure(&["not one byte after waking"]),
            to_sshd: Whole,
            patience: MINUTES(4),
        },
        Row {
            id: "F35",
            fault: "crowds that only ask, stand there, or have a target that takes nothing",
            demand: "a bystander waits at most 100 ms, logins get in, memory inside the budget",
            case: proven::crowds_before_login,
            peers: OURS,
            ours: Whole,
            to_sshd: Whole,
            patience: MINUTES(12),
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
            Without(missing) | Unsure(missing) => missing,
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
        if matches!(self.today(peer), Some(Unsure(_))) {
            return None;
        }
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
