//! The login of the bastion's pods: what `vault-signer bootstrap --kubernetes` sets up in OpenBao lets one
//! ServiceAccount have host keys signed, by a token that the API server vouches for, and other accounts do
//! nothing.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tests::{
    bastion,
    cluster::{ApiServer, Minor},
    forge,
    openbao::OpenBao,
    process::Program,
    scratch::Scratch,
    wait,
};

const SOON: Duration = Duration::from_secs(30);

/// An API server, an OpenBao that asks it, and the token by which it does.
struct Place {
    server: ApiServer,
    bao: OpenBao,
    scratch: Scratch,
}

impl Place {
    fn new() -> Self {
        let server = ApiServer::alone(Minor::Newest);
        let kubectl = |words: &[&str]| server.kubectl().args(words).succeed();
        for namespace in ["bastion", "other"] {
            kubectl(&["create", "namespace", namespace]);
            kubectl(&["create", "serviceaccount", "bastion", "--namespace", namespace]);
            kubectl(&["create", "serviceaccount", "another", "--namespace", namespace]);
        }
        kubectl(&["create", "namespace", "vault"]);
        kubectl(&["create", "serviceaccount", "reviewer", "--namespace", "vault"]);
        let binding = ["--clusterrole=system:auth-delegator", "--serviceaccount=vault:reviewer"];
        kubectl(&[&["create", "clusterrolebinding", "vault-reviewer"], &binding[..]].concat());
        Self { server, bao: OpenBao::start(), scratch: Scratch::new("vault") }
    }

    /// A token of a ServiceAccount, as a projected volume would have it.
    fn token(&self, namespace: &str, account: &str, words: &[&str]) -> PathBuf {
        let ask = ["create", "token", account, "--namespace", namespace];
        let token = self.server.kubectl().args(ask).args(words).succeed();
        self.scratch.write(&format!("{namespace}-{account}-{}", words.join("")), token)
    }

    fn bootstrap(&self, more: &[&str]) -> Value {
        let config = self
            .server
            .kubectl()
            .args(["config", "view", "--raw", "--flatten", "--output", "json"])
            .succeed();
        let config: Value = serde_json::from_str(&config).unwrap();
        let cluster = &config["clusters"][0]["cluster"];
        let authority = Program::new("/usr/bin/base64")
            .arg("-d")
            .input(cluster["certificate-authority-data"].as_str().unwrap())
            .succeed();
        let authority = self.scratch.write("ca.crt", authority);
        let (host, authority) = (cluster["server"].as_str().unwrap(), authority.to_str().unwrap());
        let words = ["--kubernetes", "--kubernetes-host", host, "--kubernetes-ca-cert", authority];
        self.bao.bootstrap("bastion.example.com", &[&words, more].concat())
    }

