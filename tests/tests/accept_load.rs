//! The front door under load: who floods, who comes through a proxy, who fails too often, and who wants too
//! much.
//!
//! The figures are printed: `cargo test -p tests --test peers accept_load -- --nocapture --test-threads 1`.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tests::{
    bastion::{LOGIN, Setup},
    fixture::Fixture,
    forge::Forge,
    key::{Key, Kind},
    process::{Program, busy, installed, open_files, resident},
    rogue::{Attempt, Channel, Client, Gone, Link, Verdict},
    ssh::Person,
    target::Target,
    wait,
    wire::Writer,
};

const FLOODER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const ASKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));
const BYSTANDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const SOON: Duration = Duration::from_secs(10);

#[test]
fn one_that_floods_does_not_keep_others_out() {
    // As it comes, but for penalties: with those the flood is over after some connections.
    let mut fixture = fixture(|setup| setup.set("/limits/login_deadline", json!("5s")));
    let connect = |server| Link::connect_from(FLOODER, server).ok();
    let key_exchange = move |server| Client::over(connect(server)?).ok();
    let stranger = Key::ed25519();
    let bad = {
        let certificate = Forge::user(&fixture.key, LOGIN).sign(&stranger);
        Attempt::certificate(LOGIN, &fixture.key, certificate)
    };
    let good = fixture.attempt();
    flood("silence", &mut fixture, Box::new(connect));
    flood(
        "a banner",
        &mut fixture,
        Box::new(move |server| {
            let mut link = connect(server)?;
            link.identify("SSH-2.0-flood").ok()?;
            Some(link)
        }),
    );
    flood(
        "a key exchange",
        &mut fixture,
        Box::new(move |server| key_exchange(server).map(|client| client.packets.into_link())),
    );
    flood(
        "bad certificates",
        &mut fixture,
        Box::new(move |server| {
            let _ = key_exchange(server)?.attempt(&bad);
            None
        }),
    );
    flood(
        "good certificates",
        &mut fixture,
        Box::new(move |server| {
            let _ = key_exchange(server)?.attempt(&good);
            None
        }),
    );
}

/// As many as may be there, from two addresses that stay within their own bounds.
#[test]
fn two_that_hold_all_places_make_room_for_a_third() {
    let fixture = fixture(|setup| setup.set("/limits/login_deadline", json!("60s")));
    let server = fixture.bastion.address();
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));
    let mut held: Vec<_> = (0..100)
        .flat_map(|_| [FLOODER, other])
        .map(|from| {
            let mut link = Link::connect_from(from, server).unwrap();
            // Its turn has come when it is answered.
            link.receive(b"SSH-2.0-".len()).unwrap();
            link
        })
        .collect();
    let refused = match Client::over(Link::connect_from(FLOODER, server).unwrap()) {
        Err(Gone::Disconnected { text, .. }) => text,
        _ => panic!("there was room"),
    };
    assert!(refused.starts_with("startups_"), "{refused}");
    let mut took: Vec<_> = (0..50)
        .map(|_| {
            let start = Instant::now();
            drop(must_login(&fixture, BYSTANDER));
            start.elapsed()
        })
        .collect();
    took.sort();
    println!(
        "200 places held by two: a third logs in, p50 {:.0?}, longest {:.0?}; displaced {}",
        took[took.len() / 2],
        took[took.len() - 1],
        counted(&fixture, "displaced")
    );
    assert!(took[took.len() - 1] < Duration::from_millis(1500), "{took:?}");
    // A place that was given up stays free for the next, if that does not come before it is.
    assert!((1..5).contains(&counted(&fixture, "displaced")), "{}", counted(&fixture, "displaced"));
    assert_ne!(held.remove(0).receive_to_end().1, Gone::Silent, "the oldest of one of them");
    let metrics = fixture.bastion.page("/metrics").body;
    assert!(metrics.contains("bastion_panics_total 0\n"), "{metrics}");
}

/// What a proxy says about a client (PROXY protocol, version 2): the nth of as many, each in an IPv6 network
/// of its own.
fn told(nth: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    header.extend([0x20, 0x01, 0x0d, 0xb8]);
    header.extend(nth.to_be_bytes());
    header.extend([0; 9]);
    header.extend([1; 17]);
    header.extend([0x9c, 0x40, 0, 22]);
    header
}

