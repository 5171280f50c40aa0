//! Measures our programs beside OpenSSH's, and beside proxies that only copy, on one machine. `make bench`
//! runs it.
//!
//! Every figure is taken from each path in turn, round after round, and shown as a ratio, since a machine
//! that others use too has no figures of its own. It prints a table and writes all samples as JSON. It
//! judges nothing: a missed gate is a word in the table, and no failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness may assume: a panic is a failed measurement, and says why"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it shows is what it is for")]

mod cli;
mod copy;
mod delay;
mod generator;
mod latency;
mod machine;
mod network;
mod path;
mod peers;
mod report;
mod row;
mod statistics;
mod table;
mod targets;
mod usage;
mod works;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use anyhow::Result;
use clap::Parser;

use cli::{Cli, Part};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.part {
        Some(Part::Copy { forwards }) => copy::serve(&forwards),
        Some(Part::Delay { forward, one_way_ms }) => delay::serve(forward, one_way_ms),
        None if cli.list => {
            print!("{}", works::list());
            Ok(())
        }
        None => measure(&cli),
    }
}

fn measure(cli: &Cli) -> Result<()> {
    let works = works::chosen(&cli.works)?;
    network::enter(cli.inside)?;
    let started = Instant::now();
    let machine = machine::Machine::look(network::pin()?);
    eprintln!("{machine}");
    let bench = works::Bench::start(cli.rounds, cli.minutes);
    let mut rows = Vec::new();
    let mut left_out = Vec::new();
    for work in works {
        if bench.is_over() {
            left_out.push(format!("{} (no time)", work.name));
            continue;
        }
        // What was measured before is worth showing.
        match catch_unwind(AssertUnwindSafe(|| (work.run)(&bench))) {
            Ok(more) => rows.extend(more),
            Err(_) => left_out.push(format!("{} (failed)", work.name)),
        }
    }
    let report = report::Report::new(machine, cli.rounds, started.elapsed(), &rows, left_out);
    println!("{}", table::render(&rows));
    println!("{report}");
    report.write(&cli.json)
}
