//! Who may reach what, as it is decided, changed while people are connected, and explained.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::bastion::{self, Bastion, LOGIN};
use tests::forge::{Forge, line};
use tests::key::Key;
use tests::process::Program;
use tests::rogue::{Channel, Client};
use tests::scratch::Scratch;
use tests::target::Target;
use tests::wait;

/// How long a change may take to be in force, and to be felt by whoever is connected.
const IN_FORCE: Duration = Duration::from_secs(5);

fn rule(name: &str, who: Value, verb: &str, destinations: &[String]) -> Value {
    json!({"name": name, "who": who, verb: destinations})
}

fn everybody() -> Value {
    json!({"everybody": true})
}

/// A bastion, who may log in there, and two targets behind it.
struct Place {
    authority: Key,
    key: Key,
    bastion: Bastion,
    first: Target,
    second: Target,
}

impl Place {
    /// With rules made of the two destinations.
    fn new(rules: impl FnOnce(&str, &str) -> Value) -> Self {
        let (authority, key) = (Key::ed25519(), Key::ed25519());
        let (first, second) = (Target::echo(), Target::echo());
        let rules = rules(&first.address().to_string(), &second.address().to_string());
        let bastion = bastion::Setup::new().trust(&authority).set("/rules", rules).start();
        Self { authority, key, bastion, first, second }
    }

    fn certificate(&self, change: impl FnOnce(&mut Forge)) -> Vec<u8> {
        Forge::user(&self.key, LOGIN).with(change).sign(&self.authority)
    }

    fn login(&self, change: impl FnOnce(&mut Forge)) -> Client {
        Client::login(self.bastion.address(), LOGIN, &self.key, self.certificate(change))
    }
}

fn open(client: &mut Client, target: &Target) -> Result<Channel, String> {
    client.forward("127.0.0.1", target.port().into()).unwrap().map_err(|failure| failure.text)
}

fn echoes(client: &mut Client, channel: Channel) -> bool {
    client.write(channel, b"x").is_ok() && client.read(channel, 1).is_ok_and(|read| read == b"x")
}

#[test]
fn a_narrowed_policy_ends_what_it_no_longer_permits_and_nothing_else() {
    let mut place = Place::new(|first, second| {
        json!([
            rule("first", everybody(), "to", &[first.to_owned()]),
            rule("second", everybody(), "to", &[second.to_owned()]),
        ])
    });
    let mut client = place.login(|_| {});
    let (first, second) =
        (open(&mut client, &place.first).unwrap(), open(&mut client, &place.second).unwrap());
    assert!(echoes(&mut client, first) && echoes(&mut client, second));

    let second_only = json!([rule("second", everybody(), "to", &[place.second.address().to_string()])]);
    place.bastion.change("/rules", second_only);
    let changed = Instant::now();
    let record =
        place.bastion.audited("the end of the first forward", |record| record["event"] == "forward_closed");
    assert!(changed.elapsed() < IN_FORCE, "{:?}", changed.elapsed());
    assert_eq!((&record["reason"], &record["rule"]), (&json!("no_rule"), &json!("first")));
    assert!(!echoes(&mut client, first));
    assert!(echoes(&mut client, second), "another forward of the same session sees nothing");
    assert!(open(&mut client, &place.first).unwrap_err().starts_with("no_rule: "));
}

#[test]
fn a_broken_file_changes_nothing_and_is_told() {
    let place = Place::new(|first, _| json!([rule("first", everybody(), "to", &[first.to_owned()])]));
    place.bastion.replace_config("rules: [\n");
    wait::until_true("a word about the broken file", IN_FORCE, || {
        place
            .bastion
            .page("/metrics")
            .body
            .contains("bastion_config_reloads_total{result=\"refused\",reason=\"broken\"} 1")
    });
    assert!(place.bastion.log().contains("the old one stays in force"));
    let mut client = place.login(|_| {});
    let channel = open(&mut client, &place.first).unwrap();
    assert!(echoes(&mut client, channel));
}

#[test]
fn whoever_may_not_log_in_any_more_is_sent_away() {
    let mut place = Place::new(|first, _| json!([rule("first", everybody(), "to", &[first.to_owned()])]));
    let client = &mut place.login(|_| {});
    place.bastion.change("/login/users", json!(["somebody-else"]));
    let end = client.farewell(IN_FORCE).expect("a last word");
    assert!(format!("{end:?}").contains("unknown_user"), "{end:?}");
}

