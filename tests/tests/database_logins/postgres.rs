//! Real PostgreSQL, and psql in every mode of its own.

use std::{net::SocketAddr, time::Duration};

use database_wire::{
    Explanation, LocalTls, Password, Reason,
    postgres::{Ask, Method, Nonce},
};
use nix::sys::signal::Signal;
use tests::{
    database_proxy::{self, Proxy, Upstream},
    postgres::{Postgres, SUPERUSER},
    process::{Program, postgres_programs},
    wait,
};

const CANARY: &str = "ZZZZZZZZZZZZZZZZZZZZ";
const SOON: Duration = Duration::from_secs(30);

/// A server with a user for each kind of login.
fn server() -> Postgres {
    let postgres = Postgres::start();
    for (user, stored) in
        [("l_trust", "scram-sha-256"), ("l_md5", "md5"), ("l_scram", "scram-sha-256"), ("l_clear", "md5")]
    {
        let create =
            format!("set password_encryption = '{stored}'; create user {user} password '{CANARY}' superuser");
        let _ = postgres.query(&create);
    }
    postgres.admit(&[
        "host all l_trust 127.0.0.1/32 trust",
        "host all l_md5 127.0.0.1/32 md5",
        "host all l_scram 127.0.0.1/32 scram-sha-256",
        "host all l_clear 127.0.0.1/32 password",
    ]);
    postgres
}

fn proxy(upstream: Upstream) -> Proxy {
    Proxy::start(database_proxy::Postgres::new(LocalTls::Offered, Ask::Nothing), upstream)
}

/// psql with these words of a connection string, and no password unless they have one.
fn psql(address: SocketAddr, words: &str, statement: &str) -> Program {
    Program::new(postgres_programs().join("psql"))
        .args(["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-c", statement])
        .arg(format!("host={} port={} connect_timeout=60 {words}", address.ip(), address.port()))
}

const WHO: &str = "select current_user, current_database()";

#[test]
fn psql_needs_no_password_however_the_server_wants_it() {
    let postgres = server();
    let authority = postgres.with_tls("localhost");
    for (user, asked_in_clear) in
        [("l_trust", false), ("l_md5", false), ("l_scram", false), ("l_clear", true)]
    {
        let plain = Upstream::new(postgres.address(), user, Some(CANARY));
        let mut modes = vec![plain.clone().verified(&authority)];
        if !asked_in_clear {
            modes.extend([plain.clone(), plain.encrypted()]);
        }
        for upstream in modes {
            let told = format!("{user} {upstream:?}");
            let proxy = proxy(upstream);
            for words in [
                "",
                "sslmode=disable",
                "sslmode=require",
                "sslmode=prefer user=alice password=wrong",
                "sslmode=prefer user=alice dbname=alice gssencmode=prefer channel_binding=prefer",
            ] {
                let rows = psql(proxy.address(), words, WHO).succeed();
                assert_eq!(rows.trim(), format!("{user}|orders"), "{words} {told}");
            }
            assert_eq!(proxy.failures(), [""; 0], "{told}");
        }
    }
}

/// The login is bound to the certificate that the server has, for each kind of signature: one that only looks
/// like it from our end is refused by the server.
#[test]
fn a_login_is_bound_to_the_servers_certificate() {
    let postgres = server();
    let algorithms =
        [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384];
    for algorithm in algorithms {
        let authority = postgres.with_tls_of("localhost", algorithm);
        let upstream = Upstream::new(postgres.address(), "l_scram", Some(CANARY)).verified(&authority);
        wait::until_true("PostgreSQL has the new certificate", wait::START, || {
            psql(proxy(upstream.clone()).address(), "", WHO).output().status.success()
        });
        let attacker = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert;
        let proxy = proxy(upstream.seen_as(attacker.der().to_vec()));
        let output = psql(proxy.address(), "", WHO).output();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("SCRAM channel binding check failed"), "{algorithm:?}: {error}");
    }
}

#[test]
fn what_the_client_asks_for_reaches_the_server_unchanged() {
    let postgres = server();
    let proxy = proxy(Upstream::new(postgres.address(), "l_scram", Some(CANARY)));
    let show = "select current_setting('search_path'), current_setting('application_name'), \
                current_setting('extra_float_digits'), current_setting('client_encoding')";
    let words = "dbname=postgres options='-csearch_path=\"x\\\\ y\" -cextra_float_digits=3' application_name='x y' \
                 client_encoding=LATIN1";
    let output = psql(proxy.address(), words, show).output();
    let rows = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(rows.trim(), "\"x y\"|x y|3|LATIN1", "{output:?}");
    let output = psql(proxy.address(), "options=-cnosuch=1", WHO).output();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("unrecognized configuration parameter \"nosuch\""), "{error}");
    let output = psql(proxy.address(), "dbname=nosuch", WHO).output();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("database \"nosuch\" does not exist"), "{error}");
    let rows = psql(proxy.address(), "dbname=orders replication=database", "IDENTIFY_SYSTEM").succeed();
    assert!(rows.trim().ends_with("|orders"), "{rows}");
}