/// A connection of that client.
fn connect_as(server: SocketAddr, nth: u16) -> Result<Link, Gone> {
    let mut link = Link::connect_from(FLOODER, server)?;
    link.send(&told(nth))?;
    Ok(link)
}

/// How far those come who then only stand there.
const STANDS: [(&str, u16); 4] =
    [("silent", 1000), ("an identification line", 1000), ("a key exchange", 300), ("a good offer", 300)];

fn stand(server: SocketAddr, nth: u16, how_far: usize, offer: &Attempt) -> Result<Link, Gone> {
    let mut link = connect_as(server, nth)?;
    if how_far == 0 {
        return Ok(link);
    }
    if how_far == 1 {
        link.identify("SSH-2.0-stands")?;
        return Ok(link);
    }
    let mut client = Client::over(link)?;
    if how_far > 2 {
        let _ = client.query(offer)?;
    }
    Ok(client.packets.into_link())
}

/// Each has one connection, and all that a source may do is to have one: there are more of them than places.
#[test]
fn any_number_of_idle_sources_keep_no_client_out() {
    let _ = raise_open_files();
    for (how_far, (name, count)) in STANDS.into_iter().enumerate() {
        let fixture =
            fixture(|setup| behind_proxy(setup, "required").set("/limits/max_sessions", json!(3000)));
        let (server, offer) = (fixture.bastion.address(), fixture.attempt());
        let stands = std::thread::scope(|scope| {
            let parts: Vec<_> = (0..4)
                .map(|part| {
                    let offer = &offer;
                    scope.spawn(move || {
                        let numbers = (0..count).filter(|nth| nth % 4 == part);
                        numbers.filter_map(|nth| stand(server, nth, how_far, offer).ok()).collect::<Vec<_>>()
                    })
                })
                .collect();
            parts.into_iter().flat_map(|part| part.join().unwrap()).collect::<Vec<_>>()
        });
        let mut took: Vec<_> = (0..35)
            .map(|nth| {
                let start = Instant::now();
                // It may be turned away while all the others have just come; it is no worse than any of them.
                wait::until_true("a login", SOON, || {
                    let login = || Client::over(connect_as(server, 40_000 + nth)?);
                    login().is_ok_and(|mut client| client.attempt(&offer).accepted)
                });
                start.elapsed()
            })
            .collect();
        took.sort();
        println!(
            "{count} sources, {name}: {} stood there, 35 of 35 logins, p50 {:.0?}, longest {:.0?}; displaced {}",
            stands.len(),
            took[17],
            took[34],
            counted(&fixture, "displaced"),
        );
        assert!(took[17] < Duration::from_millis(1500), "{name}: {took:?}");
        assert!(counted(&fixture, "displaced") > 0, "{name}: all places were taken");
    }
}

