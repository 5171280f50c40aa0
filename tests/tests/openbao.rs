//! `vault-signer` and its library against a real OpenBao.

use std::{
    future::Future,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    forge,
    key::Key,
    openbao::{OpenBao, program},
    ports,
    postgres::Postgres,
    process::{Process, Program},
    scratch::Scratch,
    wait,
};
use vault_signer::{
    Credential, Error, Request, Server, Settings, SignError, Signer as _, Token, Vault, database,
    login::{AppRole, GivenToken, Login, LoginError, Source, Userpass},
    server::Ca,
};

const END: Duration = Duration::from_secs(30);

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn server(bao: &OpenBao) -> Server {
    Server::new(&Settings { address: Some(bao.url()), ..Settings::default() }).unwrap()
}

fn given(token: &str) -> GivenToken {
    GivenToken::new(Source::Given(token.to_owned().into()))
}

fn token(bao: &OpenBao, secret: &str) -> Token {
    block(given(secret).login(&server(bao))).unwrap()
}

fn vault(bao: &OpenBao, secret: &str, mount: &str) -> Vault {
    Vault::new(server(bao), token(bao, secret), mount)
}

fn user(principals: &[&str]) -> Request {
    let principals = principals.iter().map(|name| (*name).to_owned()).collect();
    Request::forwarding("forward", principals, Duration::from_secs(600))
}

fn bootstrap(bao: &OpenBao, more: &[&str]) -> Value {
    let principals = ["--principal", "tunnel", "--principal", "dev"];
    bao.bootstrap("example.com", &[&principals, more].concat())
}

fn outcomes(report: &Value) -> Vec<&str> {
    report["steps"].as_array().unwrap().iter().map(|step| step["outcome"].as_str().unwrap()).collect()
}

