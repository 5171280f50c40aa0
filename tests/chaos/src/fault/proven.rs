//! Faults that a test against real peers injects already: it runs here as it does there, and its figures are
//! those of the row.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tests::process::Program;

use crate::{
    network::Host,
    peer::Peer,
    report::{Report, seconds},
};

/// How long one test may take.
const PATIENCE: Duration = Duration::from_secs(280);

/// The program of the tests, which was built beside this one.
fn peers() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().join("deps");
    let programs = std::fs::read_dir(folder).unwrap().flatten().filter(|entry| {
        let name = entry.file_name().into_string().unwrap_or_default();
        name.starts_with("peers-") && !name.contains('.')
    });
    let newest = programs.max_by_key(|entry| entry.metadata().and_then(|about| about.modified()).ok());
    newest.expect("`cargo test --workspace --test peers --no-run` comes first").path()
}

fn run(names: &[&str]) -> Report {
    let mut report = Report::new();
    Host::here().ip(&["link", "set", "lo", "up"]);
    for name in names {
        let begun = Instant::now();
        let mut test = Program::new(peers()).args(["--exact", name, "--nocapture"]).start();
        let passed = test.wait(PATIENCE).success() && test.stdout().contains("1 passed");
        let said = test.stdout();
        let said: Vec<_> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("running ") && !line.starts_with("test "))
            .filter(|line| !line.starts_with('{'))
            .collect();
        let figures = said.last().copied().unwrap_or_default();
        report.check(name, passed, format!("{} ({figures})", seconds(begun.elapsed())));
    }
    report
}

/// F10.
pub fn vault_away(_: Peer) -> Report {
    run(&["tunnel::an_authority_that_is_away_is_waited_for", "openbao::a_sealed_server_is_waited_for"])
}

/// F32.
pub fn vault_is_another(_: Peer) -> Report {
    run(&[
        "stays::whatever_stands_in_for_vault_ends_no_tunnel",
        "stays::a_vault_with_another_certificate_ends_no_tunnel",
    ])
}

/// F11.
pub fn token_ends(_: Peer) -> Report {
    run(&["stays::a_token_that_ends_is_waited_for", "tunnel::every_failure_has_its_exit_code_and_its_remedy"])
}

/// F16.
pub fn clocks(_: Peer) -> Report {
    run(&[
        "stays::a_clock_that_falls_back_is_named_and_waited_for",
        "stays::a_clock_that_is_a_little_behind_at_the_start_is_named_and_waited_for",
    ])
}

/// F31.
pub fn keys_replaced(_: Peer) -> Report {
    run(&[
        "key_exchanges::pf_tunnel_and_the_bastion_replace_keys_under_many_streams",
        "key_exchanges::pf_tunnel_and_sshd_replace_keys_under_many_streams",
        "key_exchanges::ssh_and_the_bastion_replace_keys_under_many_streams",
    ])
}

/// F35.
pub fn crowds_before_login(_: Peer) -> Report {
    run(&[
        "accept_load::sources_that_only_ask_hold_up_no_other",
        "accept_load::any_number_of_idle_sources_keep_no_client_out",
        "memory::a_target_that_never_reads_is_given_up_for_those_who_wait_behind_it",
    ])
}
