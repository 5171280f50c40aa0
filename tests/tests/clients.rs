//! Other people's SSH programs, as well-behaved clients with certificates, and an auditor that looks for weak
//! algorithms.

use std::path::PathBuf;

use serde_json::{Value, json};
use tests::{
    bastion::LOGIN,
    fixture::Fixture,
    forge::write_identity,
    process::{Program, installed, workspace},
    scratch::Scratch,
};

/// A person with a certificate, a bastion that admits it, and an echo behind that.
/// A client's files beside what tests share.
struct Client {
    fixture: Fixture,
    scratch: Scratch,
    identity: PathBuf,
}

impl Client {
    fn new() -> Self {
        Self::with(&[])
    }

    /// One of a bastion that offers more algorithms.
    fn with(more: &[&str]) -> Self {
        let fixture = Fixture::with(|setup| setup.set("/more_algorithms", json!(more)));
        let scratch = Scratch::new("client");
        let identity = write_identity(&scratch, "id", &fixture.key, &fixture.certificate());
        Self { fixture, scratch, identity }
    }

    fn certificate(&self) -> PathBuf {
        self.scratch.join("id-cert.pub")
    }

    /// One of the scripts beside these tests says `text` to the echo, and prints the answer.
    fn script(&self, name: &str, text: &str) -> String {
        self.script_with(name, text, &[])
    }

    fn script_with(&self, name: &str, text: &str, more: &[&str]) -> String {
        let server = self.fixture.bastion.address();
        Program::new(peer("python"))
            .arg(workspace().join("tests/clients").join(name))
            .args([&server.ip().to_string(), &server.port().to_string(), LOGIN])
            .arg(&self.identity)
            .arg(self.certificate())
            .arg(self.fixture.bastion.host_key().public_line().trim())
            .args([&self.fixture.echo.port().to_string(), text])
            .args(more)
            .succeed()
    }
}

/// A program that came from PyPI.
fn peer(name: &str) -> PathBuf {
    let path = workspace().join(".peers/venv/bin").join(name);
    assert!(path.is_file(), "{} is not installed: run tests/install first", path.display());
    path
}

#[test]
fn asyncssh_forwards() {
    assert_eq!(Client::new().script("asyncssh_echo.py", "from AsyncSSH").trim(), "from AsyncSSH");
}

#[test]
fn paramiko_forwards() {
    assert_eq!(Client::new().script("paramiko_echo.py", "from paramiko").trim(), "from paramiko");
}

/// paramiko before 3.5 has ciphers in counter mode and no others that the bastion would know.
#[test]
fn an_old_paramiko_forwards_where_the_bastion_lets_it() {
    let client = Client::with(&["aes128-ctr"]);
    let without = ["ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com"];
    assert_eq!(client.script_with("paramiko_echo.py", "from paramiko", &without).trim(), "from paramiko");
}

#[test]
fn plink_forwards() {
    let client = Client::new();
    let ppk = client.scratch.join("id.ppk");
    Program::new(installed("puttygen"))
        .arg(&client.identity)
        .args(["-O", "private", "-o"])
        .arg(&ppk)
        .succeed();
    let server = client.fixture.bastion.address();
    let host_key =
        client.fixture.bastion.host_key().private().fingerprint(ssh_key::HashAlg::Sha256).to_string();
    let said = Program::new(installed("plink"))
        .args(["-ssh", "-batch", "-noagent", "-l", LOGIN, "-P", &server.port().to_string()])
        .args(["-hostkey", &host_key, "-i"])
        .arg(ppk)
        .arg("-cert")
        .arg(client.certificate())
        .args(["-nc", &client.fixture.echo.address().to_string(), &server.ip().to_string()])
        .env("HOME", client.scratch.path())
        .input("from PuTTY")
        .succeed();
    assert_eq!(said, "from PuTTY");
}

/// What ssh-audit warns of, and we keep all the same: clients that know no key exchange against quantum
/// computers still find one, and the others get theirs, which comes first.
const CLASSICAL: [&str; 2] = ["curve25519-sha256", "curve25519-sha256@libssh.org"];
const NOT_AGAINST_QUANTUM: &str = "does not provide protection against post-quantum attacks";

/// No failure, no warning but that one, and no known vulnerability.
#[test]
fn ssh_audit_has_nothing_to_say() {
    let client = Client::new();
    let server = client.fixture.bastion.address();
    let output = Program::new(peer("ssh-audit"))
        .args(["--json", "--skip-rate-test", "--port", &server.port().to_string(), &server.ip().to_string()])
        .output();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    let mut algorithms = 0;
    for kind in ["kex", "key", "enc", "mac"] {
        for algorithm in report[kind].as_array().unwrap_or_else(|| panic!("no {kind} in {said}")) {
            let (name, notes) = (algorithm["algorithm"].as_str().unwrap(), &algorithm["notes"]);
            assert!(notes["fail"].is_null(), "{kind} {name}: {notes}");
            if CLASSICAL.contains(&name) {
                assert_eq!(notes["warn"], json!([NOT_AGAINST_QUANTUM]), "{kind} {name}");
            } else {
                assert!(notes["warn"].is_null(), "{kind} {name}: {notes}");
            }
            algorithms += 1;
        }
    }
    assert!(algorithms > 6, "{said}");
    assert_eq!(report["kex"][0]["algorithm"], "mlkem768x25519-sha256", "{said}");
    assert!(report["cves"].as_array().is_none_or(Vec::is_empty), "{}", report["cves"]);
}