/// A program that failed: its exit code, and what it told a person.
fn failed(program: Program) -> (i32, String) {
    let output = program.output();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn public_key(scratch: &Scratch) -> PathBuf {
    scratch.write("id.pub", Key::ed25519().public_line())
}

#[test]
fn bootstrap_creates_everything_once_and_then_changes_nothing() {
    let bao = OpenBao::start();
    let dry = bootstrap(&bao, &["--dry-run"]);
    assert_eq!(outcomes(&dry), ["created"; 8]);
    assert!(!bao.run(&["secrets", "list"]).contains("ssh/"), "a dry run wrote something");

    let first = bootstrap(&bao, &[]);
    assert_eq!(outcomes(&first), ["created"; 8]);
    assert_eq!(first["changed"], true);
    assert_eq!(first["user_authority"], bao.run(&["read", "-field=public_key", "ssh/config/ca"]).trim());
    assert_eq!(first["host_authority"], bao.run(&["read", "-field=public_key", "ssh-host/config/ca"]).trim());
    assert!(first["user_authority"].as_str().unwrap().starts_with("ssh-ed25519 "));

    let before = bao.api("GET", "ssh/roles/forward", &Value::Null)["data"].clone();
    let second = bootstrap(&bao, &[]);
    assert_eq!(outcomes(&second), ["unchanged"; 8]);
    assert_eq!(second["changed"], false);
    for authority in ["user_authority", "host_authority"] {
        assert_eq!(first[authority], second[authority]);
    }
    assert_eq!(before, bao.api("GET", "ssh/roles/forward", &Value::Null)["data"]);
}

#[test]
fn bootstrap_mends_what_was_changed_and_says_what() {
    let bao = OpenBao::start();
    bootstrap(&bao, &[]);
    bao.run(&[
        "write",
        "ssh/roles/forward",
        "key_type=ca",
        "allow_user_certificates=true",
        "allowed_users=*",
    ]);
    bao.run(&["policy", "delete", "tunnel-user"]);
    let report = bootstrap(&bao, &[]);
    assert_eq!(outcomes(&report)[..4], ["unchanged", "unchanged", "changed", "created"]);
    let changes = report["steps"][2]["changes"].as_array().unwrap();
    let users = changes.iter().find(|change| change["field"] == "allowed_users").unwrap();
    assert_eq!((&users["from"], &users["to"]), (&json!("*"), &json!("tunnel,dev")));
    assert_eq!(outcomes(&bootstrap(&bao, &[])), ["unchanged"; 8]);

    let mut role = bao.api("GET", "ssh/roles/forward", &Value::Null)["data"].clone();
    role["key_id_format"] = json!("custom-{{token_display_name}}");
    bao.api("POST", "ssh/roles/forward", &role);
    let text = bao.vault_signer(&["bootstrap", "--domain", "example.com", "--max-ttl", "2h"]).succeed();
    assert!(text.contains("max_ttl: 3600 → 7200"), "{text}");
    let mended = bao.api("GET", "ssh/roles/forward", &Value::Null)["data"].clone();
    assert_eq!(mended["key_id_format"], role["key_id_format"], "a field of the operator's was reset");
}

#[test]
fn bootstrap_leaves_alone_what_is_not_its_own() {
    let bao = OpenBao::start();
    bao.run(&["secrets", "enable", "-path=rsa", "ssh"]);
    bao.run(&["write", "rsa/config/ca", "generate_signing_key=true"]);
    let key = bao.run(&["read", "-field=public_key", "rsa/config/ca"]);
    let report = bootstrap(&bao, &["--mount", "rsa"]);
    assert_eq!(outcomes(&report)[..3], ["unchanged", "kept", "created"]);
    assert!(report["steps"][1]["why"].as_str().unwrap().contains("choose another mount"));
    assert_eq!(key, bao.run(&["read", "-field=public_key", "rsa/config/ca"]));
    let certificate = block(Credential::generate(&vault(&bao, bao.root_token(), "rsa"), &user(&["dev"])));
    assert!(certificate.is_ok(), "an RSA authority signs all the same: {certificate:?}");

    let (code, told) =
        failed(bao.vault_signer(&["bootstrap", "--domain", "example.com", "--mount", "secret"]));
    assert_eq!(code, 4, "{told}");
    assert!(told.contains("not an SSH engine"), "{told}");

    let unprivileged = bao.token(&["default"], "60s");
    let (code, told) =
        failed(bao.vault_signer(&["bootstrap", "--domain", "example.com"]).env("BAO_TOKEN", unprivileged));
    assert_eq!(code, 4, "{told}");
    assert!(told.contains("may administer mounts and policies"), "{told}");
}

#[test]
fn a_user_has_a_key_signed_and_can_do_nothing_else() {
    let bao = OpenBao::start();
    let report = bootstrap(&bao, &[]);
    let secret = bao.token(&["tunnel-user"], "60s");
    let vault = vault(&bao, &secret, "ssh");
    let credential = block(Credential::generate(&vault, &user(&["dev"]))).unwrap();
    assert_eq!(credential.authority().to_openssh().unwrap(), report["user_authority"]);
    assert!(credential.remaining(SystemTime::now()) > Duration::from_secs(540));

    let scratch = Scratch::new("signed");
    let path = scratch.write("id-cert.pub", credential.certificate().to_openssh().unwrap());
    let described = forge::describe(&path);
    for part in ["user certificate", "dev", "permit-port-forwarding", "Critical Options: (none)"] {
        assert!(described.contains(part), "{part} is missing in {described}");
    }
    assert!(!described.contains("permit-pty"), "{described}");

    // The role's default, which is the first principal.
    let credential = block(Credential::generate(&vault, &user(&[]))).unwrap();
    assert_eq!(credential.certificate().valid_principals(), ["tunnel"]);

    let refused = |request: Request| block(Credential::generate(&vault, &request)).unwrap_err();
    for request in [
        user(&["root"]),
        Request { ttl: Duration::from_secs(7200), ..user(&["dev"]) },
        Request { extensions: vec!["permit-pty".into()], ..user(&["dev"]) },
        Request::host("forward", vec!["dev".into()], Duration::from_secs(60)),
    ] {
        let error = refused(request);
        assert!(matches!(error, SignError::Refused { .. }), "{error:?}");
    }
    let error = refused(Request { role: "other".into(), ..user(&["dev"]) });
    assert!(matches!(error, SignError::Server(Error::Denied { .. })), "{error:?}");
    for (method, path) in [
        ("GET", "ssh/roles/forward"),
        ("GET", "sys/mounts"),
        ("POST", "ssh-host/sign/bastion"),
        ("DELETE", "ssh/config/ca"),
    ] {
        assert_eq!(bao.request(&secret, method, path, &Value::Null).status, 403, "{method} {path}");
    }
}

#[test]
fn a_bastion_has_its_host_key_signed() {
    let bao = OpenBao::start();
    let report = bootstrap(&bao, &[]);
    let vault = vault(&bao, &bao.token(&["tunnel-bastion"], "60s"), "ssh-host");
    let day = Duration::from_secs(24 * 3600);
    let names = vec!["bastion.example.com".to_owned(), "example.com".to_owned()];
    let credential = block(Credential::generate(&vault, &Request::host("bastion", names, day))).unwrap();
    assert_eq!(credential.authority().to_openssh().unwrap(), report["host_authority"]);
    let scratch = Scratch::new("signed");
    let described =
        forge::describe(&scratch.write("host-cert.pub", credential.certificate().to_openssh().unwrap()));
    assert!(
        described.contains("host certificate") && described.contains("bastion.example.com"),
        "{described}"
    );

    let elsewhere = Request::host("bastion", vec!["bastion.example.org".into()], day);
    let error = block(Credential::generate(&vault, &elsewhere)).unwrap_err();
    assert!(matches!(error, SignError::Refused { .. }), "{error:?}");
}

#[test]
fn a_principal_can_be_the_user_who_logged_in() {
    let bao = OpenBao::start();
    bao.run(&["auth", "enable", "userpass"]);
    bao.run(&["write", "auth/userpass/users/alice", "password=canary", "token_policies=tunnel-user"]);
    let accessor = bao.api("GET", "sys/auth", &Value::Null)["data"]["userpass/"]["accessor"].clone();
    let template = format!("{{{{identity.entity.aliases.{}.name}}}}", accessor.as_str().unwrap());
    let words = ["bootstrap", "--domain", "example.com", "--principal", &template];
    bao.vault_signer(&words).succeed();

    let alice = block(Userpass::new("userpass", "alice", "canary".into()).login(&server(&bao))).unwrap();
    let vault_of_alice = Vault::new(server(&bao), alice, "ssh");
    let credential = block(Credential::generate(&vault_of_alice, &user(&[]))).unwrap();
    assert_eq!(credential.certificate().valid_principals(), ["alice"]);
    let error = block(Credential::generate(&vault_of_alice, &user(&["bob"]))).unwrap_err();
    assert!(matches!(error, SignError::Refused { .. }), "{error:?}");

    // The root token has no entity, and OpenBao signs the template as it stands.
    let error = block(Credential::generate(&vault(&bao, bao.root_token(), "ssh"), &user(&[]))).unwrap_err();
    assert!(error.to_string().contains("could not fill in"), "{error}");
}

#[test]
fn machines_and_people_log_in() {
    let bao = OpenBao::start();
    bao.run(&["auth", "enable", "approle"]);
    bao.run(&["auth", "enable", "-path=people", "userpass"]);
    bao.run(&["write", "auth/people/users/alice", "password=canary", "token_ttl=10m"]);
    bao.run(&["write", "auth/approle/role/bastion", "token_ttl=1m", "token_max_ttl=1h"]);
    let role_id = bao.run(&["read", "-field=role_id", "auth/approle/role/bastion/role-id"]);
    let secret_id = bao.run(&["write", "-f", "-field=secret_id", "auth/approle/role/bastion/secret-id"]);

    let approle = AppRole::new("approle", role_id.trim(), secret_id.trim().to_owned().into());
    let machine = block(approle.login(&server(&bao))).unwrap();
    assert!(machine.renewable() && machine.expires_at().unwrap() > SystemTime::now());
    let renewed = block(machine.renew(&server(&bao))).unwrap();
    assert!(renewed.expires_at() >= machine.expires_at());

    let alice = block(Userpass::new("people", "alice", "canary".into()).login(&server(&bao))).unwrap();
    assert_eq!(alice.display_name(), "alice");
    let wrong: [Box<dyn Login>; 4] = [
        Box::new(Userpass::new("people", "alice", "wrong".into())),
        Box::new(Userpass::new("people", "no-such-user", "canary".into())),
        Box::new(AppRole::new("approle", role_id.trim(), "wrong".into())),
        Box::new(Userpass::new("nowhere", "alice", "canary".into())),
    ];
    for login in wrong {
        let error = block(login.login(&server(&bao))).unwrap_err();
        assert!(matches!(error, LoginError::Refused { .. }), "{login:?}: {error:?}");
        assert!(!error.is_transient());
    }

    let scratch = Scratch::new("login");
    let password = scratch.write("password", "canary\n");
    bootstrap(&bao, &[]);
    bao.run(&["write", "auth/people/users/alice", "token_policies=tunnel-user"]);
    let signed = bao
        .vault_signer(&["sign", "--auth", "userpass", "--auth-mount", "people", "--username", "alice"])
        .arg("--password-file")
        .arg(password)
        .arg("--public-key")
        .arg(public_key(&scratch))
        .succeed();
    assert!(forge::describe(&scratch.write("cert.pub", signed)).contains("tunnel"));
}

#[test]
fn a_token_that_has_ended_is_refused_with_the_remedy() {
    let bao = OpenBao::start();
    bootstrap(&bao, &[]);
    let secret = bao.token(&["tunnel-user"], "8s");
    let vault = vault(&bao, &secret, "ssh");
    wait::until_true("the token's end", END, || {
        bao.request(&secret, "GET", "auth/token/lookup-self", &Value::Null).status == 403
    });
    let error = block(Credential::generate(&vault, &user(&["dev"]))).unwrap_err();
    assert!(matches!(error, SignError::Server(Error::Denied { .. })), "{error:?}");
    let error = block(given(&secret).login(&server(&bao))).unwrap_err();
    assert!(matches!(error, LoginError::TokenRefused { .. }), "{error:?}");

    let scratch = Scratch::new("expired");
    let sign =
        bao.vault_signer(&["sign", "--public-key"]).arg(public_key(&scratch)).env("BAO_TOKEN", &secret);
    let (code, told) = failed(sign);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("Sign in again") && !told.contains(&secret), "{told}");
}

