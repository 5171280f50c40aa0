//! Rules of the configuration: decided, changed while sessions are open, and explained.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    bastion::{self, LOGIN},
    fixture::Fixture,
    forge::{Forge, line},
    key::Key,
    process::Program,
    rogue::{Channel, Client},
    scratch::Scratch,
    target::Target,
    wait,
};

/// How long a change may take to be in force, and to be felt by clients that are connected.
const IN_FORCE: Duration = Duration::from_secs(5);

fn rule(name: &str, who: Value, verb: &str, destinations: &[String]) -> Value {
    json!({"name": name, "who": who, verb: destinations})
}

fn everybody() -> Value {
    json!({"everybody": true})
}

/// A bastion whose rules are made of two destinations.
struct Two {
    fixture: Fixture,
    first: Target,
    second: Target,
}

fn two(rules: impl FnOnce(&str, &str) -> Value) -> Two {
    let (first, second) = (Target::echo(), Target::echo());
    let rules = rules(&first.address().to_string(), &second.address().to_string());
    Two { fixture: Fixture::without_rules(|setup| setup.set("/rules", rules)), first, second }
}

fn open(client: &mut Client, target: &Target) -> Result<Channel, String> {
    client.forward("127.0.0.1", target.port().into()).unwrap().map_err(|failure| failure.text)
}

fn echoes(client: &mut Client, channel: Channel) -> bool {
    client.write(channel, b"x").is_ok() && client.read(channel, 1).is_ok_and(|read| read == b"x")
}

#[test]
fn a_narrowed_policy_ends_what_it_no_longer_permits_and_nothing_else() {
    let mut rules = two(|first, second| {
        json!([
            rule("first", everybody(), "to", &[first.to_owned()]),
            rule("second", everybody(), "to", &[second.to_owned()]),
        ])
    });
    let mut client = rules.fixture.login();
    let (first, second) =
        (open(&mut client, &rules.first).unwrap(), open(&mut client, &rules.second).unwrap());
    assert!(echoes(&mut client, first) && echoes(&mut client, second));

    let second_only = json!([rule("second", everybody(), "to", &[rules.second.address().to_string()])]);
    rules.fixture.bastion.change("/rules", second_only);
    let changed = Instant::now();
    let record = rules
        .fixture
        .bastion
        .audited("the end of the first forward", |record| record["event"] == "forward_closed");
    assert!(changed.elapsed() < IN_FORCE, "{:?}", changed.elapsed());
    assert_eq!((&record["reason"], &record["rule"]), (&json!("no_rule"), &json!("first")));
    assert!(!echoes(&mut client, first));
    assert!(echoes(&mut client, second), "another forward of the same session sees nothing");
    assert!(open(&mut client, &rules.first).unwrap_err().starts_with("no_rule: "));
}

#[test]
fn a_broken_file_changes_nothing_and_is_told() {
    let rules = two(|first, _| json!([rule("first", everybody(), "to", &[first.to_owned()])]));
    rules.fixture.bastion.replace_config("rules: [\n");
    wait::until_true("a word about the broken file", IN_FORCE, || {
        rules
            .fixture
            .bastion
            .page("/metrics")
            .body
            .contains("bastion_config_reloads_total{result=\"refused\",reason=\"broken\"} 1")
    });
    assert!(rules.fixture.bastion.log().contains("the previous one stays in force"));
    let mut client = rules.fixture.login();
    let channel = open(&mut client, &rules.first).unwrap();
    assert!(echoes(&mut client, channel));
}

#[test]
fn a_client_that_may_not_log_in_any_more_is_sent_away() {
    let mut rules = two(|first, _| json!([rule("first", everybody(), "to", &[first.to_owned()])]));
    let client = &mut rules.fixture.login();
    rules.fixture.bastion.change("/login/users", json!(["another-user"]));
    let end = client.farewell(IN_FORCE).expect("a last word");
    assert!(format!("{end:?}").contains("unknown_user"), "{end:?}");
}

#[test]
fn rules_look_at_key_ids_and_authorities_and_may_deny() {
    let other = Key::ed25519();
    let fingerprint = other.private().fingerprint(ssh_key::HashAlg::Sha256).to_string();
    let mut rules = two(|first, second| {
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
    let mut employee = rules.fixture.login_with(key_id("oidc-me"));
    assert!(open(&mut employee, &rules.first).is_ok() && open(&mut employee, &rules.second).is_ok());
    let mut contractor = rules.fixture.login_with(key_id("oidc-me-contractor"));
    assert!(open(&mut contractor, &rules.first).is_ok());
    let denied = open(&mut contractor, &rules.second).unwrap_err();
    assert_eq!(denied, "denied_by_rule: a rule denies this destination: never the second");
    let record = rules.fixture.bastion.audited("the denial", |record| record["reason"] == "denied_by_rule");
    assert_eq!(record["rule"], "never the second");
    let mut machine = rules.fixture.login_with(key_id("approle-me"));
    assert!(open(&mut machine, &rules.first).is_err());
    rules.fixture.authority = other;
    let untrusted = Client::connect(rules.fixture.bastion.address()).unwrap().attempt(
        &tests::rogue::Attempt::certificate(
            LOGIN,
            &rules.fixture.key,
            rules.fixture.certificate_with(|_| {}),
        ),
    );
    assert!(!untrusted.accepted, "a rule about an authority does not make it trusted");
}

/// The question that `explain` answers, its exit code, and its answer as JSON and as text.
fn explain(rules: &Two, certificate: &[u8], to: &str) -> (i32, Value, String) {
    let scratch = Scratch::new("explain");
    let certificate = scratch.write("id-cert.pub", line(certificate));
    let ask = |more: &[&str]| {
        Program::ours("bastion-server")
            .arg("explain")
            .arg(rules.fixture.bastion.config())
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
    let rules = two(|first, second| {
        json!([
            rule("developers", json!({"principals": ["dev"]}), "to", &[first.to_owned()]),
            rule("everybody", everybody(), "to", &[first.to_owned(), second.to_owned()]),
            rule("not the second", json!({"key_ids": ["bad*"]}), "deny", &[second.to_owned()]),
        ])
    });
    let (first, second) = (rules.first.address().to_string(), rules.second.address().to_string());
    let good = rules.fixture.certificate_with(|_| {});
    let bad = rules.fixture.certificate_with(|forge| forge.key_id = "bad apple".into());
    let old = rules.fixture.certificate_with(|forge| forge.valid_before = tests::forge::now() - 1);
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
        let (exit, answer, text) = explain(&rules, certificate, to);
        assert_eq!((exit, &answer["verdict"]), (code, &verdict), "{answer}\n{text}");
    }
    let (_, answer, text) = explain(&rules, &good, &first);
    let told: Vec<_> =
        answer["rules"].as_array().unwrap().iter().map(|rule| (&rule["who"], &rule["destination"])).collect();
    assert_eq!(
        told,
        [(&json!(false), &json!(true)), (&json!(true), &json!(true)), (&json!(false), &json!(false))]
    );
    assert!(text.ends_with("verdict      permitted by \"everybody\"\n"), "{text}");
    // And so it is.
    let mut client = rules.fixture.login();
    assert!(open(&mut client, &rules.first).is_ok());
    let mut client = rules.fixture.login_with(|forge| forge.key_id = "bad apple".into());
    assert!(open(&mut client, &rules.second).is_err());

    let (code, _, _) = explain(&rules, &good, "no-port");
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
