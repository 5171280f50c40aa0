//! The harness: real peers started for one test, small TCP targets, forged certificates, and a client that
//! may say anything.
//!
//! Every peer listens on a free port of the loopback interface, keeps its files in a scratch folder, and dies
//! with the test that started it; what it wrote is shown when that test fails.
//!
//! - real peers: [`openbao`], [`sshd`], [`ssh`], [`postgres`], [`mariadb`], [`redis`], a Kubernetes
//!   ([`cluster`]); and, from the outside, programs of our own: [`bastion`], [`authority`], [`tunnel`],
//!   [`process`];
//! - what a database's client meets in the place of the database: [`database_proxy`];
//! - what a cluster's network would permit: [`network_policy`];
//! - a clock that is wrong: [`clock`];
//! - what is behind a bastion: [`target`]; what may stand in front of Vault: [`front`];
//! - what brings one into a cluster: [`chart`];
//! - what a bastion must survive: [`forge`] makes certificates of every shape, [`rogue`] presents them and
//!   says what no honest client says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "a harness may assume: a panic is a failed test, and says why"
)]

pub use network_policy;
pub use test_cluster as cluster;
pub use test_support::{claim, ports, process, scratch, wait};

pub mod authority;
pub mod bastion;
pub mod chart;
pub mod clock;
pub mod database_proxy;
pub mod dns;
pub mod echo;
pub mod fixture;
pub mod forge;
pub mod front;
pub mod fuzz;
pub mod http;
pub mod key;
pub mod mariadb;
pub mod memory;
pub mod openbao;
pub mod postgres;
pub mod private;
pub mod redis;
pub mod rogue;
pub mod settings;
pub mod socks;
pub mod ssh;
pub mod sshd;
pub mod target;
pub mod terminal;
pub mod tunnel;
pub mod web;
pub mod wire;
