//! Messages of a peer that has not logged in: each row ends the peer's own connection, and nothing else.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::{
    bastion::{LOGIN, Setup},
    forge::Forge,
    key::Key,
    process::{open_files, resident},
    rogue::{Algorithms, Attempt, Client, Gone, Link, PATIENCE, number},
    target::Target,
    wait,
    wire::Writer,
};

const DEADLINE: Duration = Duration::from_secs(6);
/// How long a refusal may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);
/// What the bastion may grow by over all rows, in KiB. One row's megabyte that is kept would show.
const GROWTH: u64 = 12 * 1024;

use Ends::{AtOnce, InTime};

/// They get no answer and no channel, and who goes on with them is hung up on; a login after them is as if
/// they had not been.
#[test]
fn channel_messages_before_a_login_come_to_nothing_and_end_the_connection() {
    let (authority, key, target) = (Key::ed25519(), Key::ed25519(), Target::echo());
    let bastion = Setup::new().trust(&authority).rule(LOGIN, &[&target.address().to_string()]).start();
    let certificate = Forge::user(&key, LOGIN).sign(&authority);
    let messages = channel_messages(target.port());

    let mut client = Client::connect(bastion.address()).unwrap();
    messages.iter().for_each(|message| client.packets.send(message).unwrap());
    client.packets.link().patience(Duration::from_millis(300));
    let answer = client.packets.receive();
    assert_eq!(answer, Err(Gone::Silent), "not a word");
    client.packets.link().patience(PATIENCE);
    assert!(client.attempt(&Attempt::certificate(LOGIN, &key, certificate)).accepted);
    let opened = client.forward("127.0.0.1", target.port().into()).unwrap().unwrap();
    client.write(opened, b"mine").unwrap();
    assert_eq!(client.read(opened, 4).unwrap(), b"mine", "of the channel before it there is nothing");
    assert_eq!(target.accepted(), 1);

    let mut client = Client::connect(bastion.address()).unwrap();
    let began = Instant::now();
    let end = loop {
        if let Some(end) = messages.iter().find_map(|message| client.packets.send(message).err()) {
            break end;
        }
        assert!(began.elapsed() < AT_ONCE, "still listened to");
    };
    println!("hung up after {:.0?}: {end:?}", began.elapsed());
    let log = || bastion.log().contains("reason=\"unanswered_before_login\"");
    wait::until_true("the reason", DEADLINE, log);
    assert_eq!(target.accepted(), 1);
    let forwards = bastion.audit().iter().filter(|record| record["event"] == "forward_opened").count();
    assert_eq!(forwards, 1);
}

/// A peer that announces a packet costs what it has sent of it, and not what it announced.
#[test]
fn packets_that_are_announced_and_not_sent_take_no_memory() {
    const ANNOUNCERS: usize = 90;
    let mut bastion = Setup::new().trust(&Key::ed25519()).start();
    let process = bastion.process().id();
    let connect = |announced: u32| {
        let mut link = Link::connect(bastion.address()).unwrap();
        link.identify("SSH-2.0-rogue").unwrap();
        link.send(&announced.to_be_bytes()).unwrap();
        link
    };
    // As many that announce little, to know what a connection takes by itself.
    let count = || open_files(process);
    let files = count();
    let small: Vec<_> = (0..ANNOUNCERS).map(|_| connect(64)).collect();
    // The connections that asked whether the bastion is ready may have been counted, and be gone by now.
    wait::until_true("all to be there", DEADLINE, || count() + 2 >= files + ANNOUNCERS);
    let before = resident(process);
    drop(small);
    wait::until_true("all to be gone", DEADLINE, || count() <= files + 2);
    // 256 KiB is the most that the SSH library takes for a packet's length; it makes room for all of it at
    // once.
    let mut most = 0;
    let mut large: Vec<_> = (0..ANNOUNCERS)
        .map(|_| {
            let link = connect(255 * 1024);
            most = most.max(resident(process));
            link
        })
        .collect();
    for link in &mut large {
        assert_ne!(link.receive_to_end().1, Gone::Silent, "still waited for");
        most = most.max(resident(process));
    }
    println!(
        "{ANNOUNCERS} peers that announce a large packet: resident {before} KiB before, {most} KiB at most"
    );
    assert!(most < before + 8 * 1024, "{before} KiB before, {most} KiB at most");
    let log = || bastion.log().contains("reason=\"too_large_before_login\"");
    wait::until_true("the reason", DEADLINE, log);
}

