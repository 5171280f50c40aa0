//! Secrets that the test knows go the whole way, with everything as loud as it can be, and are then looked
//! for everywhere.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    authority::DevAuthority,
    bastion::{self, Bastion, LOGIN},
    openbao::OpenBao,
    postgres::Postgres,
    process::Program,
    scratch::Scratch,
    target::{Target, exchange},
    tunnel, wait,
};

const SOON: Duration = Duration::from_secs(30);
/// What every private key in OpenSSH's format begins with, in the base64 that it is written in.
const ANY_KEY: &str = "b3BlbnNzaC1rZXktdjE";

/// What must not be found, by its name.
type Secrets<'a> = Vec<(&'a str, String)>;

fn clean(place: &str, text: &str, secrets: &Secrets<'_>) {
    for (name, secret) in secrets {
        assert!(secret.len() > 7, "{name} is no canary");
        assert!(!text.contains(secret.as_str()), "{name} is in {place}:\n{text}");
    }
    assert!(!text.contains("PRIVATE KEY") && !text.contains(ANY_KEY), "a private key is in {place}:\n{text}");
}

fn bastion_is_clean(bastion: &mut Bastion, secrets: &Secrets<'_>) {
    clean("the bastion's audit records", &bastion.process().stdout(), secrets);
    clean("the bastion's log", &bastion.log(), secrets);
    for page in ["/metrics", "/readyz"] {
        clean(page, &bastion.page(page).body, secrets);
    }
    assert!(bastion.log().contains("TRACE") || bastion.log().contains("DEBUG"), "it is loud");
}

/// Every user of this machine can read the command line of every process.
fn command_lines_are_clean(secrets: &Secrets<'_>) {
    let mut seen = 0;
    for process in std::fs::read_dir("/proc").unwrap() {
        // One that has ended meanwhile has none.
        let Ok(line) = std::fs::read(process.unwrap().path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).into_owned();
        for (name, secret) in secrets {
            assert!(!line.contains(secret.as_str()), "{name} is in a command line: {line}");
        }
        seen += 1;
    }
    assert!(seen > 3);
}

/// The lines of a private key's body: each would give a part of it away.
fn lines_of(pem: &str) -> impl Iterator<Item = (&'static str, String)> {
    pem.lines().filter(|line| !line.starts_with('-')).map(|line| ("the host key", line.to_owned()))
}

#[test]
fn secrets_are_nowhere() {
    let (vault, echo) = (DevAuthority::start(), Target::echo());
    let mut bastion = bastion::Setup::new()
        .set("/authorities", json!([{"vault": {"mount": "ssh"}}]))
        .set("/vault", json!({"address": vault.url()}))
        .set("/log/level", json!("trace"))
        .rule(LOGIN, &[&echo.address().to_string()])
        .start();
    let mut secrets: Secrets<'_> = vec![("the token", vault.token().to_owned())];
    secrets.extend(lines_of(&bastion.host_key().private_pem()));

    let project = tunnel::Setup::new(bastion.address())
        .set("/bastion/host_key", json!(bastion.host_key().public_line().trim()))
        .vault(vault.url(), vault.token());
    let to = echo.address().to_string();
    for style in [&["-vv"][..], &["-vv", "--json"]] {
        let words = [style, &[to.as_str(), "0"]].concat();
        let mut tunnel = project.program("pf-tunnel", &words).start();
        tunnel.wait_for("ready", SOON);
        let local = tunnel.stdout().lines().find(|line| line.contains("ready")).map(local).unwrap();
        assert_eq!(exchange(local, b"hello").unwrap(), b"hello");
        command_lines_are_clean(&secrets);
        tunnel.signal(Signal::SIGTERM);
        assert_eq!(tunnel.code(SOON), 0);
        clean("pf-tunnel's standard output", &tunnel.stdout(), &secrets);
        clean("pf-tunnel's standard error", &tunnel.stderr(), &secrets);
    }
    // A wrong token is a secret too: it may be a right one elsewhere.
    let wrong = "hvs.wrong-canary-token";
    secrets.push(("a wrong token", wrong.to_owned()));
    let refused = Program::ours("vault-signer")
        .args(["sign", "--principal", LOGIN, "--public-key"])
        .arg(project.scratch().write("id.pub", bastion.host_key().public_line()))
        .env("VAULT_ADDR", vault.url())
        .env("VAULT_TOKEN", wrong)
        .output();
    assert!(!refused.status.success());
    clean("vault-signer's words", &String::from_utf8_lossy(&refused.stderr), &secrets);
    // So may be what stands in an address that people copied from elsewhere.
    let (password, parameter) = ("address-canary-password", "address-canary-parameter");
    secrets.extend([
        ("a password in an address", password.into()),
        ("a parameter in an address", parameter.into()),
    ]);
    let unnamed = tunnel::Setup::new(bastion.address())
        .set("/bastion/host_key", json!(bastion.host_key().public_line().trim()))
        .env("VAULT_TOKEN", wrong);
    for address in [
        format!("https://me:{password}@vault.example.com:8200"),
        format!("https://vault.example.com:8200/?token={parameter}"),
        format!("https://me:{password}/@vault.example.com?token={parameter}#{password}"),
        format!("http://me:{password}@192.0.2.1:8200?token={parameter}"),
        format!("vault.example.com:8200?token={parameter}"),
    ] {
        let words: [(&str, &[&str]); 5] = [
            ("pf-tunnel", &["config", "-vv"]),
            ("pf-tunnel", &["config", "--json"]),
            ("pf-tunnel", &["-vv", "db:1", "0", "--once"]),
            ("pf-db-tunnel", &["-vv", "--list"]),
            ("vault-signer", &["sign", "--public-key", "id.pub"]),
        ];
        let _ = unnamed.scratch().write("id.pub", bastion.host_key().public_line());
        for (name, words) in words {
            for variable in ["VAULT_ADDR", "BAO_AGENT_ADDR"] {
                let output = unnamed.program(name, words).env(variable, &address).output();
                clean(
                    &format!("{name}'s standard output"),
                    &String::from_utf8_lossy(&output.stdout),
                    &secrets,
                );
                clean(
                    &format!("{name}'s standard error"),
                    &String::from_utf8_lossy(&output.stderr),
                    &secrets,
                );
            }
        }
        let config = json!({
            "listen": "127.0.0.1:0", "vault": {"address": address}, "log": {"level": "trace"},
            "authorities": [{"vault": {"mount": "ssh"}}], "host_key": {"generate": true},
            "login": {"users": [LOGIN]},
        });
        let file = unnamed.scratch().write("bastion.yaml", serde_json::to_string_pretty(&config).unwrap());
        let output = Program::ours("bastion-server").arg("--check-config").arg(file).output();
        assert_eq!(output.status.code(), Some(2));
        clean("bastion-server's words", &String::from_utf8_lossy(&output.stderr), &secrets);
    }
    bastion_is_clean(&mut bastion, &secrets);
}

