//! `pf-tunnel` and `pf-db-tunnel`: a private port on a laptop, kept open for days.
//!
//! What happens between a command line and the first byte, in the order in which it is best read:
//!
//! 1. `cli` parses the command line; `endpoint` makes destinations and forwards of it, or one line that says why not.
//! 2. `config` lays flags, environment, the user's file and the project's over each other, and remembers where each value
//!    came from. `kubernetes` reads what a cluster publishes, the lowest of them, where that is asked for.
//! 3. `command` puts a tunnel together. Local ports are bound first: whatever fails later, that does not.
//! 4. `login` is how Vault is logged in to; `credential` has a key signed, and knows when it needs a successor.
//! 5. `tunnel` makes one attempt after another: its `dialler` reaches the bastion, `ssh` logs in, and `trust` judges whether
//!    that is the bastion. New connections are held meanwhile.
//! 6. `output` says what happens, `failure` what went wrong and with which exit code, `verdict` whether that ends anything.
//!
//! A module uses only those below it: `command` | `tunnel`, `login`, `database` | `cli` | `config`, `credential` | `verdict` |
//! `ssh` | `trust`, `kubernetes`, `output` | `endpoint`, `failure`, `suspend`, `trouble`. The first knows signals and processes, `cli` alone
//! knows clap, `ssh` alone russh, and `kubernetes` alone kube.

mod cli;
mod command;
mod config;
mod credential;
mod database;
mod endpoint;
mod failure;
mod kubernetes;
mod login;
mod network;
mod output;
mod ssh;
mod suspend;
mod trust;
mod tunnel;
mod verdict;

pub use cli::commands;
pub use command::{pf_db_tunnel, pf_tunnel};
pub use config::check_file;
pub use endpoint::{BadForward, Forward, On};