#[test]
fn whatever_comes_before_a_login_is_cut_short() {
    let (authority, key) = (Key::ed25519(), Key::ed25519());
    let mut bastion = Setup::new()
        .trust(&authority)
        .set("/log/level", json!("info"))
        .set("/limits/login_deadline", json!(format!("{}s", DEADLINE.as_secs())))
        .start();
    let address = bastion.address();
    let certificate = Forge::user(&key, LOGIN).sign(&authority);
    // Clients that are logged in are not disturbed, and neither are new ones.
    let mut bystander = Client::login(address, LOGIN, &key, certificate.clone());
    let _ = Client::login(address, LOGIN, &key, certificate.clone());
    let process = bastion.process().id();
    let before = resident(process);
    let mut ended = Vec::new();
    for (name, say, ends) in rows() {
        let began = Instant::now();
        let link = Link::connect(address).unwrap();
        let client = link.stream().local_addr().unwrap();
        // Either we are told to stop, or we have said it all and wait.
        let end = match say(link) {
            Ok(mut link) => link.receive_to_end().1,
            Err(end) => end,
        };
        let took = began.elapsed();
        assert_ne!(end, Gone::Silent, "{name}: still there");
        match ends {
            AtOnce => assert!(took < AT_ONCE, "{name}: {took:?}"),
            InTime => assert!(took > DEADLINE / 2 && took < DEADLINE + AT_ONCE, "{name}: {took:?}"),
        }
        ended.push((name, client, took));
    }
    let after = resident(process);
    wait::until_true("the last word about them", DEADLINE, || bastion.log().contains("no login in time"));
    let log = bastion.log();
    println!("{:<42} {:>8}  log", "before the login", "ends");
    for (name, client, took) in ended {
        let said: Vec<_> = log.lines().filter(|line| line.contains(&format!("client={client}"))).collect();
        println!(
            "{name:<42} {took:>8.0?}  {}",
            said.first().map_or("", |line| line.rsplit('"').nth(1).unwrap_or("deadline"))
        );
        assert!(said.len() <= 1, "{name}: {said:#?}");
        assert!(said.iter().all(|line| line.len() < 400), "{name}: {said:#?}");
    }
    assert!(!log.contains("ERROR"), "{log}");
    println!("resident: {before} KiB before, {after} KiB after");
    assert!(after < before + GROWTH, "{before} KiB before, {after} KiB after");
    assert!(bystander.forward("127.0.0.1", 1).unwrap().is_err(), "it still answers");
    let _ = Client::login(address, LOGIN, &key, certificate);
    assert!(bastion.page("/metrics").body.contains("bastion_panics_total 0"));
}

/// When a row's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    AtOnce,
    /// At the login deadline: what the peer does is slow, or incomplete, but not wrong.
    InTime,
}

/// Says it, for as long as the bastion listens. That the bastion hangs up meanwhile is what is wanted.
type Say = Box<dyn Fn(Link) -> Result<Link, Gone>>;

fn bytes(bytes: impl Into<Vec<u8>>) -> Say {
    let bytes = bytes.into();
    Box::new(move |mut link| {
        link.send(&bytes)?;
        Ok(link)
    })
}

/// Bytes after the identification lines.
fn packet(bytes: impl Into<Vec<u8>>) -> Say {
    let bytes = bytes.into();
    Box::new(move |mut link| {
        link.identify("SSH-2.0-rogue")?;
        link.send(&bytes)?;
        Ok(link)
    })
}

/// A message in a plain packet of the right form.
fn message(payload: impl Into<Vec<u8>>) -> Say {
    let payload = payload.into();
    let mut packet_bytes = Vec::new();
    let padding = 8 + (8 - (5 + payload.len()) % 8) % 8;
    packet_bytes.extend(u32::try_from(1 + payload.len() + padding).unwrap().to_be_bytes());
    packet_bytes.push(u8::try_from(padding).unwrap());
    packet_bytes.extend(&payload);
    packet_bytes.extend(vec![0; padding]);
    packet(packet_bytes)
}

/// Something after the key exchange.
fn encrypted(say: impl Fn(&mut Client) -> Result<(), Gone> + 'static) -> Say {
    Box::new(move |link| {
        let mut client = Client::over(link)?;
        say(&mut client)?;
        Ok(client.packets.into_link())
    })
}