/// The local address in the line of a tunnel that is ready, in words or as JSON.
fn local(line: &str) -> std::net::SocketAddr {
    let told = serde_json::from_str::<Value>(line).ok();
    let text = told.as_ref().map_or_else(|| line.split(' ').next(), |event| event["listen"].as_str());
    text.unwrap().parse().unwrap()
}

#[test]
fn secrets_of_vault_and_of_a_database_are_nowhere() {
    let (bao, postgres) = (OpenBao::start(), Postgres::start());
    let bootstrap = bao.vault_signer(&["bootstrap", "--json", "--domain", "127.0.0.1"]).output();
    let report: Value = serde_json::from_slice(&bootstrap.stdout).unwrap();
    bao.connect_database(&postgres, "1h");
    let (bastions, users) =
        (bao.token(&["tunnel-bastion"], "1h"), bao.token(&["tunnel-user", "orders-reader"], "1h"));
    let mut bastion = bastion::Setup::new()
        .keys_of_vault(&bao.url())
        .set("/log/level", json!("trace"))
        .env("BAO_TOKEN", &bastions)
        .rule(LOGIN, &[&postgres.address().to_string()])
        .start();
    let project = tunnel::Setup::new(bastion.address())
        .host_authority(report["host_authority"].as_str().unwrap())
        .vault(&bao.url(), &users)
        .set("/vault/ttl", json!("10m"))
        .set(
            "/databases",
            json!({"orders": {
                "kind": "postgres",
                "host": postgres.address().ip().to_string(),
                "port": postgres.address().port(),
                "database": "orders",
                "roles": {"reader": "database/creds/reader"},
            }}),
        );
    // The command gives away what it was given, to the test alone, and stays.
    let given = Scratch::new("given");
    let script = format!(
        "cat \"$PGPASSFILE\" > {0}/password; tr '\\0' '\\n' < /proc/self/environ > {0}/environment; touch {0}/done; exec sleep 60",
        given.path().display()
    );
    let words = ["-vv", "--json", "orders", "--role", "reader", "--", "sh", "-c", &script];
    let mut tunnel = project.program("pf-db-tunnel", &words).env("PATH", "/usr/bin:/bin").start();
    wait::until_true("the command", SOON, || given.join("done").exists());
    let read = |name: &str| std::fs::read_to_string(given.join(name)).unwrap();
    let password = read("password").trim().rsplit(':').next().unwrap().to_owned();
    // The root token of this OpenBao stands in its own command line, as its own programmers want it.
    let secrets = vec![
        ("the bastion's token", bastions),
        ("the user's token", users),
        ("the database's password", password),
    ];
    command_lines_are_clean(&secrets);
    clean("the environment of the command", &read("environment"), &secrets);
    tunnel.signal(Signal::SIGTERM);
    let _ = tunnel.wait(SOON);
    clean("pf-db-tunnel's standard output", &tunnel.stdout(), &secrets);
    clean("pf-db-tunnel's standard error", &tunnel.stderr(), &secrets);
    clean("vault-signer's report", &String::from_utf8_lossy(&bootstrap.stdout), &secrets);
    clean("vault-signer's words", &String::from_utf8_lossy(&bootstrap.stderr), &secrets);
    bastion_is_clean(&mut bastion, &secrets);
}
