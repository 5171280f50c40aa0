//! Names of destinations: each answer of a name server is checked, all of it, each time, and holds up one
//! session alone.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tests::{
    bastion::{self, Bastion, LOGIN},
    dns::{Answer, NameServer},
    forge::Forge,
    key::Key,
    private::{inside, ip},
    rogue::{Asked, Client},
    target::{BlackHole, Target},
    wait,
    wire::Writer,
};

/// How long a name server may take.
const RESOLVE: Duration = Duration::from_secs(10);

/// A bastion that asks our name server, whose one rule lets every client go everywhere, and a client that is
/// logged in.
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

fn loopback(count: u32) -> Vec<IpAddr> {
    (1..=count).map(|number| Ipv4Addr::from_bits(0x7f00_0000 + number).into()).collect()
}

fn endless_v6(count: u16) -> Vec<IpAddr> {
    (1..=count).map(|number| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into()).collect()
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
        "headless.test" => Answer::Addresses(loopback(1000)),
        "spoilt.test" => Answer::Addresses([loopback(999), vec![[169, 254, 169, 254].into()]].concat()),
        // As many as one answer has room for, and some of the other kind beside them.
        "endless.test" => Answer::Addresses([loopback(4000), endless_v6(97)].concat()),
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
        ("crowd.test", "open"),
        ("headless.test", "open"),
        ("spoilt.test", "forbidden_address"),
        ("endless.test", "too_many_addresses"),
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
fn a_name_server_that_is_silent_holds_up_no_other_client() {
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
    assert!(start.elapsed() < RESOLVE * 2, "all of them simultaneously: {:?}", start.elapsed());
    drop(client);
    // Refusals that are alike are counted together.
    wait::until_true("all on record", Duration::from_secs(10), || {
        let records = bastion.audit().into_iter().filter(|record| record["reason"] == "resolve_timeout");
        records.map(|record| record["count"].as_u64().unwrap_or(1)).sum::<u64>() == 200
    });
}

#[test]
fn an_address_that_does_not_answer_costs_a_moment() {
    // Twice the patience of the whole dial.
    const CONNECT: Duration = Duration::from_secs(30);
    let hole = BlackHole::new();
    let port = hole.address().port();
    let target = Target::echo_at(([127, 0, 0, 2], port).into());
    let names = NameServer::start(|name| match name {
        "twofold.test" => Answer::at(&["127.0.0.1", "127.0.0.2"]),
        "half-refused.test" => Answer::at(&["127.0.0.3", "127.0.0.2"]),
        _ => Answer::Nothing,
    });
    let (authority, key) = (Key::ed25519(), Key::ed25519());
    let bastion = bastion::Setup::new()
        .trust(&authority)
        .rule(LOGIN, &["*:1-65535"])
        .set("/dns", json!({"servers": [names.address().to_string()]}))
        .set("/timeouts", json!({"connect": format!("{}s", CONNECT.as_secs())}))
        .start();
    let certificate = Forge::user(&key, LOGIN).sign(&authority);
    let mut client = Client::login(bastion.address(), LOGIN, &key, certificate);
    for host in ["half-refused.test", "twofold.test"] {
        let start = Instant::now();
        assert_eq!(ask(&mut client, host, port), "open", "{host}");
        println!("{host}: open after {:?}", start.elapsed());
        assert!(start.elapsed() < CONNECT / 3, "{host}: {:?}", start.elapsed());
    }
    assert_eq!(target.accepted(), 2);
}

#[test]
fn a_dial_that_its_session_does_not_outlive_says_so() {
    let hole = BlackHole::new();
    let (bastion, mut client) = start(|_| Answer::Nothing);
    let fields =
        Writer::new().string("127.0.0.1").u32(hole.address().port().into()).string("127.0.0.1").u32(40_000);
    let _unanswered = client.begin_open("direct-tcpip", &fields.0).unwrap();
    // The session has answered a later request, so it has begun this one.
    assert_eq!(ask(&mut client, "missing.test", 80), "unresolved");
    drop(client);
    let refused = |record: &serde_json::Value| {
        record["event"] == "forward_refused" && record["destination_host"] == "127.0.0.1"
    };
    assert_eq!(bastion.audited("that it was given up", refused)["reason"], "session_ended");
}

#[test]
fn what_the_machine_gets_while_it_serves_is_refused() {
    inside("destinations::what_the_machine_gets_while_it_serves_is_refused", || {
        let (bastion, mut client) = start(|_| Answer::Nothing);
        let everywhere = |address: &str| Target::echo_at(address.parse().unwrap());
        let (target, target6) = (everywhere("0.0.0.0:0"), everywhere("[::]:0"));
        let (port, port6) = (target.address().port(), target6.address().port());
        assert_eq!(ask(&mut client, "10.123.45.67", port), "unreachable", "no interface has it yet");
        ip(&["address", "add", "10.123.45.67/32", "dev", "lo"]);
        assert_eq!(ask(&mut client, "10.123.45.67", port), "forbidden_address");
        assert_eq!(ask(&mut client, "::ffff:10.123.45.67", port), "forbidden_address");
        ip(&["-6", "address", "add", "2001:db8::67/128", "dev", "lo", "nodad"]);
        assert_eq!(ask(&mut client, "2001:db8::67", port6), "forbidden_address");
        // It can be given away again.
        ip(&["address", "del", "10.123.45.67/32", "dev", "lo"]);
        assert_eq!(ask(&mut client, "10.123.45.67", port), "unreachable");
        assert_eq!((target.accepted(), target6.accepted()), (0, 0), "nothing arrived");

        // Networks that are the machine's by a route, and on none of its interfaces: only the kernel knows.
        ip(&["route", "add", "local", "10.99.0.0/16", "dev", "lo"]);
        assert_eq!(ask(&mut client, "10.99.1.2", port), "forbidden_address");
        let refused = |record: &serde_json::Value| record["destination_host"] == "10.99.1.2";
        assert_eq!(bastion.audited("the refusal", refused)["event"], "forward_refused");
        assert_eq!(ask(&mut client, "127.0.0.1", port), "open", "loopback is open to the tests");
    });
}

#[test]
fn an_api_server_that_is_told_by_name_is_on_the_floor() {
    let known = Arc::new(AtomicBool::new(false));
    let target = Target::echo_on([127, 0, 0, 1].into());
    let names = NameServer::start({
        let known = Arc::clone(&known);
        move |name| match name {
            "api.test" if known.load(Ordering::SeqCst) => Answer::at(&["127.0.0.1"]),
            _ => Answer::Nothing,
        }
    });
    let (authority, key) = (Key::ed25519(), Key::ed25519());
    let bastion = bastion::Setup::new()
        .trust(&authority)
        .rule(LOGIN, &["*:1-65535"])
        .set("/dns", json!({"servers": [names.address().to_string()]}))
        .env("KUBERNETES_SERVICE_HOST", "api.test")
        .start();
    let certificate = Forge::user(&key, LOGIN).sign(&authority);
    let mut client = Client::login(bastion.address(), LOGIN, &key, certificate);
    assert!(bastion.log().contains("KUBERNETES_SERVICE_HOST is a name"), "{}", bastion.log());
    assert_eq!(ask(&mut client, "127.0.0.1", target.port()), "floor_unknown");
    known.store(true, Ordering::SeqCst);
    wait::until_true("that its addresses are known", Duration::from_secs(60), || {
        ask(&mut client, "127.0.0.1", target.port()) == "forbidden_address"
    });
    assert_eq!(target.accepted(), 0, "nothing arrived");
    let elsewhere = Target::echo_at(([127, 0, 0, 2], target.port()).into());
    assert_eq!(ask(&mut client, "127.0.0.2", target.port()), "open");
    assert_eq!(elsewhere.accepted(), 1);
}
