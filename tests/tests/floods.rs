//! A peer that is logged in and does not keep to the protocol, or to what is decent: it harms its own
//! connection at most.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    fixture::Fixture,
    process::{busy, resident},
    rogue::{Algorithms, Channel, Client, Gone, number},
    target::Target,
    wait,
    wire::Writer,
};

/// How long a connection may take to be ended, or to show that it is not.
const SOON: Duration = Duration::from_secs(10);

/// Asserts that a client from before is still served, and that nothing of the bastion's was broken.
fn lives(fixture: &mut Fixture, what: &str, steady: &mut (Client, Channel)) {
    let (client, channel) = steady;
    client.write(*channel, b"still here").unwrap();
    assert_eq!(client.read(*channel, 10).unwrap(), b"still here", "{what}");
    assert!(fixture.bastion.process().ended().is_none(), "{what}");
    let metrics = fixture.bastion.page("/metrics").body;
    assert!(metrics.contains("bastion_panics_total 0\n"), "{what}: {metrics}");
}

fn data(channel: u32, length: usize) -> Vec<u8> {
    Writer::message(number::CHANNEL_DATA).u32(channel).string(vec![b'x'; length]).0
}

fn about(kind: u8, channel: u32) -> Vec<u8> {
    Writer::message(kind).u32(channel).0
}

fn adjust(channel: u32, bytes: u32) -> Vec<u8> {
    Writer::message(number::CHANNEL_WINDOW_ADJUST).u32(channel).u32(bytes).0
}

fn ignore() -> Vec<u8> {
    Writer::message(number::IGNORE).string("").0
}

fn open(window: u32, packet: u32, port: u16) -> Vec<u8> {
    let fields = Writer::new().string("127.0.0.1").u32(port.into()).string("127.0.0.1").u32(1);
    Writer::message(number::CHANNEL_OPEN)
        .string("direct-tcpip")
        .u32(77)
        .u32(window)
        .u32(packet)
        .raw(&fields.0)
        .0
}

#[test]
fn what_breaks_the_rules_of_channels_ends_its_own_connection_at_most() {
    let mut fixture = Fixture::new();
    let mut client = fixture.login();
    let channel = fixture.open(&mut client).unwrap();
    let mut steady = (client, channel);
    let port = fixture.echo.port();
    type Deed = Box<dyn Fn(Channel) -> Vec<Vec<u8>>>;
    let deeds: Vec<(&str, Deed)> = vec![
        ("data for a channel that never was", Box::new(|_| vec![data(4711, 10)])),
        (
            "data before the confirmation",
            Box::new(move |open_one| vec![open(1 << 20, 1 << 15, port), data(open_one.theirs + 1, 10)]),
        ),
        (
            "data after EOF",
            Box::new(|channel| vec![about(number::CHANNEL_EOF, channel.theirs), data(channel.theirs, 10)]),
        ),
        (
            "data after CLOSE",
            Box::new(|channel| vec![about(number::CHANNEL_CLOSE, channel.theirs), data(channel.theirs, 10)]),
        ),
        (
            "EOF and CLOSE twice",
            Box::new(|channel| {
                [number::CHANNEL_EOF, number::CHANNEL_EOF, number::CHANNEL_CLOSE, number::CHANNEL_CLOSE]
                    .map(|kind| about(kind, channel.theirs))
                    .to_vec()
            }),
        ),
        (
            "twice the window",
            Box::new(|channel| {
                (0..2 * channel.window / 32_000).map(|_| data(channel.theirs, 32_000)).collect()
            }),
        ),
        ("a window that overflows", Box::new(|channel| vec![adjust(channel.theirs, u32::MAX); 4])),
        ("a window for a channel that never was", Box::new(|_| vec![adjust(4711, u32::MAX)])),
        ("a packet size of nothing", Box::new(move |_| vec![open(1 << 20, 0, port)])),
        ("a window of nothing", Box::new(move |_| vec![open(0, 1 << 15, port)])),
        ("the largest of everything", Box::new(move |_| vec![open(u32::MAX, u32::MAX, port)])),
        (
            "an unasked confirmation",
            Box::new(|_| {
                let message =
                    Writer::message(number::CHANNEL_OPEN_CONFIRMATION).u32(0).u32(0).u32(1).u32(1).0;
                vec![message]
            }),
        ),
        (
            "unasked answers",
            Box::new(|channel| {
                [
                    number::CHANNEL_SUCCESS,
                    number::CHANNEL_FAILURE,
                    number::REQUEST_SUCCESS,
                    number::REQUEST_FAILURE,
                ]
                .map(|kind| about(kind, channel.theirs))
                .to_vec()
            }),
        ),
        (
            "a second login",
            Box::new(|_| {
                let message = Writer::message(number::USERAUTH_REQUEST)
                    .string("root")
                    .string("ssh-connection")
                    .string("none")
                    .0;
                vec![message]
            }),
        ),
        (
            "a host that is not UTF-8",
            Box::new(|_| {
                let fields = Writer::new().string(b"\xff\xfe").u32(80).string("127.0.0.1").u32(1);
                let message = Writer::message(number::CHANNEL_OPEN).string("direct-tcpip").u32(77);
                vec![message.u32(1 << 20).u32(1 << 15).raw(&fields.0).0]
            }),
        ),
        ("messages that are cut short", Box::new(|_| (80_u8..=100).map(|kind| vec![kind]).collect())),
        ("messages that do not exist", Box::new(|_| (200_u8..=255).map(|kind| vec![kind, 0, 0]).collect())),
    ];
    for (what, deed) in deeds {
        let mut client = fixture.login();
        let channel = fixture.open(&mut client).unwrap();
        for message in deed(channel) {
            if client.packets.send(&message).is_err() {
                break;
            }
        }
        // Either the connection was ended for it, or it goes on as if nothing had been.
        client.packets.link().patience(SOON);
        match client.global_request("keepalive@openssh.com", b"") {
            Ok(_) | Err(Gone::Closed | Gone::Reset | Gone::Disconnected { .. }) => {}
            Err(gone) => panic!("{what}: {gone:?}"),
        }
        lives(&mut fixture, what, &mut steady);
    }
}