    /// `vault-signer sign` of a host key, logged in with this token: exit code, what it printed, what it
    /// told.
    fn sign(&self, token: &PathBuf) -> (i32, String, String) {
        let key = self.scratch.write("host.pub", tests::key::Key::ed25519().public_line());
        let output = Program::ours("vault-signer")
            .args(["sign", "--kind", "host", "--mount", "ssh-host", "--role", "bastion", "--ttl", "1h"])
            .args([
                "--principal",
                "bastion.example.com",
                "--auth",
                "kubernetes",
                "--auth-role",
                "bastion",
                "--token-file",
            ])
            .arg(token)
            .arg("--public-key")
            .arg(key)
            .env("BAO_ADDR", self.bao.url())
            .output();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

fn outcomes(report: &Value) -> Vec<&str> {
    report["steps"].as_array().unwrap().iter().map(|step| step["outcome"].as_str().unwrap()).collect()
}

#[test]
fn one_service_account_logs_in_with_a_token_for_vault_alone_and_signs_host_keys_alone() {
    let place = Place::new();
    let reviewer = place.token("vault", "reviewer", &[]);
    let reviewer = ["--token-reviewer-jwt-file", reviewer.to_str().unwrap()];
    assert_eq!(outcomes(&place.bootstrap(&[&reviewer[..], &["--dry-run"]].concat())), ["created"; 11]);
    assert!(!place.bao.run(&["auth", "list"]).contains("kubernetes/"), "a dry run wrote something");
    assert_eq!(outcomes(&place.bootstrap(&reviewer)), ["created"; 11]);
    let again = place.bootstrap(&reviewer);
    let (last, before) =
        outcomes(&again).split_last().map(|(last, before)| (*last, before.to_vec())).unwrap();
    assert_eq!((last, &before[..9]), ("unchanged", &["unchanged"; 9][..]));
    // Vault does not give the reviewer's token back, so it is written each time, and the report says so.
    assert_eq!(
        again["steps"][9]["changes"],
        json!([{"field": "token_reviewer_jwt", "from": "not shown", "to": "as given"}])
    );

    let vault = ["--audience", "vault"];
    let good = place.token("bastion", "bastion", &vault);
    let (code, signed, told) = place.sign(&good);
    assert_eq!(code, 0, "{told}");
    assert!(forge::describe(&place.scratch.write("cert.pub", signed)).contains("host certificate"));

    for (what, token) in [
        ("another audience", place.token("bastion", "bastion", &["--audience", "other"])),
        ("the API server's own audience", place.token("bastion", "bastion", &[])),
        ("another ServiceAccount", place.token("bastion", "another", &vault)),
        ("another namespace", place.token("other", "bastion", &vault)),
        ("no token", place.scratch.write("none", "canary")),
        ("a changed token", {
            let text = std::fs::read_to_string(&good).unwrap();
            place.scratch.write("changed", text.trim().chars().rev().collect::<String>())
        }),
    ] {
        let (code, _, told) = place.sign(&token);
        assert_eq!(code, 3, "{what}: {told}");
        assert!(told.contains("Vault refuses the kubernetes login"), "{what}: {told}");
        assert!(!told.contains(std::fs::read_to_string(&token).unwrap().trim()), "{what}: {told}");
    }

    // What it may do when it is in: this, and nothing else.
    let jwt = std::fs::read_to_string(&good).unwrap();
    let login =
        place.bao.api("POST", "auth/kubernetes/login", &json!({"role": "bastion", "jwt": jwt.trim()}));
    let auth = &login["auth"];
    assert_eq!((&auth["policies"], &auth["lease_duration"]), (&json!(["tunnel-bastion"]), &json!(300)));
    let token = auth["client_token"].as_str().unwrap();
    let key = tests::key::Key::ed25519().public_line();
    let body = json!({"public_key": key, "cert_type": "host", "valid_principals": "bastion.example.com"});
    for (method, path, status) in [
        ("POST", "ssh-host/sign/bastion", 200),
        ("GET", "ssh/public_key", 200),
        ("POST", "ssh/sign/forward", 403),
        ("GET", "ssh-host/roles/bastion", 403),
        ("POST", "ssh-host/config/ca", 403),
        ("GET", "auth/kubernetes/config", 403),
        ("GET", "auth/token/lookup-self", 403),
        ("POST", "auth/token/create", 403),
        ("GET", "sys/mounts", 403),
    ] {
        let body = if method == "GET" { Value::Null } else { body.clone() };
        assert_eq!(place.bao.request(token, method, path, &body).status, status, "{method} {path}");
    }

    // Gone with its ServiceAccount, though its token has not expired.
    place.server.kubectl().args(["delete", "serviceaccount", "bastion", "--namespace", "bastion"]).succeed();
    wait::until_true("the token's end", SOON, || place.sign(&good).0 == 3);
}

/// The bastion itself: its host certificate by that login.
#[test]
fn the_bastion_logs_in_with_its_projected_token() {
    let place = Place::new();
    let reviewer = place.token("vault", "reviewer", &[]);
    let report = place.bootstrap(&["--token-reviewer-jwt-file", reviewer.to_str().unwrap()]);
    let token = place.token("bastion", "bastion", &["--audience", "vault"]);
    let host_key = json!({"vault": {"mount": "ssh-host", "role": "bastion", "principals": ["bastion.example.com"], "ttl": "1h"}});
    let auth = json!({"method": "kubernetes", "role": "bastion", "token_file": token});
    let bastion = bastion::Setup::new()
        .set("/vault", json!({"address": place.bao.url(), "auth": auth}))
        .set("/host_key", host_key)
        .trust_line(report["user_authority"].as_str().unwrap())
        .start();
    let scan = Program::new("/usr/bin/ssh-keyscan")
        .args(["-c", "-t", "ed25519", "-p", &bastion.address().port().to_string(), "127.0.0.1"])
        .succeed();
    let certificate = scan.find("ssh-ed25519-cert-v01@").map(|at| scan[at..].lines().next().unwrap());
    let certificate = certificate.unwrap_or_else(|| panic!("no host certificate in {scan}"));
    let described = forge::describe(&place.scratch.write("host-cert.pub", certificate));
    assert!(
        described.contains("host certificate") && described.contains("bastion.example.com"),
        "{described}"
    );
}
