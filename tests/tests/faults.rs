//! Injects the faults of `make chaos` that take seconds, and holds our programs to what is met of each row.

use chaos::{judge, peer::Peer, row::Row};
use tests::private;

/// Runs a row in a network of its own.
fn holds(test: &str, row: &str, peers: &[Peer]) {
    for peer in peers {
        private::inside(&format!("faults::{test}"), || {
            let report = judge(&Row::named(row).unwrap(), *peer).unwrap();
            println!("{row} with {peer}: {}", report.summary());
        });
    }
}

#[test]
fn f01_the_bastion_is_killed_and_comes_back() {
    holds("f01_the_bastion_is_killed_and_comes_back", "F01", &[Peer::Ours]);
}

#[test]
fn f03_the_connection_is_reset() {
    holds("f03_the_connection_is_reset", "F03", &[Peer::Ours]);
}

#[test]
fn f03_the_connection_to_sshd_is_reset() {
    holds("f03_the_connection_to_sshd_is_reset", "F03", &[Peer::OursToSshd]);
}
