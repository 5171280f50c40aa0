//! A peer that is logged in and does not keep to the protocol, or to what is decent: it harms its own connection at most.

use std::time::Duration;

use tests::bastion::{self, Bastion, LOGIN};
use tests::forge::Forge;
use tests::key::Key;
use tests::process::resident;
use tests::rogue::{Algorithms, Channel, Client, Gone, number};
use tests::target::Target;
use tests::wire::Writer;

/// How long a connection may take to be ended, or to show that it is not.
const SOON: Duration = Duration::from_secs(10);

struct Place {
    authority: Key,
    key: Key,
    echo: Target,
    bastion: Bastion,
}

impl Place {
    fn new(others: &[&Target]) -> Self {
        let (authority, key, echo) = (Key::ed25519(), Key::ed25519(), Target::echo());
        let to: Vec<_> = others.iter().chain(&[&echo]).map(|target| target.address().to_string()).collect();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        let bastion = bastion::Setup::new().trust(&authority).rule(LOGIN, &to).start();
        Self { authority, key, echo, bastion }
    }

    fn login(&self) -> Client {
        let certificate = Forge::user(&self.key, LOGIN).sign(&self.authority);
        Client::login(self.bastion.address(), LOGIN, &self.key, certificate)
    }

    fn open(&self, client: &mut Client) -> Channel {
        client.forward("127.0.0.1", self.echo.port().into()).unwrap().unwrap()
    }

    /// Whoever was there before is still served, and nothing of the bastion's was broken.
    fn lives(&mut self, what: &str, steady: &mut (Client, Channel)) {
        let (client, channel) = steady;
        client.write(*channel, b"still here").unwrap();
        assert_eq!(client.read(*channel, 10).unwrap(), b"still here", "{what}");
        assert!(self.bastion.process().ended().is_none(), "{what}");
        let metrics = self.bastion.page("/metrics").body;
        assert!(metrics.contains("bastion_panics_total 0\n"), "{what}: {metrics}");
    }
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
    let mut place = Place::new(&[]);
    let mut client = place.login();
    let channel = place.open(&mut client);
    let mut steady = (client, channel);
    let port = place.echo.port();
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
            "a confirmation that nobody asked for",
            Box::new(|_| {
                let message =
                    Writer::message(number::CHANNEL_OPEN_CONFIRMATION).u32(0).u32(0).u32(1).u32(1).0;
                vec![message]
            }),
        ),
        (
            "answers that nobody asked for",
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
        ("messages that are cut short", Box::new(|_| (80_u8..=100).map(|kind| vec![kind]).collect())),
        ("messages that do not exist", Box::new(|_| (200_u8..=255).map(|kind| vec![kind, 0, 0]).collect())),
    ];
    for (what, deed) in deeds {
        let mut client = place.login();
        let channel = place.open(&mut client);
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
        place.lives(what, &mut steady);
    }
}

#[test]
fn a_peer_that_never_reads_costs_little_memory() {
    const LENGTH: u64 = 256 << 20;
    let source = Target::source(3, LENGTH);
    let mut place = Place::new(&[&source]);
    let mut client = place.login();
    let channel = place.open(&mut client);
    let mut steady = (client, channel);
    let before = resident(place.bastion.process().id());
    let mut client = place.login();
    let _channels: Vec<_> =
        (0..8).map(|_| client.forward("127.0.0.1", source.port().into()).unwrap()).collect();
    // Nothing of what the targets send is read. While others are served, it piles up as far as it may.
    for _ in 0..200 {
        place.lives("a peer that never reads", &mut steady);
    }
    let after = resident(place.bastion.process().id());
    println!("resident: {before} KiB before, {after} KiB after");
    assert!(after < before + 64 * 1024, "resident: {before} KiB before, {after} KiB after");
}

#[test]
fn keys_may_be_exchanged_again_and_again_or_begun_and_left() {
    let mut place = Place::new(&[]);
    let mut client = place.login();
    let channel = place.open(&mut client);
    let mut steady = (client, channel);

    let mut busy = place.login();
    for _ in 0..200 {
        if busy.packets.exchange_keys(&Algorithms::default()).is_err() {
            break;
        }
    }
    place.lives("two hundred key exchanges", &mut steady);

    // Begun and never finished, while messages go on coming that must wait for its end.
    let before = resident(place.bastion.process().id());
    let mut idle = place.login();
    let channel = place.open(&mut idle);
    idle.packets.send(&Algorithms::default().kexinit()).unwrap();
    for _ in 0..1000 {
        if idle.packets.send(&data(channel.theirs, 32_000)).is_err() {
            break;
        }
    }
    place.lives("a key exchange that is never finished", &mut steady);
    let after = resident(place.bastion.process().id());
    assert!(after < before + 64 * 1024, "resident: {before} KiB before, {after} KiB after");
}
