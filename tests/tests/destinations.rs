//! Where names lead: what a name server says is checked, all of it, each time, and is waited for by nobody else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::bastion::{self, Bastion, LOGIN};
use tests::dns::{Answer, NameServer};
use tests::forge::Forge;
use tests::key::Key;
use tests::rogue::{Asked, Client};
use tests::target::Target;
use tests::wait;
use tests::wire::Writer;

/// How long a name server may take.
const RESOLVE: Duration = Duration::from_secs(10);

/// A bastion that asks our name server, whose one rule lets everybody go everywhere, and somebody who is logged in.
fn start(answer: impl FnMut(&str) -> Answer + Send + 'static) -> (Bastion, Client) {
    let (authority, key) = (Key::ed25519(), Key::ed25519());
    let names = NameServer::start(answer);
    let bastion = bastion::Setup::new()
        .trust(&authority)
        .rule(LOGIN, &["*:1-65535"])
        .set("/dns", json!({"servers": [names.address().to_string()]}))
        .set("/timeouts", json!({"resolve": format!("{}s", RESOLVE.as_secs()), "connect": "2s"}))
        .start();
    let certificate = Forge::user(&key, LOGIN).sign(&authority);
    let client = Client::login(bastion.address(), LOGIN, &key, certificate);
    (bastion, client)
}

/// The code with which a forward is refused, or `open`.
fn ask(client: &mut Client, host: &str, port: u16) -> String {
    match client.forward(host, port.into()).unwrap() {
        Ok(channel) => {
            client.write(channel, b"x").unwrap();
            assert_eq!(client.read(channel, 1).unwrap(), b"x");
            "open".to_owned()
        }
        Err(failure) => failure.text.split(':').next().unwrap().to_owned(),
    }
}

#[test]
fn what_a_name_server_says_is_checked_all_of_it() {
    let target = Target::echo();
    let (_bastion, mut client) = start(|name| match name {
        "good.test" => Answer::at(&["127.0.0.1"]),
        "mixed.test" => Answer::at(&["127.0.0.1", "169.254.169.254"]),
        "mixed6.test" => Answer::at(&["127.0.0.1", "fd00:ec2::254"]),
        "metadata.test" => Answer::at(&["169.254.169.254"]),
        "alias.test" => Answer::Alias("metadata.test".to_owned(), vec!["169.254.169.254".parse().unwrap()]),
        "good-alias.test" => Answer::Alias("good.test".to_owned(), vec!["127.0.0.1".parse().unwrap()]),
        "mapped.test" => Answer::at(&["::ffff:169.254.169.254"]),
        "nat64.test" => Answer::at(&["64:ff9b::a9fe:a9fe"]),
        "nowhere.test" => Answer::at(&["0.0.0.0"]),
        "crowd.test" => Answer::Addresses((1..=17).map(|last| [127, 0, 0, last].into()).collect()),
        _ => Answer::Nothing,
    });
    for (host, expected) in [
        ("good.test", "open"),
        ("GOOD.test.", "open"),
        ("good-alias.test", "open"),
        ("mixed.test", "forbidden_address"),
        ("mixed6.test", "forbidden_address"),
        ("metadata.test", "forbidden_address"),
        ("alias.test", "forbidden_address"),
        ("mapped.test", "forbidden_address"),
        ("nat64.test", "forbidden_address"),
        ("nowhere.test", "forbidden_address"),
        ("crowd.test", "too_many_addresses"),
        ("missing.test", "unresolved"),
    ] {
        assert_eq!(ask(&mut client, host, target.port()), expected, "{host}");
    }
}

#[test]
fn a_name_that_moves_gets_nowhere() {
    let target = Target::echo();
    let asked = AtomicUsize::new(0);
    // Each lookup asks twice, for either kind of address. The second lookup finds the name elsewhere.
    let (_bastion, mut client) = start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Answer::at(&["127.0.0.1"]),
        _ => Answer::at(&["169.254.169.254"]),
    });
    assert_eq!(ask(&mut client, "moving.test", target.port()), "open");
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "moving.test", target.port()), "forbidden_address");
    }
}

#[test]
fn a_name_server_that_is_silent_holds_up_nobody_else() {
    let target = Target::echo();
    let (bastion, mut client) = start(|name| match name {
        "good.test" => Answer::at(&["127.0.0.1"]),
        _ => Answer::Silence,
    });
    let start = Instant::now();
    let waiting: Vec<Asked> = (0..200)
        .map(|number| {
            let fields =
                Writer::new().string(format!("slow{number}.test")).u32(80).string("127.0.0.1").u32(40_000);
            client.begin_open("direct-tcpip", &fields.0).unwrap()
        })
        .collect();
    assert_eq!(ask(&mut client, "good.test", target.port()), "open");
    assert!(start.elapsed() < RESOLVE / 2, "{:?}", start.elapsed());
    for channel in waiting {
        let failure = client.opened(channel).unwrap().unwrap_err();
        assert!(failure.text.starts_with("resolve_timeout: "), "{}", failure.text);
    }
    assert!(start.elapsed() < RESOLVE * 2, "all of them at once: {:?}", start.elapsed());
    drop(client);
    // Refusals that are alike are counted together.
    wait::until_true("all on record", Duration::from_secs(10), || {
        let records = bastion.audit().into_iter().filter(|record| record["reason"] == "resolve_timeout");
        records.map(|record| record["count"].as_u64().unwrap_or(1)).sum::<u64>() == 200
    });
}