/// How long each echo of a client that is logged in takes.
fn echoes(client: &mut Client, channel: Channel, during: Duration) -> Vec<Duration> {
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < during {
        let start = Instant::now();
        client.write(channel, b"x").unwrap();
        assert_eq!(client.read(channel, 1).unwrap(), b"x");
        took.push(start.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    took.sort();
    took
}

/// A hundred connections whose every packet is another question about a certificate of an authority of their
/// own, of the kind that takes longest to verify.
#[test]
fn sources_that_only_ask_hold_up_no_other() {
    const ASKING: usize = 100;
    let target = Target::echo();
    let mut fixture = fixture(|setup| setup.rule(LOGIN, &[&target.address().to_string()]));
    let (server, process) = (fixture.bastion.address(), fixture.bastion.process().id());
    let theirs = Key::generate(Kind::Ecdsa(521));
    let attempt = Attempt::certificate(LOGIN, &fixture.key, Forge::user(&fixture.key, LOGIN).sign(&theirs));
    let mut bystander = must_login(&fixture, BYSTANDER);
    let channel = bystander.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
    let before = echoes(&mut bystander, channel, Duration::from_secs(2));
    let (stop, asked, connected) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let (took, worked) = std::thread::scope(|scope| {
        for _ in 0..ASKING {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let client = Link::connect_from(FLOODER, server).and_then(Client::over);
                    let Ok(mut client) = client else {
                        std::thread::sleep(Duration::from_millis(100));
                        continue;
                    };
                    connected.fetch_add(1, Ordering::Relaxed);
                    let question = attempt.query();
                    // All together, and the answers are of no interest.
                    let all = (0..300).map(|_| question.as_slice());
                    if client.packets.send_all(all).is_ok() {
                        asked.fetch_add(300, Ordering::Relaxed);
                    }
                    client.packets.link().patience(Duration::from_secs(2));
                    let _ = client.packets.link().receive_to_end();
                }
            });
        }
        wait::until_true("most to be there", SOON, || connected.load(Ordering::Relaxed) >= ASKING * 3 / 4);
        let (began, busy_before) = (Instant::now(), busy(process));
        let took = echoes(&mut bystander, channel, Duration::from_secs(5));
        let worked = (busy(process) - busy_before).as_secs_f64() / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        (took, worked)
    });
    let at = |took: &[Duration], part: usize| took[(took.len() - 1) * part / 100];
    for (name, took) in [("alone", &before), ("beside 100 that only ask", &took)] {
        println!(
            "a bystander's round trip {name}: p50 {:.1?}, p95 {:.1?}, longest {:.1?} of {}",
            at(took, 50),
            at(took, 95),
            at(took, 100),
            took.len(),
        );
    }
    println!(
        "{} connections asked {} times; the bastion used {:.0} % of a processor",
        connected.load(Ordering::Relaxed),
        asked.load(Ordering::Relaxed),
        100.0 * worked
    );
    // The time that a busy machine takes by itself is not the bastion's.
    let machine = at(&before, 95) * 4;
    assert!(at(&took, 95) < Duration::from_millis(100) + machine, "{took:?}");
    assert!(at(&took, 100) < Duration::from_millis(500) + machine, "{took:?}");
}

/// A connection has few questions, and a source that does nothing but ask is soon not listened to.
#[test]
fn who_only_asks_is_sent_away_and_then_refused() {
    let fixture = fixture(|setup| setup.set("/limits/penalties", json!({})));
    let server = fixture.bastion.address();
    let stranger = Key::ed25519();
    let attempt = Attempt::certificate(LOGIN, &fixture.key, Forge::user(&fixture.key, LOGIN).sign(&stranger));
    let mut connections = 0;
    let refused = loop {
        let mut client = match Link::connect_from(FLOODER, server).and_then(Client::over) {
            Ok(client) => client,
            Err(end) => break end,
        };
        connections += 1;
        assert!(connections < 40, "still listened to");
        let asked = (0..100).take_while(|_| client.query(&attempt).is_ok()).count();
        let end = client.farewell(SOON);
        assert!((20..=21).contains(&asked), "{asked} questions");
        // The last answer may carry the end with it.
        assert_ne!(end, None, "still there");
    };
    println!("refused after {connections} connections: {refused:?}");
    let is_penalized =
        |end: &Gone| matches!(end, Gone::Disconnected { text, .. } if text.starts_with("source_penalized: "));
    assert!(is_penalized(&refused), "{refused:?}");
    // One that leaves before it has asked too much is no better.
    let refused = (0..40).find_map(|_| {
        let mut client = match Link::connect_from(ASKER, server).and_then(Client::over) {
            Ok(client) => client,
            Err(end) => return Some(end),
        };
        (0..4).for_each(|_| assert!(client.query(&attempt).is_ok()));
        None
    });
    assert!(refused.as_ref().is_some_and(is_penalized), "{refused:?}");
    // From elsewhere, with the right certificate, nothing has changed.
    drop(must_login(&fixture, BYSTANDER));
}

/// Opens as many sockets as this process may have, and returns how many that is.
fn raise_open_files() -> usize {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    usize::try_from(most).unwrap_or(usize::MAX)
}

