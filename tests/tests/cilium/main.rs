//! Tries network policies between real pods, connected by Cilium: those of the bastion and of the companion
//! charts. See `tests/cluster/src/cni.rs`. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test may assume: a panic is a failed test, and says why"
)]

mod companions;
mod fixture;
mod flows;
mod objects;
