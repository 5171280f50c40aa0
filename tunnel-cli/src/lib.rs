//! `pf-tunnel` and `pf-db-tunnel`: a private port on a laptop, kept open for days.
//!
//! What happens between a command line and the first byte, in the order in which it is best read:
//!
//! 1. [`cli`] takes what was typed; [`endpoint`] makes destinations of it, or one line that says why not.
//! 2. [`config`] lays flags, environment, the user's file and the project's over each other, and remembers where each
//!    value came from. [`kubernetes`] reads what a cluster publishes, the lowest of them, where that is asked for.
//! 3. [`command`] puts a tunnel together. Local ports are bound first: whatever fails later, that does not.
//! 4. [`credential`] has a key signed, and knows when it needs a successor.
//! 5. [`tunnel`] makes one attempt after another: [`tunnel::carrier`] reaches the bastion, [`ssh`] proves who it is and
//!    logs in. New connections are held meanwhile.
//! 6. [`output`] says what happens, [`failure`] what went wrong, [`verdict`] whether that ends anything.
//!
//! Nothing outside [`ssh`] knows what a channel is: everything else opens a stream to a destination and has it relayed.

pub mod cli;
pub mod command;
pub mod config;
pub mod credential;
pub mod database;
pub mod endpoint;
pub mod failure;
pub mod kubernetes;
pub mod login;
pub mod output;
pub mod ssh;
pub mod suspend;
pub mod trust;
pub mod tunnel;
pub mod verdict;
