//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::copy::Forward;

/// Measures the tunnel suite beside OpenSSH, path after path, round after round.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// What to measure; everything, unless named.
    pub(crate) works: Vec<String>,

    /// How often each path is measured; at least five for figures that are shown to others.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,

    /// The time after which no further round begins.
    #[arg(long, default_value_t = 14)]
    pub(crate) minutes: u64,

    /// The file for all samples.
    #[arg(long, default_value = "target/bench.json")]
    pub(crate) json: PathBuf,

    /// Names what can be measured.
    #[arg(long)]
    pub(crate) list: bool,

    /// It runs in a network of its own already.
    #[arg(long, hide = true)]
    pub(crate) inside: bool,

    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

/// The programs that a path leads through, and that stand in this one.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Copies connections.
    #[command(hide = true)]
    Copy {
        /// `LISTEN=TO`, each an address with a port.
        forwards: Vec<Forward>,
    },
    /// Copies connections, and each byte later than it came.
    #[command(hide = true)]
    Delay {
        /// `LISTEN=TO`, each an address with a port.
        forward: Forward,
        /// How much later, in milliseconds: half of the round trip that it adds.
        one_way_ms: u64,
    },
}