#[test]
fn rules_look_at_key_ids_and_authorities_and_may_deny() {
    let other = Key::ed25519();
    let fingerprint = other.private().fingerprint(ssh_key::HashAlg::Sha256).to_string();
    let mut place = Place::new(|first, second| {
        json!([
            rule(
                "single sign-on",
                json!({"key_ids": ["oidc-*"]}),
                "to",
                &[first.to_owned(), second.to_owned()]
            ),
            rule("the other authority", json!({"authorities": [fingerprint]}), "to", &[first.to_owned()]),
            rule(
                "never the second",
                json!({"principals": [LOGIN, "contractor"], "key_ids": ["*-contractor"]}),
                "deny",
                &[second.to_owned()]
            ),
        ])
    });
    let key_id = |text: &'static str| move |forge: &mut Forge| forge.key_id = text.into();
    let mut employee = place.login(key_id("oidc-me"));
    assert!(open(&mut employee, &place.first).is_ok() && open(&mut employee, &place.second).is_ok());
    let mut contractor = place.login(key_id("oidc-me-contractor"));
    assert!(open(&mut contractor, &place.first).is_ok());
    let denied = open(&mut contractor, &place.second).unwrap_err();
    assert_eq!(denied, "denied_by_rule: a rule denies this destination: never the second");
    let record = place.bastion.audited("the denial", |record| record["reason"] == "denied_by_rule");
    assert_eq!(record["rule"], "never the second");
    let mut nobody = place.login(key_id("approle-me"));
    assert!(open(&mut nobody, &place.first).is_err());
    place.authority = other;
    let untrusted = Client::connect(place.bastion.address())
        .unwrap()
        .attempt(&tests::rogue::Attempt::certificate(LOGIN, &place.key, place.certificate(|_| {})));
    assert!(!untrusted.accepted, "a rule about an authority does not make it trusted");
}

/// The question that `explain` answers, its exit code, and its answer as JSON and as text.
fn explain(place: &Place, certificate: &[u8], to: &str) -> (i32, Value, String) {
    let scratch = Scratch::new("explain");
    let certificate = scratch.write("id-cert.pub", line(certificate));
    let ask = |more: &[&str]| {
        Program::ours("bastion-server")
            .arg("explain")
            .arg(place.bastion.config())
            .arg("--cert")
            .arg(&certificate)
            .args(["--to", to])
            .args(more)
            .output()
    };
    let (json, text) = (ask(&["--json"]), ask(&[]));
    assert_eq!(json.status.code(), text.status.code());
    let text = String::from_utf8(text.stdout).unwrap();
    (json.status.code().unwrap(), serde_json::from_slice(&json.stdout).unwrap_or_default(), text)
}

#[test]
fn explain_says_what_the_bastion_does() {
    let place = Place::new(|first, second| {
        json!([
            rule("developers", json!({"principals": ["dev"]}), "to", &[first.to_owned()]),
            rule("everybody", everybody(), "to", &[first.to_owned(), second.to_owned()]),
            rule("not the second", json!({"key_ids": ["bad*"]}), "deny", &[second.to_owned()]),
        ])
    });
    let (first, second) = (place.first.address().to_string(), place.second.address().to_string());
    let good = place.certificate(|_| {});
    let bad = place.certificate(|forge| forge.key_id = "bad apple".into());
    let old = place.certificate(|forge| forge.valid_before = tests::forge::now() - 1);
    for (certificate, to, code, verdict) in [
        (&good, first.as_str(), 0, json!({"result": "permitted", "rule": "everybody"})),
        (
            &bad,
            &second,
            8,
            json!({"result": "forward_refused", "reason": "denied_by_rule", "message": "a rule denies this destination: not the second"}),
        ),
        (
            &good,
            "10.1.2.3:80",
            8,
            json!({"result": "forward_refused", "reason": "no_rule", "message": "no rule lets any of your principals reach this destination"}),
        ),
        (
            &old,
            &first,
            7,
            json!({"result": "certificate_refused", "reason": "expired", "message": "it has expired"}),
        ),
    ] {
        let (exit, answer, text) = explain(&place, certificate, to);
        assert_eq!((exit, &answer["verdict"]), (code, &verdict), "{answer}\n{text}");
    }
    let (_, answer, text) = explain(&place, &good, &first);
    let rules: Vec<_> =
        answer["rules"].as_array().unwrap().iter().map(|rule| (&rule["who"], &rule["destination"])).collect();
    assert_eq!(
        rules,
        [(&json!(false), &json!(true)), (&json!(true), &json!(true)), (&json!(false), &json!(false))]
    );
    assert!(text.ends_with("verdict      permitted by \"everybody\"\n"), "{text}");
    // And so it is.
    let mut client = place.login(|_| {});
    assert!(open(&mut client, &place.first).is_ok());
    let mut client = place.login(|forge| forge.key_id = "bad apple".into());
    assert!(open(&mut client, &place.second).is_err());

    let (code, _, _) = explain(&place, &good, "no-port");
    assert_eq!(code, 2);
}

#[test]
fn an_identity_moves_no_more_bytes_a_second_than_it_may() {
    const MIB: usize = 1 << 20;
    let (authority, key, sink) = (Key::ed25519(), Key::ed25519(), Target::sink());
    let bastion = bastion::Setup::new()
        .trust(&authority)
        .rule(LOGIN, &[&sink.address().to_string()])
        .set("/limits", json!({"per_identity": {"bytes_per_second": "1MiB"}}))
        .start();
    let mut client = Client::login(bastion.address(), LOGIN, &key, Forge::user(&key, LOGIN).sign(&authority));
    let channel = open(&mut client, &sink).unwrap();
    let start = Instant::now();
    client.write(channel, &vec![7; 3 * MIB]).unwrap();
    client.finish(channel).unwrap();
    assert_eq!(sink.transfer_of_something(Duration::from_secs(20)).bytes, 3 * MIB as u64);
    // One second's worth is free after a pause.
    assert!(start.elapsed() > Duration::from_millis(1800), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
