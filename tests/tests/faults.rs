//! Injects the faults of `make chaos` that take seconds, and holds our programs to what is met of each row.

use chaos::{judge, peer::Peer, row::Row};
use tests::private;

/// Runs a row in a network of its own.
fn holds(test: &str, row: &str, peer: Peer) {
    private::inside(&format!("faults::{test}"), || {
        let report = judge(&Row::named(row).unwrap(), peer).unwrap();
        println!("{row} with {peer}: {}", report.summary());
    });
}

macro_rules! rows {
    ($($test:ident: $row:literal, $peer:ident;)*) => {
        $(#[test]
        fn $test() {
            holds(stringify!($test), $row, Peer::$peer);
        })*
    };
}

rows! {
    f01_the_bastion_is_killed_and_comes_back: "F01", Ours;
    f03_the_connection_is_reset: "F03", Ours;
    f03_the_connection_to_sshd_is_reset: "F03", OursToSshd;
    f07_the_client_moves: "F07", Ours;
    f13_a_certificate_ends_without_a_successor: "F13", Ours;
    f14_an_authority_is_exchanged: "F14", Ours;
    f15_a_person_is_revoked: "F15", Ours;
    f17_the_local_port_is_busy: "F17", Ours;
    f18_targets_fail: "F18", Ours;
    f19_a_half_close_is_passed_on: "F19", Ours;
    f20_a_reset_is_passed_on: "F20", Ours;
    f29_a_broken_file_is_reloaded: "F29", Ours;
    f34_a_person_is_revoked_asleep: "F34", Ours;
}