/// One piece each moment, until the bastion has enough.
fn slowly(mut piece: impl FnMut(usize) -> Result<(), Gone>) -> Result<(), Gone> {
    for count in 0.. {
        piece(count)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn rows() -> Vec<(&'static str, Say, Ends)> {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let kexinit = Algorithms::default().kexinit();
    let strange = Algorithms { key_exchange: "diffie-hellman-group1-sha1".into(), ..Algorithms::default() };
    let random: Vec<u8> = (0..65_536).map(|_| rand::random()).collect();
    let length = |length: u32| [&length.to_be_bytes()[..], &[7; 64]].concat();
    let open = Writer::message(number::CHANNEL_OPEN).string("session").u32(0).u32(1 << 20).u32(1 << 15).0;
    vec![
        ("HTTP", bytes("GET / HTTP/1.1\r\nHost: bastion\r\n\r\n"), AtOnce),
        ("a TLS hello", bytes(*hello), AtOnce),
        ("SSH-1.5", bytes("SSH-1.5-old\r\n"), AtOnce),
        ("an identification line of 1 MiB", bytes(format!("SSH-2.0-{}", "x".repeat(1 << 20))), AtOnce),
        ("NUL in the identification line", bytes("SSH-2.0-a\0b\r\n"), AtOnce),
        ("20,000 lines before it", bytes(format!("{}SSH-2.0-x\r\n", "hello\r\n".repeat(20_000))), AtOnce),
        ("a PROXY header that is not expected", bytes("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n"), AtOnce),
        ("a packet length of 0", packet(length(0)), AtOnce),
        ("a packet length of 1", packet(length(1)), AtOnce),
        ("a packet length of 2^28", packet(length(1 << 28)), AtOnce),
        ("a packet length of 2^32-1", packet(length(u32::MAX)), AtOnce),
        ("more padding than packet", packet([&12_u32.to_be_bytes()[..], &[255], &[20; 11]].concat()), AtOnce),
        ("no padding", packet([&12_u32.to_be_bytes()[..], &[0], &[20; 11]].concat()), AtOnce),
        ("a KEXINIT that is cut short", message(&kexinit[..40]), AtOnce),
        (
            "a KEXINIT of 200 KB",
            message([&kexinit[..17], &Writer::new().string(vec![b'x'; 200_000]).0].concat()),
            AtOnce,
        ),
        ("no algorithm in common", message(strange.kexinit()), AtOnce),
        ("NEWKEYS first", message([number::NEWKEYS]), AtOnce),
        (
            "SERVICE_REQUEST too early",
            message(Writer::message(number::SERVICE_REQUEST).string("ssh-userauth").0),
            AtOnce,
        ),
        ("CHANNEL_OPEN too early", message(open.clone()), AtOnce),
        ("USERAUTH_SUCCESS too early", message([number::USERAUTH_SUCCESS]), AtOnce),
        ("random bytes", bytes(random.clone()), AtOnce),
        ("random packets", packet(random), AtOnce),
        ("CHANNEL_OPEN before the login", encrypted(move |client| client.packets.send(&open)), InTime),
        (
            "USERAUTH_SUCCESS from a client",
            encrypted(|client| client.packets.send(&[number::USERAUTH_SUCCESS])),
            InTime,
        ),
        (
            "10,000 PINGs",
            encrypted(|client| {
                let ping = Writer::message(number::PING).string("1234567890123456").0;
                (0..10_000).try_for_each(|_| client.packets.send(&ping))
            }),
            AtOnce,
        ),
        (
            "megabytes of IGNORE, and nothing is read",
            encrypted(|client| {
                let ignore = Writer::message(number::IGNORE).string(vec![0; 30_000]).0;
                (0..1000).try_for_each(|_| client.packets.send(&ignore))
            }),
            AtOnce,
        ),
        ("half a KEXINIT", packet([&400_u32.to_be_bytes()[..], &[4], &kexinit[..100]].concat()), InTime),
        ("silence", bytes(""), InTime),
        ("an identification line, and silence", packet(""), InTime),
        (
            "one byte at a time",
            Box::new(|mut link| {
                slowly(|count| link.send(&b"SSH-2.0-an-endless-identification-line"[count..=count]))?;
                Ok(link)
            }),
            InTime,
        ),
        (
            "one IGNORE at a time",
            encrypted(|client| {
                let ignore = Writer::message(number::IGNORE).string("x").0;
                slowly(|_| client.packets.send(&ignore))
            }),
            InTime,
        ),
    ]
}

/// What asks for a channel, a command in it and a connection, all without a login.
fn channel_messages(target: u16) -> Vec<Vec<u8>> {
    let open =
        |kind: &str| Writer::message(number::CHANNEL_OPEN).string(kind).u32(0).u32(1 << 20).u32(1 << 15);
    vec![
        open("session").0,
        Writer::message(number::CHANNEL_REQUEST).u32(0).string("exec").flag(true).string("id").0,
        open("direct-tcpip").string("127.0.0.1").u32(target.into()).string("127.0.0.1").u32(1).0,
        Writer::message(number::CHANNEL_DATA).u32(0).string("x").0,
    ]
}