#[test]
fn a_peer_that_never_reads_costs_little_memory() {
    const LENGTH: u64 = 256 << 20;
    let source = Target::source(3, LENGTH);
    let mut fixture = Fixture::to(&[&source], |setup| setup);
    let mut client = fixture.login();
    let channel = fixture.open(&mut client).unwrap();
    let mut steady = (client, channel);
    let before = resident(fixture.bastion.process().id());
    let mut client = fixture.login();
    let channels: Vec<_> =
        (0..8).map(|_| client.forward("127.0.0.1", source.port().into()).unwrap().unwrap()).collect();
    let link = client.packets.link().stream().try_clone().unwrap();
    // Nothing of what the targets send is read, and all that the bastion takes is sent, whatever the windows.
    // While others are served, both pile up as far as they may.
    let sending = std::thread::spawn(move || {
        let block = vec![5; 32 * 1024];
        let pieces = channels.iter().cycle().take_while(|channel| client.write(**channel, &block).is_ok());
        pieces.count() * block.len()
    });
    for _ in 0..200 {
        lives(&mut fixture, "a peer that never reads", &mut steady);
    }
    let record = fixture
        .bastion
        .audited("the end of the one that never reads", |record| record["event"] == "session_closed");
    assert_eq!(record["reason"], "memory_budget");
    let after = resident(fixture.bastion.process().id());
    let _ = link.shutdown(std::net::Shutdown::Both);
    let sent = sending.join().unwrap() >> 20;
    println!("{sent} MiB sent; resident: {before} KiB before, {after} KiB after");
    assert!(sent > 16, "{sent} MiB");
    assert!(after < before + 64 * 1024, "resident: {before} KiB before, {after} KiB after");
}

#[test]
fn keys_may_be_exchanged_again_and_again() {
    const EXCHANGES: u32 = 1000;
    let mut fixture = Fixture::new();
    let mut client = fixture.login();
    let channel = fixture.open(&mut client).unwrap();
    let mut steady = (client, channel);
    let process = fixture.bastion.process().id();
    let before = (resident(process), busy(process));
    let mut other = fixture.login();
    let began = Instant::now();
    for _ in 0..EXCHANGES {
        other.packets.exchange_keys(&Algorithms::default()).unwrap();
    }
    let took = began.elapsed();
    lives(&mut fixture, "a thousand key exchanges", &mut steady);
    let (after, spent) = (resident(process), busy(process) - before.1);
    println!(
        "{EXCHANGES} key exchanges in {took:.1?}, {:.2?} of the bastion's processor each; resident {} -> {after} KiB",
        spent / EXCHANGES,
        before.0
    );
    assert!(after < before.0 + 16 * 1024, "resident: {} KiB before, {after} KiB after", before.0);
}

