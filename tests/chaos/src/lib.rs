//! Injects faults into a network, a server or a clock under open connections, and compares what the
//! applications notice: through `pf-tunnel`, and through what people use today.
//!
//! A [`row`] is a fault; [`fault`] injects it; a [`peer`] is who is tried; a [`conversation`] is the
//! application that has a connection open meanwhile; a [`report`] has what was measured beside what is
//! demanded, and the [`table`] all of them. Each case runs in network namespaces of its own, which end with
//! it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness may assume: a panic is a failed case, and says why"
)]

pub mod conversation;
pub mod fault;
pub mod freezer;
pub mod names;
pub mod network;
pub mod peer;
pub mod report;
pub mod row;
pub mod scene;
pub mod switch;
pub mod table;

use tests::process::{Program, installed, is_root};

use crate::{peer::Peer, row::Row};

/// A program that runs in a network and with mounts of its own. Another user than root becomes root there.
#[must_use]
pub fn isolated(program: Program) -> Program {
    let unshare = installed("unshare");
    let mut words = vec![unshare.to_str().unwrap().to_owned()];
    if !is_root() {
        words.extend(["--user", "--map-root-user"].map(str::to_owned));
    }
    words.extend(["--net", "--mount", "--"].map(str::to_owned));
    program.under(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs a row with one peer in this process, which [`isolated`] started, and returns why its findings are not
/// as expected.
pub fn judge(row: &Row, peer: Peer) -> Result<report::Report, String> {
    let report = (row.case)(peer);
    match row.disagrees(peer, &report) {
        None => Ok(report),
        Some(why) => Err(format!("{} with {peer}: {why}\n{}", row.id, report.summary())),
    }
}