const LOGIN_DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn idle_sockets_are_gone_with_the_deadline() {
    let count = (raise_open_files().saturating_sub(4000)).min(10_000);
    assert!(count >= 4000, "this process may open only {count} more files");
    let mut fixture = fixture(|setup| {
        setup
            .set("/limits/login_deadline", json!(format!("{}s", LOGIN_DEADLINE.as_secs())))
            .set("/limits/max_sessions", json!(20_000))
            .set("/limits/max_startups", json!({"total": 20_000, "per_source": 20_000, "burst": 20_000}))
    });
    let process = fixture.bastion.process().id();
    drop(must_login(&fixture, BYSTANDER));
    let (files, memory) = (open_files(process), resident(process));
    let waves = [1, 2, 3].map(|wave| idle_wave(wave, &mut fixture, count, files));
    // Once is enough: this machine has other things to do, and reads all of them too.
    let gone = waves.each_ref().map(|wave| wave.gone);
    assert!(gone.iter().min() < Some(&Duration::from_secs(1)), "{gone:?} after the deadline");
    let left = waves.map(|wave| wave.left);
    println!("resident: {memory} KiB before, {left:?} KiB after each wave");
    waits_for(&fixture, "login_deadline", 3 * (count / 8 * 8) as u64);
    drop(must_login(&fixture, BYSTANDER));
    // The allocator keeps what it has for the next wave, and uses it for that: were anything lost, each wave
    // would add as much as the first.
    assert!(left[2] < left[0] * 3 / 2, "{memory} KiB before, {left:?} KiB after each wave");
}

/// What is left of sockets that said nothing.
struct Wave {
    /// After the deadline of the last one.
    gone: Duration,
    /// What is resident then, in KiB.
    left: u64,
}

/// Connects `count` sockets that say nothing, and waits until they are cut.
fn idle_wave(wave: usize, fixture: &mut Fixture, count: usize, files: usize) -> Wave {
    let (address, process) = (fixture.bastion.address(), fixture.bastion.process().id());
    let began = Instant::now();
    // From eight sources simultaneously: on a busy machine one after the other would take longer than the
    // deadline.
    let mut idle: Vec<_> = std::thread::scope(|scope| {
        let sources: Vec<_> = (1..=8)
            .map(|number| {
                let from = Ipv4Addr::new(127, 0, 1, number).into();
                let connect = move |_| Link::connect_from(from, address).unwrap();
                scope.spawn(move || (0..count / 8).map(connect).collect::<Vec<_>>())
            })
            .collect();
        sources.into_iter().flat_map(|source| source.join().unwrap()).collect()
    });
    let count = idle.len();
    let connected = began.elapsed();
    wait::until_true("all to be there", SOON, || open_files(process) + 4 >= files + count);
    for link in &mut idle {
        assert_ne!(link.receive_to_end().1, Gone::Silent);
    }
    let gone = began.elapsed().saturating_sub(connected + LOGIN_DEADLINE);
    wait::until_true("their files to be closed", Duration::from_secs(2), || open_files(process) <= files + 2);
    println!(
        "wave {wave}: {count} idle sockets: connected in {connected:.1?}, gone {gone:.2?} after the last one's deadline; \
         files {files} -> {}",
        open_files(process),
    );
    Wave { gone, left: resident(process) }
}

#[test]
fn it_survives_having_no_more_files() {
    let mut fixture = fixture(|setup| setup);
    let process = fixture.bastion.process().id();
    drop(must_login(&fixture, BYSTANDER));
    let limit = |files: usize| {
        let word = format!("--nofile={files}:");
        let _ = Program::new(installed("prlimit")).args(["--pid", &process.to_string(), &word]).succeed();
    };
    limit(open_files(process) + 10);
    let mut held: Vec<_> =
        (0..30).map(|_| Link::connect_from(FLOODER, fixture.bastion.address()).unwrap()).collect();
    wait::until_true("it to notice", SOON, || fixture.bastion.log().contains("cannot accept connections"));
    // A client that does not get in is turned away rather than left waiting.
    let mut late = Link::connect_from(BYSTANDER, fixture.bastion.address()).unwrap();
    late.patience(SOON);
    assert_ne!(late.receive_to_end().1, Gone::Silent);
    held.clear();
    let freed = Instant::now();
    let took = wait::until("a login", SOON, || match login_from(&fixture, BYSTANDER) {
        Ok((_, verdict)) if verdict.accepted => Some(freed.elapsed()),
        _ => None,
    });
    println!("out of files: back {took:.0?} after some were closed");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(counted(&fixture, "open_files") > 0);
}

