//! Runs other programs for a test: processes that end with it, folders, ports, deadlines.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness may assume: a panic is a failed test, and says why"
)]

pub mod claim;
pub mod ports;
pub mod process;
pub mod scratch;
pub mod wait;