#[test]
fn a_key_exchange_that_is_begun_and_never_finished_ends_its_session() {
    let source = Target::source(3, 1 << 30);
    let mut fixture =
        Fixture::to(&[&source], |setup| setup.set("/keepalive", json!({"interval": "1s", "max_missed": 3})));
    let mut client = fixture.login();
    let channel = fixture.open(&mut client).unwrap();
    let mut steady = (client, channel);

    // The bastion takes no more of what would have to wait for its end: it cuts the client that sends it.
    let before = resident(fixture.bastion.process().id());
    let mut rude = fixture.login();
    let channel = fixture.open(&mut rude).unwrap();
    rude.packets.send(&Algorithms::default().kexinit()).unwrap();
    for _ in 0..1000 {
        if rude.packets.send(&data(channel.theirs, 32_000)).is_err() {
            break;
        }
    }
    assert_ne!(rude.packets.link().receive_to_end().1, Gone::Silent);
    let after = resident(fixture.bastion.process().id());
    assert!(after < before + 64 * 1024, "resident: {before} KiB before, {after} KiB after");

    // The first falls silent. The second goes on saying what needs no answer, as one does without a key
    // exchange that has nothing to do and is well.
    let (mut silent, mut chatty, mut well) = (fixture.login(), fixture.login(), fixture.login());
    // Nor does a channel that is not read stop a session.
    well.packets.send(&open(1 << 10, 1 << 15, source.port())).unwrap();
    for client in [&mut silent, &mut chatty] {
        client.packets.send(&Algorithms::default().kexinit()).unwrap();
    }
    let began = Instant::now();
    let gone = wait::until("the chatty one to be cut", Duration::from_secs(20), || {
        well.packets.send(&ignore()).unwrap();
        lives(&mut fixture, "an unfinished key exchange", &mut steady);
        chatty.packets.send(&ignore()).err().map(|_| began.elapsed())
    });
    println!(
        "a key exchange that is never finished, with chatter: cut after {gone:.1?} at three intervals of 1 s"
    );
    assert_ne!(silent.packets.link().receive_to_end().1, Gone::Silent);
    let _ = fixture.bastion.audited("the reason", |record| {
        record["event"] == "session_closed" && record["reason"] == "client_stalled"
    });
    while began.elapsed() < 2 * gone {
        well.packets.send(&ignore()).unwrap();
        lives(&mut fixture, "a client with nothing to do", &mut steady);
    }
    assert!(well.global_request("keepalive@openssh.com", b"").is_ok());
}

#[test]
fn what_is_refused_again_and_again_is_counted_and_none_is_lost() {
    const SAME: usize = 1500;
    const DIFFERENT: usize = 300;
    const REQUESTS: usize = 400;
    let fixture = Fixture::new();
    let mut client = fixture.login();
    let nowhere = |host: &str| Writer::new().string(host).u32(5432).string("127.0.0.1").u32(1).0;
    let began = Instant::now();
    let mut asked = Vec::new();
    for _ in 0..SAME {
        asked.push(client.begin_open("direct-tcpip", &nowhere("payroll.example.com")).unwrap());
    }
    for number in 0..DIFFERENT {
        asked.push(
            client.begin_open("direct-tcpip", &nowhere(&format!("host-{number}.example.com"))).unwrap(),
        );
    }
    for one in asked {
        assert!(client.opened(one).unwrap().is_err());
    }
    for _ in 0..REQUESTS {
        assert!(!client.global_request("tcpip-forward", &Writer::new().string("").u32(0).0).unwrap());
    }
    let took = began.elapsed();
    drop(client);
    let _ = fixture.bastion.audited("the end", |record| record["event"] == "session_closed");
    let records = fixture.bastion.audit();
    let of = |event: &str| records.iter().filter(|record| record["event"] == event).collect::<Vec<_>>();
    let sum =
        |records: &[&Value]| records.iter().map(|record| record["count"].as_u64().unwrap_or(1)).sum::<u64>();
    let (forwards, requests) = (of("forward_refused"), of("request_refused"));
    println!(
        "{} forwards and {REQUESTS} requests refused within {took:.1?}: {} and {} records",
        SAME + DIFFERENT,
        forwards.len(),
        requests.len()
    );
    assert_eq!(sum(&forwards), (SAME + DIFFERENT) as u64);
    assert_eq!(sum(&requests), REQUESTS as u64);
    let same = forwards.iter().filter(|record| record["destination_host"] == "payroll.example.com");
    assert_eq!(sum(&same.copied().collect::<Vec<_>>()), SAME as u64);
    // Some thirty of each interval in full, and as many counts; and what was counted without its destination.
    let intervals = 2 + usize::try_from(took.as_secs() / 10).unwrap();
    assert!(forwards.len() + requests.len() <= intervals * 70, "{forwards:?}");
    assert!(
        forwards.iter().any(|record| record["destination_host"].is_null() && record["reason"] == "no_rule")
    );
    let metrics = fixture.bastion.page("/metrics").body;
    let refused =
        format!("bastion_forward_total{{result=\"refused\",reason=\"no_rule\"}} {}\n", SAME + DIFFERENT);
    assert!(metrics.contains(&refused), "{metrics}");
}