#[test]
fn a_sealed_server_is_waited_for() {
    let bao = OpenBao::start();
    bootstrap(&bao, &[]);
    let vault = vault(&bao, bao.root_token(), "ssh");
    bao.seal();
    let error = block(Credential::generate(&vault, &user(&["dev"]))).unwrap_err();
    assert!(matches!(error, SignError::Server(Error::Sealed { .. })), "{error:?}");
    assert!(error.is_transient());
    let error = block(vault.authorities()).unwrap_err();
    assert!(matches!(error, SignError::Server(Error::Sealed { .. })), "{error:?}");
    assert!(matches!(block(server(&bao).health()), Err(Error::Sealed { .. })));
    bao.unseal();
    assert!(block(Credential::generate(&vault, &user(&["dev"]))).is_ok());
}

#[test]
fn a_wrong_role_or_mount_is_named() {
    let bao = OpenBao::start();
    bootstrap(&bao, &[]);
    let scratch = Scratch::new("wrong");
    let key = public_key(&scratch);
    let sign = |words: &[&str]| failed(bao.vault_signer(words).arg("--public-key").arg(&key));
    let (code, told) = sign(&["sign", "--role", "other"]);
    assert_eq!(code, 4, "{told}");
    assert!(told.contains("Unknown role: other"), "{told}");
    let (code, told) = sign(&["sign", "--mount", "other"]);
    assert_eq!(code, 4, "{told}");
    assert!(told.contains("other/sign/forward"), "{told}");
    let (code, told) = sign(&["sign", "--namespace", "other"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("namespace"), "{told}");
    let closed = format!("http://127.0.0.1:{}", ports::free());
    let (code, told) = sign(&["sign", "--address", &closed]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("does not answer"), "{told}");
}

#[test]
fn only_the_right_authority_makes_a_server_trusted() {
    let scratch = Scratch::new("tls");
    let address = format!("127.0.0.1:{}", ports::free());
    let mut process = Program::new(program())
        .args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root", "-dev-tls"])
        .arg(format!("-dev-tls-cert-dir={}", scratch.path().display()))
        .arg(format!("-dev-listen-address={address}"))
        .start();
    process.wait_for("Root Token", END);
    let ca = std::fs::read_dir(scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with("-ca.pem"))
        .unwrap();
    let health = |ca: Option<std::path::PathBuf>| {
        let ca = ca.map(Ca::File);
        let settings = Settings { address: Some(format!("https://{address}")), ca, ..Settings::default() };
        block(Server::new(&settings).unwrap().health())
    };
    wait::until_true("OpenBao with TLS", END, || !matches!(health(None), Err(Error::Unreachable { .. })));
    let error = health(None).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains("VAULT_CACERT") && !error.is_transient());
    assert!(health(Some(ca)).is_ok());
}

