//! Authorities of users, from a folder and from several issuers of OpenBao, and the end of sessions when one
//! is trusted no more.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    bastion::{self, Bastion, LOGIN},
    forge::Forge,
    http,
    key::Key,
    openbao::OpenBao,
    rogue::{Attempt, Client},
    scratch::Scratch,
    target::Target,
    wait,
};

/// How long a change may take to be in force.
const SOON: Duration = Duration::from_secs(5);

fn admits(bastion: &Bastion, authority: &Key) -> bool {
    let key = Key::ed25519();
    let certificate = Forge::user(&key, LOGIN).sign(authority);
    Client::connect(bastion.address())
        .unwrap()
        .attempt(&Attempt::certificate(LOGIN, &key, certificate))
        .accepted
}

#[test]
fn a_folder_of_authorities_is_followed() {
    let (one, two) = (Key::ed25519(), Key::ed25519());
    let folder = Scratch::new("authorities.d");
    let path = folder.write("one.pub", one.public_line() + "\n");
    folder.write("notes.txt", "no key");
    let bastion = bastion::Setup::new().set("/authorities", json!([{"folder": folder.path()}])).start();
    assert!(admits(&bastion, &one) && !admits(&bastion, &two));
    folder.write("two.pub", two.public_line() + "\n");
    wait::until_true("the second authority", SOON, || admits(&bastion, &two));
    assert!(admits(&bastion, &one));
    std::fs::remove_file(path).unwrap();
    wait::until_true("the end of the first authority", SOON, || !admits(&bastion, &one));
    assert!(admits(&bastion, &two));
    std::fs::remove_file(folder.join("two.pub")).unwrap();
    wait::until_true("a word about the empty folder", SOON, || {
        bastion.log().contains("the last good ones stay trusted")
    });
    assert!(admits(&bastion, &two), "an empty folder locks no client out");
}

#[test]
fn sessions_of_a_removed_authority_end_or_run_out() {
    let target = Target::echo();
    for (removed, ends) in [("end_sessions", true), ("let_run_out", false)] {
        let (old, new, key) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
        let scratch = Scratch::new("authorities");
        let file = scratch.write("ca.pub", old.public_line() + "\n");
        let bastion = bastion::Setup::new()
            .set("/authorities", json!([{"file": file}]))
            .set("/removed_authority", json!(removed))
            .rule(LOGIN, &[&target.address().to_string()])
            .start();
        let mut client = Client::login(bastion.address(), LOGIN, &key, Forge::user(&key, LOGIN).sign(&old));
        let channel = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
        std::fs::rename(scratch.write("next", new.public_line() + "\n"), &file).unwrap();
        wait::until_true("the new authority", SOON, || admits(&bastion, &new));
        assert!(!admits(&bastion, &old), "no new login in either case");
        if ends {
            let end = client.farewell(SOON).expect("a last word");
            assert!(format!("{end:?}").contains("unknown_authority"), "{end:?}");
        } else {
            client.write(channel, b"x").unwrap();
            assert_eq!(client.read(channel, 1).unwrap(), b"x");
        }
    }
}

#[test]
fn several_issuers_of_one_mount_are_believed_during_a_rotation() {
    let bao = OpenBao::start();
    let post = |path: &str, body: Value| -> Value {
        let headers = [("X-Vault-Token", bao.root_token())];
        let answer = http::request("POST", bao.address(), path, &headers, &body.to_string()).unwrap();
        assert!(answer.status < 300, "{answer:?}");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    };
    bao.bootstrap("127.0.0.1", &[]);
    let issuers = || http::get(bao.address(), "/v1/ssh/public_key").unwrap().body;
    let before = issuers();
    // A second authority becomes the default, while the first goes on signing what was asked of it.
    let made = post("/v1/ssh/config/ca", json!({"generate_signing_key": true, "key_type": "ed25519"}));
    assert_ne!(issuers(), before, "{made}");
    let list =
        http::request("LIST", bao.address(), "/v1/ssh/issuers", &[("X-Vault-Token", bao.root_token())], "")
            .unwrap();
    let ids: Vec<String> = serde_json::from_value(list.json()["data"]["keys"].clone()).unwrap();
    assert_eq!(ids.len(), 2);
    let bastion = bastion::Setup::new()
        .set("/authorities", json!([{"vault": {"mount": "ssh", "issuers": ids}}]))
        .set("/vault", json!({"address": bao.url()}))
        .start();
    assert!(bastion.page("/metrics").body.contains("bastion_ca_keys 2"));
}
