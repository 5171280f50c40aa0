//! Many connections, faster than one identity may open them: each waits for its turn, and none is lost.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use tests::{
    authority::DevAuthority,
    bastion::{LOGIN, Setup},
    forge::Forge,
    key::Key,
    ports,
    ssh::Person,
    target::Target,
    tunnel,
};

const SOON: Duration = Duration::from_secs(30);
/// So few that a test meets the bound immediately.
const BURST: u32 = 100;
const EACH_SECOND: u32 = 500;
const ONE_BY_ONE: u32 = 900;
const TOGETHER: u32 = 1200;
const AT_ONCE: u32 = 16;

/// One short connection, as a health check or a script makes them.
fn ask(local: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(local)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(&number.to_be_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer == number.to_be_bytes() { Ok(()) } else { Err(std::io::Error::other("another answer")) }
}

/// `count` of them by `hands`, and what became of those that were lost.
fn ask_all(local: SocketAddr, count: u32, hands: u32) -> Vec<std::io::Error> {
    let next = AtomicU32::new(0);
    let work = || {
        let mut lost = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return lost;
            }
            lost.extend(ask(local, number).err());
        }
    };
    std::thread::scope(|scope| {
        let hands: Vec<_> = (0..hands).map(|_| scope.spawn(work)).collect();
        hands.into_iter().flat_map(|hand| hand.join().unwrap()).collect()
    })
}

fn none_lost(how: &str, local: SocketAddr) {
    let began = Instant::now();
    for (count, hands) in [(ONE_BY_ONE, 1), (TOGETHER, AT_ONCE)] {
        let lost = ask_all(local, count, hands);
        assert!(lost.is_empty(), "{how}, {count} by {hands}: {} lost, such as {:?}", lost.len(), lost[0]);
    }
    let least = f64::from(ONE_BY_ONE + TOGETHER - BURST) / f64::from(EACH_SECOND);
    let took = began.elapsed().as_secs_f64();
    assert!(took > 0.9 * least, "{how}: {took} s, so nothing was paced");
    println!("{how}: {} connections in {took:.1} s", ONE_BY_ONE + TOGETHER);
}

fn bastion(authority: &str, to: &str) -> Setup {
    Setup::new()
        .trust_line(authority)
        .rule(LOGIN, &[to])
        .set("/limits/per_identity", json!({"opens": BURST, "opens_per_second": EACH_SECOND}))
}

#[test]
fn pf_tunnel_waits_for_its_turn_loses_none_and_says_so_once() {
    let (authority, echo) = (DevAuthority::start(), Target::echo());
    let to = echo.address().to_string();
    let bastion = bastion(authority.users(), &to).start();
    let setup = tunnel::Setup::new(bastion.address())
        .set("/bastion/host_key", json!(bastion.host_key().public_line()))
        .vault(authority.url(), authority.token());
    let mut tunnel = setup.start(&[&to, "0"]);
    let local = tunnel.ready(1)[0];
    none_lost("pf-tunnel", local);
    let told = tunnel.event("held-back", SOON);
    assert!(told["reason"].as_str().unwrap().contains("waits for its turn"), "{told}");
    assert_eq!(tunnel.count("held-back"), 1, "said once, and calmly");
    assert_eq!(tunnel.count("not-opened"), 0);
    assert!(!bastion.page("/metrics").body.contains("too_fast"), "the bastion need not refuse any");
}

#[test]
fn stock_ssh_is_made_to_wait_for_its_turn_and_loses_none() {
    let (authority, key, echo) = (Key::ed25519(), Key::ed25519(), Target::echo());
    let to = echo.address().to_string();
    let bastion = bastion(&authority.public_line(), &to).start();
    let certificate = Forge::user(&key, LOGIN).sign(&authority);
    let person = Person::new(LOGIN, &key, &certificate).knows(bastion.address(), &bastion.host_key());
    let local = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let _ssh = person.forward(bastion.address(), &["-L", &format!("{local}:{to}")], &[local]);
    none_lost("ssh", local);
    assert!(!bastion.page("/metrics").body.contains("too_fast"));
}

/// A session that has all the channels that it may have opens one more when another ends. Where that takes
/// longer than the bastion lets it wait, pf-tunnel asks again, and the local connection is held.
#[test]
fn a_connection_beyond_the_channels_of_a_session_is_held_until_one_ends() {
    let (authority, echo) = (DevAuthority::start(), Target::echo());
    let to = echo.address().to_string();
    let bastion = bastion(authority.users(), &to).set("/limits/max_channels_per_session", json!(1)).start();
    let setup = tunnel::Setup::new(bastion.address())
        .set("/bastion/host_key", json!(bastion.host_key().public_line()))
        .vault(authority.url(), authority.token());
    let mut tunnel = setup.start(&[&to, "0"]);
    let local = tunnel.ready(1)[0];
    let mut first = TcpStream::connect(local).unwrap();
    first.write_all(b"x").unwrap();
    first.read_exact(&mut [0]).unwrap();
    let second = std::thread::spawn(move || ask(local, 4711));
    let told = tunnel.event("held-back", SOON);
    assert!(told["reason"].as_str().unwrap().starts_with("as many connections are open"), "{told}");
    assert!(!second.is_finished());
    drop(first);
    second.join().unwrap().unwrap();
    let refused = "bastion_forward_total{result=\"refused\",reason=\"too_many_channels\"} ";
    assert!(!bastion.page("/metrics").body.contains(refused), "it is not asked for what it does not grant");
}