#[test]
fn database_credentials_live_as_long_as_their_lease() {
    let bao = OpenBao::start();
    let postgres = Postgres::start();
    let has = |name: &str| postgres.roles().iter().any(|role| role == name);
    bao.connect_database(&postgres, "1m");
    let server = server(&bao);
    let token = token(&bao, bao.root_token());
    let made = block(database::credentials(&server, &token, "database/creds/reader")).unwrap();
    assert!(has(made.username()));
    let renewed = block(database::renew(&server, &token, made.lease(), Duration::from_secs(120))).unwrap();
    assert!(renewed.expires_at() > SystemTime::now());
    block(database::revoke(&server, &token, &renewed)).unwrap();
    assert!(!has(made.username()), "revoking returned before the role was gone");
    let error = block(database::renew(&server, &token, &renewed, Duration::from_secs(120))).unwrap_err();
    assert!(matches!(error, Error::BadRequest { .. }), "{error:?}");
    let error = block(database::credentials(&server, &token, "database/creds/no-such-role")).unwrap_err();
    assert!(matches!(error, Error::BadRequest { .. } | Error::NotFound { .. }), "{error:?}");
}

#[test]
fn the_real_command_talks_to_the_stand_in() {
    let (mut dev, about) = stand_in();
    let bao = |words: &[&str]| {
        Program::new(program())
            .args(words)
            .env("BAO_ADDR", about["address"].as_str().unwrap())
            .env("BAO_TOKEN", about["root_token"].as_str().unwrap())
    };
    let scratch = Scratch::new("stand-in");
    let key = format!("public_key=@{}", public_key(&scratch).display());
    let signed =
        bao(&["write", "-field=signed_key", "ssh/sign/forward", &key, "ttl=5m", "valid_principals=dev"])
            .succeed();
    let described = forge::describe(&scratch.write("cert.pub", signed));
    assert!(
        described.contains("dev-forward-") && described.contains("permit-port-forwarding"),
        "{described}"
    );
    let host = ["write", "-field=signed_key", "ssh-host/sign/bastion", &key, "cert_type=host"];
    let signed = bao(&[&host[..], &["valid_principals=localhost"]].concat()).succeed();
    assert!(forge::describe(&scratch.write("host.pub", signed)).contains("host certificate"));
    assert_eq!(
        bao(&["read", "-field=public_key", "ssh/config/ca"]).succeed().trim(),
        about["user_authority"]
    );
    assert!(bao(&["token", "lookup"]).succeed().contains("root"));
    assert!(bao(&["status"]).succeed().contains("development"));
    let (code, told) = failed(bao(&["write", "ssh/sign/other", &key]));
    assert!(code != 0 && told.contains("Unknown role: other"), "{told}");
    let (_, told) = failed(bao(&["token", "lookup"]).env("BAO_TOKEN", "other"));
    assert!(told.contains("permission denied"), "{told}");

    let (code, told) = failed(
        Program::ours("vault-signer")
            .args(["bootstrap", "--domain", "example.com"])
            .env("VAULT_ADDR", about["address"].as_str().unwrap())
            .env("VAULT_TOKEN", about["root_token"].as_str().unwrap()),
    );
    assert_eq!(code, 4, "{told}");
    assert!(told.contains("vault-signer dev"), "{told}");
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.code(END), 0);
}

/// A stand-in on a free port, and what it says of itself.
fn stand_in() -> (Process, Value) {
    let words = ["dev", "--listen", "127.0.0.1:0", "--json", "--principal", "tunnel", "--principal", "dev"];
    let mut process = Program::ours("vault-signer").args(words).start();
    let about = wait::until("the stand-in", END, || process.json().into_iter().next());
    process.wait_for("DEVELOPMENT ONLY", END);
    (process, about)
}

#[test]
fn the_stand_in_ends_when_asked_and_stays_on_this_computer() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut process, _) = stand_in();
        process.signal(signal);
        assert_eq!(process.code(END), 0);
    }
    let (code, told) = failed(Program::ours("vault-signer").args(["dev", "--listen", "0.0.0.0:0"]));
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("--dangerously-listen-anywhere"), "{told}");
    let (_, first) = stand_in();
    let (_, second) = stand_in();
    assert_ne!(first["root_token"], second["root_token"]);
}