/// A proxy that tells every connection's address by the same header.
fn proxy(server: SocketAddr, from: IpAddr, header: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut link) = (client.unwrap(), Link::connect_from(from, server).unwrap());
            link.send(header).unwrap();
            let mut upstream = link.stream().try_clone().unwrap();
            let (mut from_client, mut to_client) =
                (client.try_clone().unwrap(), link.stream().try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut upstream);
                let _ = upstream.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut to_client, &mut client);
                let _ = client.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 22\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x27\0\0\0\0\0\0\0\0\0\0\xff\xff\xcb\0\x71\x07\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x9c\x40\0\x16\x04\0\0";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn behind_proxy(setup: Setup, mode: &str) -> Setup {
    setup.set("/proxy_protocol", json!({"mode": mode, "trusted": ["127.0.0.2/32"]}))
}

#[test]
fn a_trusted_proxy_tells_where_a_client_comes_from() {
    let target = Target::echo();
    let fixture =
        fixture(|setup| behind_proxy(setup, "required").rule(LOGIN, &[&target.address().to_string()]));
    let there = Forge::user(&fixture.key, LOGIN)
        .critical("source-address", "203.0.113.0/24")
        .sign(&fixture.authority);
    let here =
        Forge::user(&fixture.key, LOGIN).critical("source-address", "127.0.0.0/8").sign(&fixture.authority);
    for (count, header) in [V1, V2].into_iter().enumerate() {
        let entry = proxy(fixture.bastion.address(), FLOODER, header);
        let ssh = |certificate: &[u8]| {
            let person =
                Person::new(LOGIN, &fixture.key, certificate).knows(entry, &fixture.bastion.host_key());
            person.ssh(entry, &["-W", &target.address().to_string()]).input("through").output()
        };
        let output = ssh(&there);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "through", "{output:?}");
        assert!(!ssh(&here).status.success(), "the proxy's own address is not the client's");
        let accepted = wait::until("the logins on record", SOON, || {
            let mut accepted = fixture.bastion.audit();
            accepted.retain(|record| record["event"] == "login_accepted");
            (accepted.len() > count).then_some(accepted)
        });
        assert!(accepted.iter().all(|record| record["source_address"] == "203.0.113.7"), "{accepted:?}");
        assert!(accepted.iter().all(|record| record["source_port"] == 40_000), "{accepted:?}");
    }
}

#[test]
fn a_proxys_own_connections_are_its_own() {
    let fixture = fixture(|setup| behind_proxy(setup, "required"));
    let server = fixture.bastion.address();
    for check in [&b""[..], LOCAL, b"PROXY UNKNOWN\r\n"] {
        for _ in 0..300 {
            let mut link = Link::connect_from(FLOODER, server).unwrap();
            link.send(check).unwrap();
        }
    }
    // The checks are held against no source, and no client is told of them.
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let mut link = Link::connect_from(FLOODER, server).unwrap();
        link.send(header).unwrap();
        assert!(Client::over(link).unwrap().attempt(&fixture.attempt()).accepted);
    }
    let accepted = fixture.bastion.audited("the login", |record| record["event"] == "login_accepted");
    assert_eq!(accepted["source_address"], "127.0.0.2");
    let log = fixture.bastion.log();
    assert!(!log.contains("refus") && !log.contains("connection closed"), "{log}");
    assert!(!fixture.bastion.page("/metrics").body.contains("bastion_connections_refused_total{"));
}