#[test]
fn a_statement_is_cancelled_and_the_session_lives_on() {
    let postgres = server();
    let authority = postgres.with_tls("localhost");
    let upstream = Upstream::new(postgres.address(), "l_scram", Some(CANARY)).verified(&authority);
    let proxy = proxy(upstream);
    for mode in ["disable", "require"] {
        // psql ends a script whose statement it cancelled: what goes on after that is inside of the
        // statement.
        let statement = format!(
            "do $$ begin perform pg_sleep(60) /* {mode} */; \
             exception when query_canceled then raise notice 'cancelled, and alive'; end $$"
        );
        let mut running = Program::new(postgres_programs().join("psql"))
            .args(["-X", "-w", "-c", &statement])
            .arg(format!("host=127.0.0.1 port={} sslmode={mode}", proxy.address().port()))
            .start();
        let asks = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        wait::until_true("the statement runs", SOON, || postgres.query(asks) == "1");
        running.signal(Signal::SIGINT);
        running.wait_for("cancelled, and alive", SOON);
        running.wait(SOON);
    }
    assert_eq!(proxy.failures(), [""; 0]);
}

#[test]
fn refusals_are_read_by_a_person() {
    let postgres = server();
    let explanation = Explanation::new(Reason::Refused, "the bastion refused this destination: orders:5432")
        .with_remedy("Ask the bastion's operator for a rule.");
    let refusing = proxy(Upstream::new(postgres.address(), "l_scram", None).refusing(explanation));
    for mode in ["disable", "prefer", "require"] {
        let output = psql(refusing.address(), &format!("sslmode={mode}"), WHO).output();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.contains("FATAL:  the bastion refused this destination: orders:5432\nHINT:  Ask the"),
            "{mode}: {error}"
        );
    }
    // The server's own words, and ours where the server is not what it has to be.
    for (upstream, says) in [
        (
            Upstream::new(postgres.address(), "l_scram", Some("wrong")),
            "password authentication failed for user \"l_scram\"",
        ),
        (
            Upstream::new(postgres.address(), "l_scram", None),
            "the server asks for a password, and there is none",
        ),
        (Upstream::new(postgres.address(), "l_scram", Some(CANARY)).encrypted(), "the server offers no TLS"),
        (
            Upstream::new(postgres.address(), "l_clear", Some(CANARY)),
            "the server asks for the password in clear",
        ),
    ] {
        let told = format!("{upstream:?}");
        let proxy = proxy(upstream);
        let output = psql(proxy.address(), "", WHO).output();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(says), "{told}: {error}");
        assert!(!error.contains(CANARY), "{error}");
    }
}

/// The other way round: our server side asks, and psql proves its password to us.
#[test]
fn psql_proves_its_password_to_our_side() {
    let postgres = server();
    let upstream = Upstream::new(postgres.address(), "l_scram", Some(CANARY));
    for method in [Method::Cleartext, Method::Md5([1, 2, 3, 4]), Method::Scram(Nonce::random().unwrap())] {
        let ask = Ask::Password { password: Password::new("of this run".into()).unwrap(), method };
        let proxy = Proxy::start(database_proxy::Postgres::new(LocalTls::Offered, ask), upstream.clone());
        let scram = matches!(method, Method::Scram(_));
        let bound = if scram { "sslmode=require channel_binding=require" } else { "sslmode=require" };
        for words in ["sslmode=disable", bound] {
            let rows =
                psql(proxy.address(), &format!("{words} user=me password='of this run'"), WHO).succeed();
            assert_eq!(rows.trim(), "l_scram|orders", "{method:?} {words}");
            let output = psql(proxy.address(), &format!("{words} user=me password=guess"), WHO).output();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("the password is wrong"), "{method:?} {words}: {error}");
        }
    }
}

#[test]
fn pgbench_works_in_all_its_modes() {
    let postgres = server();
    let proxy = proxy(Upstream::new(postgres.address(), "l_scram", Some(CANARY)));
    let bench = |words: &[&str]| {
        let output = Program::new(postgres_programs().join("pgbench"))
            .args(words)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", proxy.address().port().to_string())
            .env("PGDATABASE", "orders")
            .output();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        said.into_owned()
    };
    bench(&["-i", "-q", "-s", "2"]);
    for mode in ["simple", "extended", "prepared"] {
        let said = bench(&["-M", mode, "-c", "4", "-t", "50"]);
        assert!(said.contains("number of failed transactions: 0"), "{said}");
    }
    // A login for each transaction.
    let said = bench(&["-C", "-S", "-c", "4", "-t", "10"]);
    assert!(said.contains("number of transactions actually processed: 40/40"), "{said}");
    assert_eq!(postgres.query("select count(*) from pgbench_accounts"), "200000");
    assert_ne!(postgres.query("select current_user"), "l_scram", "{SUPERUSER} looks on");
}
