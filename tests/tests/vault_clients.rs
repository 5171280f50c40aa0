//! Compares our programs with `bao`: they obey the same variables and files, and do the same or say that they
//! do not.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    authority::DevAuthority,
    bastion::{self, LOGIN},
    forge,
    key::Key,
    openbao::{OpenBao, program},
    ports,
    process::{Process, Program, installed, ours},
    scratch::Scratch,
    target::{Target, exchange},
    tunnel, wait,
};

const SOON: Duration = Duration::from_secs(30);

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// An OpenBao with TLS, whose certificate is for 127.0.0.1 and `localhost`.
struct WithTls {
    _process: Process,
    scratch: Scratch,
    url: String,
}

impl WithTls {
    fn start() -> Self {
        let scratch = Scratch::new("tls");
        std::fs::create_dir(scratch.join("made")).unwrap();
        let address = format!("127.0.0.1:{}", ports::free());
        let mut process = Program::new(program())
            .args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root-canary", "-dev-tls"])
            .arg(format!("-dev-tls-cert-dir={}", scratch.join("made").display()))
            .arg(format!("-dev-listen-address={address}"))
            .start();
        process.wait_for("Root Token", SOON);
        let made = std::fs::read_dir(scratch.join("made")).unwrap().map(|entry| entry.unwrap().path());
        let ca = made.into_iter().find(|path| path.to_string_lossy().ends_with("-ca.pem")).unwrap();
        std::fs::create_dir_all(scratch.join("authorities/below")).unwrap();
        std::fs::copy(&ca, scratch.join("authorities/below/vault.pem")).unwrap();
        std::fs::copy(&ca, scratch.join("ca.pem")).unwrap();
        let place = Self { _process: process, scratch, url: format!("https://{address}") };
        let setup = |words: &[&str]| {
            Program::new(program())
                .args(words)
                .env("BAO_ADDR", &place.url)
                .env("BAO_CACERT", place.ca())
                .env("BAO_TOKEN", "root-canary")
                .succeed()
        };
        wait::until_true("OpenBao with TLS", SOON, || {
            let status = Program::new(program()).arg("status").env("BAO_ADDR", &place.url);
            status.env("BAO_CACERT", place.ca()).output().status.success()
        });
        setup(&["secrets", "enable", "ssh"]);
        setup(&["write", "ssh/config/ca", "generate_signing_key=true", "key_type=ed25519"]);
        let role = place.scratch.write("role.json", ROLE);
        setup(&["write", "ssh/roles/forward", &format!("@{}", role.display())]);
        place
    }

    fn ca(&self) -> PathBuf {
        self.scratch.join("ca.pem")
    }
}

const ROLE: &str = r#"{"key_type": "ca", "allow_user_certificates": true, "allowed_users": "tunnel", "default_user": "tunnel",
    "allowed_extensions": "permit-port-forwarding", "ttl": "10m", "max_ttl": "1h"}"#;