#[test]
fn what_is_no_header_gets_nowhere() {
    let fixture = fixture(|setup| behind_proxy(setup, "required"));
    let server = fixture.bastion.address();
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    let huge = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    let unix = [b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8".to_vec(), vec![0; 216]].concat();
    for (from, header, reason) in [
        (FLOODER, b"SSH-2.0-x\r\n".to_vec(), "proxy_header_absent"),
        (FLOODER, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "proxy_header_absent"),
        (FLOODER, long, "proxy_header_too_long"),
        (FLOODER, huge, "proxy_header_too_long"),
        (FLOODER, b"PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n".to_vec(), "proxy_header_malformed"),
        (FLOODER, b"PROXY UDP4 1.2.3.4 5.6.7.8 9 10\r\n".to_vec(), "proxy_header_family"),
        (FLOODER, unix, "proxy_header_family"),
        (FLOODER, b"PROXY TC".to_vec(), "proxy_header_late"),
        (BYSTANDER, V1.to_vec(), "proxy_required"),
        (BYSTANDER, b"SSH-2.0-x\r\n".to_vec(), "proxy_required"),
    ] {
        let mut link = Link::connect_from(from, server).unwrap();
        // It may hang up before it has all of it.
        let _ = link.send(&header);
        let (said, end) = link.receive_to_end();
        assert_ne!(end, Gone::Silent, "{reason}");
        assert!(String::from_utf8_lossy(&said).contains(reason), "{reason}: {}", said.escape_ascii());
        waits_for(&fixture, reason, 1);
    }
    assert!(fixture.bastion.audit().is_empty());
}

#[test]
fn no_other_peer_is_believed() {
    for mode in ["optional", "off"] {
        let fixture = fixture(|setup| behind_proxy(setup, mode));
        let server = fixture.bastion.address();
        for (count, header) in [V1, V2].into_iter().enumerate() {
            let mut link = Link::connect_from(BYSTANDER, server).unwrap();
            link.send(header).unwrap();
            assert_ne!(link.receive_to_end().1, Gone::Silent);
            waits_for(&fixture, "proxy_untrusted", count as u64 + 1);
        }
        // Without a header each client has its own address.
        drop(must_login(&fixture, BYSTANDER));
        drop(must_login(&fixture, FLOODER));
        for source in [BYSTANDER, FLOODER] {
            let source = source.to_string();
            let _ = fixture.bastion.audited("the login", |record| {
                record["event"] == "login_accepted" && record["source_address"] == source
            });
        }
    }
}

/// A proxy may also be silent for a while, when the client behind it waits for the server's first word.
#[test]
fn where_a_header_is_optional_silence_is_no_header() {
    let fixture = fixture(|setup| behind_proxy(setup, "optional"));
    let mut stream =
        Link::connect_from(FLOODER, fixture.bastion.address()).unwrap().stream().try_clone().unwrap();
    let mut word = [0; 8];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"SSH-2.0-");
    stream.write_all(b"SSH-2.0-x\r\n").unwrap();
}

