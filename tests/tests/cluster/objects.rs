//! Secrets and ConfigMaps as a bastion's authorities, revocation lists and host key.

use std::time::Instant;

use serde_json::{Value, json};
use tests::{
    bastion::LOGIN,
    cluster::Minor,
    forge::Forge,
    key::Key,
    rogue::{Attempt, Client},
    wait,
};

use super::fixture::{IN_FORCE, OWN, Place, SOON};

fn object(kind: &str, name: &str, data: Value) -> Value {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": OWN}, field: data})
}

/// Whether a certificate of this authority lets a client in.
fn is_let_in(bastion: &tests::bastion::Bastion, authority: &Key, key: &Key) -> bool {
    let certificate = Forge::user(key, LOGIN).sign(authority);
    let mut client = Client::connect(bastion.address()).unwrap();
    client.attempt(&Attempt::certificate(LOGIN, key, certificate)).accepted
}

#[test]
fn authorities_and_revocations_are_followed() {
    let place = Place::new(Minor::Newest);
    let (old, new, key) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
    for (kind, authorities, lists) in
        [("ConfigMap", "config_map", "config_maps"), ("Secret", "secret", "secrets")]
    {
        let ca = |text: &str| place.apply(&object(kind, "user-ca", json!({"ca.pub": text})));
        let revoke = |text: &str| place.apply(&object(kind, "revoked", json!({"list": text})));
        ca(&old.public_line());
        revoke("# empty\n");
        let pod = format!("bastion-{authorities}").replace('_', "-");
        let bastion = place
            .setup(&pod)
            .set("/authorities", json!([{authorities: {"name": "user-ca", "key": "ca.pub"}}]))
            .set("/revocation", json!({lists: [{"name": "revoked", "key": "list"}]}))
            .start();
        assert!(is_let_in(&bastion, &old, &key) && !is_let_in(&bastion, &new, &key));
        let certificate = Forge::user(&key, LOGIN).sign(&old);
        let mut client = Client::login(bastion.address(), LOGIN, &key, certificate);

        let applied = Instant::now();
        ca(&format!("{}\n{}\n", old.public_line(), new.public_line()));
        wait::until_true("the new authority", IN_FORCE, || is_let_in(&bastion, &new, &key));
        println!("{kind}: an authority {:?} after kubectl apply began", applied.elapsed());

        ca("what is this?");
        let event = wait::until("an Event on the pod", SOON, || place.events(OWN, &pod).into_iter().next());
        assert_eq!(
            (&event["reason"], &event["regarding"]["kind"]),
            (&json!("AuthorityUnreadable"), &json!("Pod"))
        );
        assert!(!event["note"].as_str().unwrap().contains("what is this"), "{event}");
        assert!(
            is_let_in(&bastion, &old, &key) && is_let_in(&bastion, &new, &key),
            "the last good ones stay"
        );

        place.kubectl(&["--namespace", OWN, "delete", kind, "revoked"]);
        wait::until_true("a word about the list", IN_FORCE, || {
            bastion.log().contains("its last good content stays in force")
        });
        revoke(&format!("{}\n", key.public_line()));
        let end = client.farewell(IN_FORCE).expect("a last word");
        assert!(format!("{end:?}").contains("revoked"), "{end:?}");
        assert!(!is_let_in(&bastion, &new, &key));
        revoke("# empty\n");
        wait::until_true("no certificate is revoked", IN_FORCE, || is_let_in(&bastion, &new, &key));
    }
}

#[test]
fn one_host_key_is_made_and_published() {
    let place = Place::new(Minor::Newest);
    place.apply(&object("ConfigMap", "bastion-connection-info", json!({"pf-tunnel.yaml": "bastion: {}"})));
    let setup = |pod: &str| {
        place
            .setup(pod)
            .set("/host_key", json!({"secret": {"name": "bastion-host-key", "generate": true}}))
            .set(
                "/kubernetes/publish",
                json!({"config_map": "bastion-connection-info", "names": ["bastion.example.com"]}),
            )
    };
    let (one, two) = (setup("one"), setup("two"));
    let bastions = std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| one.start()), scope.spawn(|| two.start()));
        [one.join().unwrap(), two.join().unwrap()]
    });
    let made =
        bastions.iter().filter(|bastion| bastion.log().contains("host key created in a Secret")).count();
    assert_eq!(made, 1, "by the replica that came first");
    let secret = place.get(&["secret/bastion-host-key", "--namespace", OWN]);
    assert_eq!(secret["immutable"], true);
    let published = wait::until("the published identity", SOON, || {
        let map = place.get(&["configmap/bastion-connection-info", "--namespace", OWN]);
        assert_eq!(map["data"]["pf-tunnel.yaml"], "bastion: {}", "what others wrote stays");
        map["data"]["known_hosts"].as_str().map(str::to_owned)
    });
    let (names, key) = published.trim().split_once(' ').unwrap();
    assert_eq!(names, "bastion.example.com");
    for bastion in &bastions {
        let port = bastion.address().port().to_string();
        let scanned = tests::process::Program::new(tests::process::installed("ssh-keyscan"))
            .args(["-t", "ed25519", "-p", &port, "127.0.0.1"])
            .succeed();
        assert!(scanned.contains(key), "{scanned} is not {key}");
    }
    // A broken one is neither replaced nor used.
    place.kubectl(&["--namespace", OWN, "delete", "secret/bastion-host-key"]);
    place.apply(&object("Secret", "bastion-host-key", json!({"something": "else"})));
    std::thread::scope(|scope| {
        let third = setup("three");
        let third = scope.spawn(|| third.start());
        let event =
            wait::until("an Event on the pod", SOON, || place.events(OWN, "three").into_iter().next());
        assert_eq!(event["reason"], "HostKeyUnavailable");
        place.kubectl(&["--namespace", OWN, "delete", "secret/bastion-host-key"]);
        let third = third.join().unwrap();
        assert!(third.log().contains("host key created in a Secret"));
    });
}
