//! Everything that is promised of the bastion on Kubernetes, in a real cluster; see
//! `tests/cluster/src/lib.rs`. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test may assume: a panic is a failed test, and says why"
)]

mod chart;
mod companions;
mod connection_info;
mod crd;
mod credentials;
mod fixture;
mod image;
mod ingress;
mod node;
mod objects;
mod policy;
mod rbac;
mod readme_kubernetes;
mod rolling;
mod services;
mod vault;
mod watches;