#[test]
fn who_fails_too_often_is_refused_and_told() {
    let penalties = json!({"violation": "20s", "threshold": "40s"});
    let fixture = fixture(|setup| setup.set("/limits/penalties", penalties));
    let server = fixture.bastion.address();
    let offend = |from| {
        let mut link = Link::connect_from(from, server).unwrap();
        link.send(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let _ = link.receive_to_end();
    };
    for _ in 0..3 {
        offend(FLOODER);
    }
    waits_for(&fixture, "not_ssh", 2);
    let person =
        Person::new(LOGIN, &fixture.key, &fixture.certificate()).knows(server, &fixture.bastion.host_key());
    let output = person.ssh(server, &["-b", &FLOODER.to_string(), "-N"]).output();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("an ordinary ssh says: {}", said.trim());
    assert!(
        said.contains("source_penalized: too many logins from your address failed; try again in"),
        "{said}"
    );

    // Where one client logged in, others may fail as they like: many people of an office share an address.
    drop(must_login(&fixture, BYSTANDER));
    for _ in 0..5 {
        offend(BYSTANDER);
    }
    waits_for(&fixture, "not_ssh", 7);
    drop(must_login(&fixture, BYSTANDER));
}

#[test]
fn one_identity_has_its_share() {
    let target = Target::echo();
    let share = json!({"connections": 2, "opens": 5, "opens_per_second": 1});
    let fixture = fixture(|setup| {
        setup.set("/limits/per_identity", share).rule(LOGIN, &[&target.address().to_string()])
    });
    let mut first = must_login(&fixture, BYSTANDER);
    let second = must_login(&fixture, FLOODER);
    let (mut third, verdict) = login_from(&fixture, BYSTANDER).unwrap();
    assert!(!verdict.accepted);
    let said = verdict.gone.or_else(|| third.farewell(SOON));
    assert!(
        matches!(&said, Some(Gone::Disconnected { text, .. }) if text.starts_with("too_many_connections: ")),
        "{said:?}"
    );
    let refused = fixture.bastion.audited("the refusal", |record| record["event"] == "login_refused");
    assert_eq!(refused["reason"], "too_many_connections");
    // Another person's key has a share of its own.
    let other = Key::ed25519();
    let _other = Client::login(
        fixture.bastion.address(),
        LOGIN,
        &other,
        Forge::user(&other, LOGIN).sign(&fixture.authority),
    );
    drop(second);
    wait::until_true("a place", SOON, || {
        login_from(&fixture, BYSTANDER).is_ok_and(|(_, verdict)| verdict.accepted)
    });

    let port = u32::from(target.port());
    let fields = Writer::new().string("127.0.0.1").u32(port).string("127.0.0.1").u32(40_000).0;
    let asked: Vec<_> = (0..20).map(|_| first.begin_open("direct-tcpip", &fields).unwrap()).collect();
    let answers: Vec<_> = asked.into_iter().map(|asked| first.opened(asked).unwrap()).collect();
    let opened = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(opened >= 15, "five immediately, and one a second for as long as one may wait: {answers:?}");
    let failure = answers.into_iter().find_map(Result::err).expect("too fast");
    assert_eq!(failure.reason, 4, "a resource shortage");
    assert!(failure.text.starts_with("too_fast: "), "{failure:?}");
    wait::until_true("a second to pass", SOON, || first.forward("127.0.0.1", port).unwrap().is_ok());
}

/// One whose log is not that of each connection.
fn fixture(adjust: impl FnOnce(Setup) -> Setup) -> Fixture {
    Fixture::without_rules(|setup| adjust(setup.set("/log/level", json!("info"))))
}

/// A login from a given address.
fn login_from(fixture: &Fixture, from: IpAddr) -> Result<(Client, Verdict), Gone> {
    let mut client = Client::over(Link::connect_from(from, fixture.bastion.address())?)?;
    let verdict = client.attempt(&fixture.attempt());
    Ok((client, verdict))
}

fn must_login(fixture: &Fixture, from: IpAddr) -> Client {
    let (client, verdict) = login_from(fixture, from).unwrap();
    assert!(verdict.accepted, "{verdict:?}");
    client
}

fn counted(fixture: &Fixture, reason: &str) -> u64 {
    let metrics = fixture.bastion.page("/metrics").body;
    let name = format!("bastion_connections_refused_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

fn waits_for(fixture: &Fixture, reason: &str, count: u64) {
    wait::until_true(reason, SOON, || counted(fixture, reason) >= count);
}

/// What a client does that floods, once; what it returns is held.
type Deed = Box<dyn Fn(SocketAddr) -> Option<Link> + Send + Sync>;

/// Measures the logins of one while another floods, and what is left of the flood when it is over.
fn flood(name: &str, fixture: &mut Fixture, deed: Deed) {
    const FLOODERS: usize = 6;
    let address = fixture.bastion.address();
    let process = fixture.bastion.process().id();
    drop(must_login(fixture, BYSTANDER));
    let idle = || open_files(process);
    let (files, memory) = (idle(), resident(process));
    let (stop, deeds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..FLOODERS {
            scope.spawn(|| {
                let mut held = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    held.extend(deed(address));
                    // Its own descriptors have an end.
                    if held.len() > 300 {
                        held.clear();
                    }
                    deeds.fetch_add(1, Ordering::Relaxed);
                    // Together some 500 a second, if the bastion answers as fast.
                    std::thread::sleep(Duration::from_millis(12));
                }
            });
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            let start = Instant::now();
            drop(must_login(fixture, BYSTANDER));
            took.push(start.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
    });
    took.sort();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    wait::until_true("the files of a flood to be closed", SOON, || idle() <= files + 2);
    println!(
        "{name:<22} {:>5}/s  logins {:>4}  p50 {:>6.0?}  p99 {:>6.0?}  files {files} -> {}  resident {memory} -> {} KiB",
        deeds.load(Ordering::Relaxed) / 4,
        took.len(),
        at(50),
        at(99),
        idle(),
        resident(process),
    );
    assert!(at(99) < Duration::from_millis(1500), "{name}: {took:?}");
    assert!(
        resident(process) < memory + 48 * 1024,
        "{name}: {memory} KiB before, {} after",
        resident(process)
    );
}