/// What the two are to make of an environment.
#[derive(Clone, Copy, PartialEq)]
enum Both {
    Work,
    Fail,
    /// bao works, and ours refuses in these words.
    OursRefuses(&'static str),
    /// Both work, and ours warns in these words.
    OursWarns(&'static str),
}

#[test]
fn what_bao_takes_from_its_environment_is_taken_or_named() {
    let place = WithTls::start();
    let home = place.scratch.join("home");
    std::fs::create_dir(&home).unwrap();
    let key = place.scratch.write("id.pub", Key::ed25519().public_line());
    let token = place.scratch.write("token", "root-canary");
    let pem = std::fs::read_to_string(place.ca()).unwrap();
    let (url, ca, closed) = (place.url.as_str(), place.ca(), format!("http://127.0.0.1:{}", ports::free()));
    let (ca, folder) = (ca.to_str().unwrap(), place.scratch.join("authorities"));
    let (folder, token) = (folder.to_str().unwrap(), token.to_str().unwrap());
    let usual = [("BAO_ADDR", url), ("BAO_CACERT", ca), ("BAO_TOKEN", "root-canary")];
    for (set, unset, both) in [
        (&[] as &[(&str, &str)], &[] as &[&str], Both::Work),
        (&[("VAULT_ADDR", url)], &["BAO_ADDR"], Both::Work),
        (&[("VAULT_ADDR", closed.as_str())], &[], Both::Work),
        (&[("VAULT_ADDR", url), ("BAO_ADDR", closed.as_str())], &[], Both::Fail),
        (&[("BAO_AGENT_ADDR", url), ("BAO_ADDR", closed.as_str())], &[], Both::Work),
        (&[("VAULT_AGENT_ADDR", closed.as_str())], &[], Both::Fail),
        (&[("VAULT_CACERT", ca)], &["BAO_CACERT"], Both::Work),
        (&[], &["BAO_CACERT"], Both::Fail),
        (&[("VAULT_CACERT_BYTES", pem.as_str())], &["BAO_CACERT"], Both::Work),
        (&[("VAULT_CAPATH", folder)], &["BAO_CACERT"], Both::Work),
        (&[("VAULT_TLS_SERVER_NAME", "localhost")], &[], Both::Work),
        (&[("BAO_TLS_SERVER_NAME", "other.example.com")], &[], Both::Fail),
        (&[("VAULT_TOKEN", "root-canary")], &["BAO_TOKEN"], Both::Work),
        (&[("VAULT_TOKEN", "wrong-canary")], &[], Both::Work),
        (&[("BAO_TOKEN_PATH", token)], &["BAO_TOKEN"], Both::Work),
        (&[("VAULT_PROXY_ADDR", closed.as_str())], &[], Both::Fail),
        (&[("BAO_HTTP_PROXY", closed.as_str())], &[], Both::Fail),
        (&[("VAULT_CLIENT_CERT", ca)], &[], Both::Fail),
        (&[("VAULT_SKIP_VERIFY", "true")], &["BAO_CACERT"], Both::OursRefuses("VAULT_SKIP_VERIFY is set")),
        (
            &[("VAULT_CLIENT_TIMEOUT", "30")],
            &[],
            Both::OursWarns("VAULT_CLIENT_TIMEOUT is set, and not obeyed"),
        ),
        (&[("BAO_SRV_LOOKUP", "true")], &[], Both::OursWarns("BAO_SRV_LOOKUP is set, and not obeyed")),
        (&[("VAULT_RATE_LIMIT", "100")], &[], Both::OursWarns("VAULT_RATE_LIMIT is set, and not obeyed")),
    ] {
        let told = |program: Program| {
            let mut program = program.env("HOME", &home);
            for (name, value) in usual.iter().filter(|(name, _)| !unset.contains(name)).chain(set) {
                program = program.env(name, value);
            }
            program.output()
        };
        let asked = ["write", "-field=signed_key", "ssh/sign/forward"];
        let key_field = format!("public_key=@{}", key.display());
        // bao would try again, and wait in between.
        let bao = told(Program::new(program()).args(asked).arg(&key_field).env("BAO_MAX_RETRIES", "0"));
        let sign = told(
            Program::ours("vault-signer").args(["sign", "--principal", "tunnel", "--public-key"]).arg(&key),
        );
        let tunnel = told(Program::ours("pf-tunnel").args(["config"]).folder(place.scratch.path()));
        let case = format!("{set:?} without {unset:?}\n{}{}", words(&bao), words(&sign));
        let (theirs, mine) = (bao.status.success(), sign.status.success());
        match both {
            Both::Work => assert!(theirs && mine && !words(&sign).contains("warning"), "{case}"),
            Both::Fail => assert!(!theirs && !mine, "{case}"),
            Both::OursRefuses(why) => assert!(theirs && !mine && words(&sign).contains(why), "{case}"),
            Both::OursWarns(why) => {
                assert!(theirs && mine && words(&sign).contains(why), "{case}");
                assert!(words(&tunnel).contains(why), "{case}{}", words(&tunnel));
            }
        }
        assert!(!words(&sign).contains("canary"), "{case}");
    }
    // What `bao login` leaves, and a helper that keeps it instead.
    let usual = |program: Program| program.env("HOME", &home).env("BAO_ADDR", url).env("BAO_CACERT", ca);
    let sign = || {
        usual(Program::ours("vault-signer").args(["sign", "--principal", "tunnel", "--public-key"]).arg(&key))
    };
    usual(Program::new(program()).args(["login", "-no-print", "root-canary"])).succeed();
    assert!(sign().output().status.success());
    std::fs::write(home.join(".vault"), "token_helper = \"/usr/local/bin/helper\"\n").unwrap();
    assert!(words(&sign().output()).contains("names a token helper"));
}

/// A role, a policy or a token that is meaner than ours, and what becomes of `bao write ssh/sign/…` with it.
#[test]
fn what_bao_can_have_signed_we_can() {
    let bao = OpenBao::start();
    bao.run(&["secrets", "enable", "ssh"]);
    bao.run(&["write", "ssh/config/ca", "generate_signing_key=true", "key_type=ed25519"]);
    let scratch = Scratch::new("roles");
    let ed25519 = scratch.write("id.pub", Key::ed25519().public_line());
    let role = |change: &Value| {
        let mut role: Value = serde_json::from_str(ROLE).unwrap();
        role.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        bao.api("POST", "ssh/roles/forward", &role);
    };
    let policy = |more: &str| {
        let policy = format!("path \"ssh/sign/forward\" {{ capabilities = [\"update\"]\n{more} }}");
        bao.api("PUT", "sys/policies/acl/signs", &json!({"policy": policy}));
    };
    let token = |default: bool| {
        let asked = json!({"policies": ["signs"], "no_default_policy": !default, "ttl": "1h"});
        let answer = bao.api("POST", "auth/token/create", &asked);
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let forwarding = json!({"permit-port-forwarding": ""});
    for (what, change, more, default_policy, fields) in [
        (
            "as ours",
            json!({}),
            "",
            true,
            &["valid_principals=tunnel", "extensions=permit-port-forwarding"][..],
        ),
        ("without the default policy", json!({}), "", false, &["valid_principals=tunnel"]),
        (
            "a policy that allows one parameter beside the key",
            json!({"default_extensions": forwarding}),
            "allowed_parameters = {\"public_key\" = []\n \"valid_principals\" = [\"tunnel\"]}",
            true,
            &["valid_principals=tunnel"],
        ),
        (
            "a policy that allows the key alone",
            json!({"default_extensions": forwarding}),
            "allowed_parameters = {\"public_key\" = []}",
            true,
            &[],
        ),
        (
            "no extension may be asked for, and one is given",
            json!({"allowed_extensions": "", "default_extensions": forwarding}),
            "",
            true,
            &["valid_principals=tunnel"],
        ),
        (
            "less than half an hour",
            json!({"ttl": "2m", "max_ttl": "5m"}),
            "",
            true,
            &["valid_principals=tunnel", "ttl=5m"],
        ),
        (
            "all of it",
            json!({"ttl": "2m", "max_ttl": "5m", "allowed_extensions": "", "default_extensions": forwarding}),
            "",
            false,
            &[],
        ),
    ] {
        role(&change);
        policy(more);
        let token = token(default_policy);
        let key = format!("public_key=@{}", ed25519.display());
        let fields = fields.iter().filter(|field| !field.starts_with("extensions"));
        bao.command(&["write", "ssh/sign/forward", &key]).args(fields).env("BAO_TOKEN", &token).succeed();
        let sign = bao
            .vault_signer(&["sign", "--principal", "tunnel", "--public-key"])
            .arg(&ed25519)
            .env("BAO_TOKEN", &token)
            .output();
        assert!(sign.status.success(), "{what}: {}", words(&sign));
        let described = forge::describe(&scratch.write("cert.pub", &sign.stdout));
        assert!(
            described.contains("permit-port-forwarding") && described.contains("tunnel"),
            "{what}: {described}"
        );
    }
    // A time that a person chose is not another one, and a role that gives no forwarding is told so.
    role(&json!({"ttl": "2m", "max_ttl": "5m"}));
    policy("");
    let sign = |more: &[&str]| {
        let output = bao
            .vault_signer(&["sign", "--principal", "tunnel", "--public-key"])
            .arg(&ed25519)
            .args(more)
            .env("BAO_TOKEN", token(true))
            .output();
        (output.status.code(), words(&output))
    };
    let (code, told) = sign(&["--ttl", "1h"]);
    assert!(code == Some(4) && told.contains("shorter ttl"), "{told}");
    role(&json!({"allowed_extensions": "permit-pty"}));
    let (code, told) = sign(&[]);
    assert!(code == Some(4) && told.contains("allowed_extensions"), "{told}");
}

/// Each type of key, through the bastion, from a role that signs no other.
#[test]
fn roles_for_other_keys_are_used_with_such_a_key() {
    let (bao, echo) = (OpenBao::start(), Target::echo());
    bao.bootstrap("127.0.0.1", &[]);
    let to = echo.address().to_string();
    let bastion = bastion::Setup::new()
        .set("/authorities", json!([{"vault": {"mount": "ssh"}}]))
        .set("/vault", json!({"address": bao.url()}))
        .rule(LOGIN, &[&to])
        .start();
    let project = tunnel::Setup::new(bastion.address())
        .set("/bastion/host_key", json!(bastion.host_key().public_line().trim()))
        .vault(&bao.url(), &bao.token(&["tunnel-user"], "1h"));
    let role = bao.api("GET", "ssh/roles/forward", &Value::Null)["data"].clone();
    for (lengths, key_type) in
        [(json!({"rsa": [2048, 3072]}), "rsa-2048"), (json!({"ec": [256]}), "ecdsa-256")]
    {
        let mut role = role.clone();
        role["allowed_user_key_lengths"] = lengths;
        bao.api("POST", "ssh/roles/forward", &role);
        let refused = project.program("pf-tunnel", &[&to, "0", "--once"]).output();
        assert_eq!(refused.status.code(), Some(4), "{}", words(&refused));
        assert!(words(&refused).contains("--key-type"), "{}", words(&refused));
        let mut tunnel = project.start(&[&to, "0", "--key-type", key_type]);
        let local = tunnel.ready(1)[0];
        assert_eq!(exchange(local, b"hello").unwrap(), b"hello", "{key_type}");
    }
}

/// What our own bastion honours in a certificate, our own client takes.
#[test]
fn a_certificate_that_confines_itself_is_taken_and_holds() {
    let (bao, echo, other) = (OpenBao::start(), Target::echo(), Target::echo());
    bao.bootstrap("127.0.0.1", &[]);
    let (to, elsewhere) = (echo.address().to_string(), other.address().to_string());
    let mut role = bao.api("GET", "ssh/roles/forward", &Value::Null)["data"].clone();
    role["default_critical_options"] = json!({"permit-open@tunnel-suite.internal": to});
    bao.api("POST", "ssh/roles/forward", &role);
    let bastion = bastion::Setup::new()
        .set("/authorities", json!([{"vault": {"mount": "ssh"}}]))
        .set("/vault", json!({"address": bao.url()}))
        .rule(LOGIN, &[&to, &elsewhere])
        .start();
    let project = tunnel::Setup::new(bastion.address())
        .set("/bastion/host_key", json!(bastion.host_key().public_line().trim()))
        .vault(&bao.url(), &bao.token(&["tunnel-user"], "1h"));
    let mut tunnel = project.start(&[&to, "0"]);
    let local = tunnel.ready(1)[0];
    assert_eq!(exchange(local, b"hello").unwrap(), b"hello");
    let refused = project.program("pf-tunnel", &[&elsewhere, "0", "--once"]).output();
    assert_eq!(refused.status.code(), Some(8), "{}", words(&refused));
    role["default_critical_options"] = json!({"force-command": "reboot"});
    bao.api("POST", "ssh/roles/forward", &role);
    let refused = project.program("pf-tunnel", &[&to, "0", "--once"]).output();
    assert_eq!(refused.status.code(), Some(4), "{}", words(&refused));
}

#[test]
fn a_second_factor_is_said_to_be_wanted() {
    let bao = OpenBao::start();
    bao.run(&["auth", "enable", "userpass"]);
    bao.run(&["write", "auth/userpass/users/alice", "password=canary-password"]);
    let accessor = bao.api("GET", "sys/auth", &Value::Null)["data"]["userpass/"]["accessor"].clone();
    let method = bao.api("POST", "identity/mfa/method/totp", &json!({"issuer": "test", "period": "30s"}));
    let enforced = json!({
        "mfa_method_ids": [method["data"]["method_id"]], "auth_method_accessors": [accessor],
    });
    bao.api("POST", "identity/mfa/login-enforcement/all", &enforced);
    let scratch = Scratch::new("mfa");
    let output = bao
        .vault_signer(&["sign", "--auth", "userpass", "--username", "alice", "--password-file"])
        .arg(scratch.write("password", "canary-password\n"))
        .arg("--public-key")
        .arg(scratch.write("id.pub", Key::ed25519().public_line()))
        .output();
    assert_eq!(output.status.code(), Some(3), "{}", words(&output));
    assert!(words(&output).contains("wants a second factor"), "{}", words(&output));
}

#[test]
fn a_public_key_is_taken_as_people_keep_it() {
    let authority = DevAuthority::start();
    let scratch = Scratch::new("keys");
    let line = Key::ed25519().public_line();
    let sign = |file: &Path, input: &str| {
        Program::ours("vault-signer")
            .args(["sign", "--principal", LOGIN, "--public-key"])
            .arg(file)
            .input(input)
            .env("VAULT_ADDR", authority.url())
            .env("VAULT_TOKEN", authority.token())
            .output()
    };
    let commented = format!("# my laptop\n\n  {}  \n", line.trim());
    for (file, input) in [
        (scratch.write("plain.pub", &line), ""),
        (scratch.write("commented.pub", &commented), ""),
        ("-".into(), commented.as_str()),
    ] {
        let output = sign(&file, input);
        assert!(output.status.success(), "{}: {}", file.display(), words(&output));
    }
    for (input, why) in
        [("# nothing\n", "is not an OpenSSH public key"), (&format!("{line}\n{line}"), "more than one key")]
    {
        let output = sign(Path::new("-"), input);
        assert_eq!(output.status.code(), Some(2), "{}", words(&output));
        assert!(words(&output).contains(why), "{}", words(&output));
    }
}

/// Without TLS a token goes to another computer only where the user says that it may.
#[test]
fn plain_http_leaves_this_computer_only_where_the_danger_is_accepted() {
    let scratch = Scratch::new("plain");
    let key = scratch.write("id.pub", Key::ed25519().public_line());
    // An address for documentation (RFC 5737): no computer has it, and nothing is sent there.
    let far = "http://192.0.2.1:8200";
    let sign = |more: &[&str]| {
        Program::ours("vault-signer")
            .args(["sign", "--public-key"])
            .arg(&key)
            .args(more)
            .env("VAULT_TOKEN", "canary-token")
            .output()
    };
    let bastion = |accepted: bool| {
        let mut vault = json!({"address": far});
        if accepted {
            vault["dangerously_allow_plain_http"] = json!(true);
        }
        let config = json!({
            "listen": "127.0.0.1:0", "vault": vault, "authorities": [{"vault": {"mount": "ssh"}}],
            "host_key": {"generate": true}, "login": {"users": [LOGIN]},
        });
        // Every JSON text is YAML too.
        let file = scratch.write("bastion.yaml", serde_json::to_string_pretty(&config).unwrap());
        Program::ours("bastion-server").arg("--check-config").arg(file).output()
    };
    let project = |accepted: bool| {
        let setup = tunnel::Setup::new("127.0.0.1:1".parse().unwrap())
            .set("/bastion/host_key", json!(Key::ed25519().public_line().trim()))
            .vault(far, "canary-token");
        if accepted { setup.set("/vault/dangerously_allow_plain_http", json!(true)) } else { setup }
    };
    let pf = |accepted: bool, words: &[&str]| project(accepted).program("pf-tunnel", words).output();
    for refused in [
        sign(&["--address", far]),
        bastion(false),
        pf(false, &["db:1", "0", "--once"]),
        project(false)
            .set("/databases", json!({"orders": {"kind": "postgres", "host": "db", "port": 1, "database": "o", "roles": {"r": "p"}}}))
            .program("pf-db-tunnel", &["orders", "--once"])
            .output(),
    ] {
        assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
        assert!(words(&refused).contains("dangerously_allow_plain_http"), "{}", words(&refused));
        assert!(!words(&refused).contains("canary"), "{}", words(&refused));
    }
    assert!(bastion(true).status.success(), "{}", words(&bastion(true)));
    let proxied =
        |program: Program| program.env("VAULT_PROXY_ADDR", format!("http://127.0.0.1:{}", ports::free()));
    let sign = proxied(
        Program::ours("vault-signer")
            .args(["sign", "--dangerously-allow-plain-http", "--address", far, "--public-key"])
            .arg(&key)
            .env("VAULT_TOKEN", "canary-token"),
    )
    .output();
    assert!(words(&sign).contains("does not answer"), "{}", words(&sign));
    let pf = proxied(project(true).program("pf-tunnel", &["db:1", "0", "--once"])).output();
    assert!(words(&pf).contains("does not answer"), "{}", words(&pf));
}

/// The memory of each program holds a token or a key: the system is told not to write it to a disk.
#[test]
fn no_core_is_written() {
    let authority = DevAuthority::start();
    let (echo, scratch) = (Target::echo(), Scratch::new("core"));
    // Whatever the person who runs the tests allows, as much as may be is allowed.
    let allow = "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\"";
    let dev = Program::new(installed("sh"))
        .args(["-c", allow, ours("vault-signer").to_str().unwrap(), "dev", "--listen", "127.0.0.1:0"])
        .folder(scratch.path());
    let mut dev = dev.start();
    dev.wait_for("DEVELOPMENT ONLY", SOON);
    let mut bastion = bastion::Setup::new()
        .set("/authorities", json!([{"vault": {"mount": "ssh"}}]))
        .set("/vault", json!({"address": authority.url()}))
        .rule(LOGIN, &[&echo.address().to_string()])
        .start();
    let project = tunnel::Setup::new(bastion.address())
        .set("/bastion/host_key", json!(bastion.host_key().public_line().trim()))
        .vault(authority.url(), authority.token());
    let mut tunnel = project.start(&[&echo.address().to_string(), "0"]);
    tunnel.ready(1);
    for (name, process) in [
        ("vault-signer", dev.id()),
        ("bastion-server", bastion.process().id()),
        ("pf-tunnel", tunnel.process.id()),
    ] {
        let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let soft = core.split_whitespace().nth(4).unwrap();
        assert!(matches!(soft, "0" | "1"), "{name}: {core}");
    }
    dev.signal(Signal::SIGQUIT);
    let status = dev.wait(SOON);
    assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&status), "{status}");
}
