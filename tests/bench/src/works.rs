//! Works: the measurements, by name.

mod chatter;
mod logins;
mod memory;
mod postgres;
mod stall;
mod start;
mod throughput;

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    path::Path,
    peers::Servers,
    row::{Row, Samples},
    targets::Targets,
};

/// Something to measure, by its name.
pub(crate) struct Work {
    /// As the command line has it.
    pub(crate) name: &'static str,
    about: &'static str,
    /// Measures it.
    pub(crate) run: fn(&Bench) -> Vec<Row>,
}

/// All works, the most telling first: a run that is too long leaves out the last.
const ALL: &[Work] = &[
    Work { name: "one-stream", about: "one stream each way, AES-128-GCM", run: throughput::one_stream },
    Work { name: "parallel", about: "eight streams each way", run: throughput::parallel },
    Work { name: "echo", about: "64 bytes there and back", run: chatter::echo },
    Work { name: "echo-bulk", about: "the same beside a stream in bulk", run: chatter::echo_beside_bulk },
    Work { name: "connect", about: "a new connection until its first byte", run: chatter::connect },
    Work { name: "start", about: "the start of the client until a first byte", run: start::start },
    Work { name: "logins", about: "logins that a server takes", run: logins::logins },
    Work { name: "memory", about: "what an idle connection and an idle stream hold", run: memory::memory },
    Work { name: "stall", about: "the echo while another stream is stalled", run: stall::stall },
    Work { name: "delay-50", about: "one stream over a round trip of 50 ms", run: throughput::delay_50 },
    Work { name: "delay-150", about: "one stream over a round trip of 150 ms", run: throughput::delay_150 },
    Work { name: "pgbench", about: "transactions, and connections, of PostgreSQL", run: postgres::pgbench },
    Work { name: "chacha", about: "one stream each way, ChaCha20-Poly1305", run: throughput::chacha },
];

/// All works, one a line.
pub(crate) fn list() -> String {
    ALL.iter().fold(String::new(), |mut text, work| {
        writeln!(text, "{:<12} {}", work.name, work.about).unwrap();
        text
    })
}

/// Those of these names, or all.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<&'static Work>> {
    if let Some(unknown) = names.iter().find(|name| ALL.iter().all(|work| work.name != **name)) {
        bail!("there is nothing called {unknown:?} to measure; there are:\n{}", list());
    }
    Ok(ALL.iter().filter(|work| names.is_empty() || names.iter().any(|name| name == work.name)).collect())
}

/// What all works need.
pub(crate) struct Bench {
    /// What stands at the ends of paths.
    pub(crate) targets: Targets,
    /// The servers that paths lead through.
    pub(crate) servers: Servers,
    rounds: u32,
    until: Instant,
}

impl Bench {
    /// Starts the servers.
    pub(crate) fn start(rounds: u32, minutes: u64) -> Self {
        Self {
            targets: Targets::start(),
            servers: Servers::start(),
            rounds,
            until: Instant::now() + Duration::from_secs(60 * minutes),
        }
    }

    /// Whether no time is left.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() > self.until
    }

    /// Measures each path in turn, round after round. A measurement has several figures, each of which has
    /// its own samples.
    pub(crate) fn in_turn<const N: usize>(
        &self,
        what: &str,
        paths: &[Path],
        mut measure: impl FnMut(Path) -> Option<[f64; N]>,
    ) -> [Samples; N] {
        let mut all = [(); N].map(|()| BTreeMap::new());
        for round in 1..=self.rounds {
            if self.is_over() {
                eprintln!("{what}: no time for more than {} rounds", round - 1);
                break;
            }
            eprintln!("{what}: round {round} of {}", self.rounds);
            for path in paths {
                let figures = measure(*path);
                for (at, samples) in all.iter_mut().enumerate() {
                    let samples: &mut Vec<_> = samples.entry(*path).or_default();
                    samples.push(figures.map(|figures| figures[at]));
                }
            }
        }
        all
    }
}

/// The samples of all paths but those that the figure says nothing about.
fn without(mut samples: Samples, paths: &[Path]) -> Samples {
    samples.retain(|path, _| !paths.contains(path));
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(works: &[&Work]) -> Vec<&'static str> {
        works.iter().map(|work| work.name).collect()
    }

    #[test]
    fn works_are_chosen_by_name_and_an_unknown_name_is_answered_with_all() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&chosen(&words(&["echo", "one-stream"])).unwrap()), ["one-stream", "echo"]);
        assert_eq!(chosen(&[]).unwrap().len(), ALL.len());
        let Err(error) = chosen(&words(&["echo", "warp"])) else { panic!("warp was found") };
        assert!(
            error.to_string().contains("\"warp\"") && error.to_string().contains("one-stream"),
            "{error}"
        );
    }
}
