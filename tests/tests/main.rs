//! Everything that this suite promises, against real peers; see the harness in `tests/src`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test may assume: a panic is a failed test, and says why"
)]

mod accept_load;
mod admission;
mod architecture;
mod audit_sink;
mod authorities;
mod bastion;
mod before_login;
mod bulk;
mod canary;
mod certificates;
mod chart_documents;
mod clients;
mod database;
mod database_logins;
mod demo;
mod destinations;
mod endings;
mod faults;
mod fence;
mod floods;
mod fuzz_corpora;
mod key_exchanges;
mod local_ports;
mod login;
mod memory;
mod names;
mod openbao;
mod openssh;
mod pacing;
mod policy;
mod program_documents;
mod revocation;
mod stays;
mod streams;
mod tunnel;
mod vault_clients;
