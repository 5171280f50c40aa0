//! Has the machines talk to each other, to a stand-in of MySQL 8, and to hostile peers.

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::{packet::packet, *};
use crate::{ClearPassword, Explanation, LocalTls, Machine, Password, Reason, Step, TlsFacts, TlsMode};

const SCRAMBLE: [u8; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];
const VERIFIED: TlsFacts<'_> = TlsFacts { verified: true, certificate: None };
const UNVERIFIED: TlsFacts<'_> = TlsFacts { verified: false, certificate: None };
const ALL: u32 = !flag::LONG_PASSWORD;

fn password(text: &str) -> Password {
    Password::new(text.into()).unwrap()
}

/// A greeting as a server writes it.
fn greeting(version: &str, flags: u32, mariadb: u32, plugin: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = flags.to_le_bytes();
    let (first, rest) = SCRAMBLE.split_at(8);
    [
        &[10],
        version.as_bytes(),
        &[0],
        &7_u32.to_le_bytes(),
        first,
        &[0, a, b, 45, 2, 0, c, d, 21, 0, 0, 0, 0, 0, 0],
        &mariadb.to_le_bytes(),
        rest,
        &[0],
        plugin,
        &[0],
    ]
    .concat()
}

fn mysql_8() -> Greeting {
    Greeting::parse(&greeting("8.4.7", ALL | 1, 0, plugin::CACHING)).unwrap()
}

fn mariadb() -> Greeting {
    Greeting::parse(&greeting("5.5.5-10.11.19-MariaDB", ALL, 0x1f, plugin::NATIVE)).unwrap()
}

/// A client's response to a greeting.
fn response(flags: u32, plugin: &[u8], answer: &[u8]) -> Vec<u8> {
    let mut out = [&flags.to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23], b"alice\0"].concat();
    out.push(u8::try_from(answer.len()).unwrap());
    out.extend_from_slice(answer);
    if flags & flag::CONNECT_WITH_DB != 0 {
        out.extend_from_slice(b"shop\0");
    }
    if flags & flag::PLUGIN_AUTH != 0 {
        out.extend_from_slice(plugin);
        out.push(0);
    }
    if flags & flag::CONNECT_ATTRS != 0 {
        out.extend_from_slice(b"\x18\x0cprogram_name\x03psh\x03_os\x02ab");
    }
    out
}

const PLAIN: u32 = flag::LONG_PASSWORD | flag::PROTOCOL_41 | flag::SECURE_CONNECTION;
const MODERN: u32 =
    PLAIN | flag::PLUGIN_AUTH | flag::CONNECT_WITH_DB | flag::LENENC_AUTH | flag::CONNECT_ATTRS;

fn parsed(flags: u32) -> Response {
    Response::parse(&response(flags, plugin::NATIVE, b""), &mysql_8().offered(LocalTls::Offered)).unwrap()
}

/// By PyMySQL, which has them from the definitions of the plugins.
#[test]
fn answers_are_those_of_another_implementation() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let word = password("canary");
    assert_eq!(hex(&scramble::native(&word, &SCRAMBLE)), "c4fd401ff30947887d61d3b9d00f671ef746befc");
    assert_eq!(
        hex(&scramble::caching(&word, &SCRAMBLE)),
        "6f4553c7d5862121045c43bad2856a4375909f6e07a01bbc331b1d32d75285d0"
    );
    let long: Vec<u8> = (1..=32).collect();
    assert_eq!(
        hex(&scramble::ed25519(&word, &long)),
        "9c2342978ab48245f819bdef90b48f394c4d23e7cab45f72307e429d2ac78eb0\
         8257e3b2f8e6876c776ed10701723fd42a468c031d36e2c3b5b75b5ff49d3f05"
    );
}

fn pem(key: &PrivateDecryptingKey) -> String {
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der.as_ref()))
}

/// What a server with this key takes for the password.
fn decrypted(key: &PrivateDecryptingKey, encrypted: &[u8]) -> Vec<u8> {
    let key = OaepPrivateDecryptingKey::new(key.clone()).unwrap();
    let mut out = vec![0; key.min_output_size()];
    let mixed = key.decrypt(&OAEP_SHA1_MGF1SHA1, encrypted, &mut out, None).unwrap();
    mixed.iter().zip(SCRAMBLE.iter().cycle()).map(|(a, b)| a ^ b).collect()
}

#[test]
fn a_known_key_encrypts_the_password() {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let known = ServerKey::from_pem(pem(&key).as_bytes()).unwrap();
    let word = password("a word longer than the scramble");
    let encrypted = known.encrypt(&word, &SCRAMBLE).unwrap();
    assert_eq!(decrypted(&key, &encrypted), b"a word longer than the scramble\0");
    assert!(known.encrypt(&password(&"x".repeat(300)), &SCRAMBLE).is_none());
    assert_eq!(ServerKey::from_pem(b"no key").unwrap_err(), UnusableKey::Pem);
    let short = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    assert_eq!(ServerKey::from_pem(short.as_bytes()).unwrap_err(), UnusableKey::Rsa);
}

#[test]
fn the_greeting_is_the_servers_less_what_cannot_pass() {
    let server = mariadb();
    assert_eq!((server.version(), server.connection()), (&b"5.5.5-10.11.19-MariaDB"[..], 7));
    let ours = Greeting::parse(&server.offered(LocalTls::Absent).to_payload()).unwrap();
    assert_eq!((ours.version(), ours.connection(), ours.scramble()), (server.version(), 7, &SCRAMBLE));
    assert_eq!(
        ours.flags(),
        ALL & !(flag::COMPRESS | flag::ZSTD | flag::MULTI_FACTOR | flag::EXTENSION | flag::SSL)
    );
    assert_eq!((ours.mariadb_flags(), ours.plugin()), (0b1_1101, plugin::NATIVE));
    let ours = mysql_8().offered(LocalTls::Offered);
    assert!(ours.offers_tls() && ours.mariadb_flags() == 0 && ours.plugin() == plugin::CACHING);
    // A server that is only reached with another plugin: clients need not know it.
    let other = Greeting::parse(&greeting("8", ALL | 1, 0, b"sha256_password")).unwrap();
    assert_eq!(other.offered(LocalTls::Absent).plugin(), plugin::NATIVE);
    for (payload, malformed) in [
        (vec![9], Malformed::Version(9)),
        (vec![10, b'x'], Malformed::Fields),
        (greeting("3", 0, 0, b""), Malformed::Old),
        (greeting("8", ALL & !flag::PLUGIN_AUTH, 0, b""), Malformed::Old),
        (greeting("8", ALL, 0, b"")[..30].to_vec(), Malformed::Fields),
    ] {
        assert_eq!(Greeting::parse(&payload), Err(malformed));
    }
    let made_up = Greeting::without_server();
    assert_eq!(Greeting::parse(&made_up.to_payload()), Ok(made_up));
}

/// Feeds a machine of the local side, and returns its end, what it wrote after the greeting, and how much is
/// not read.
fn serve(
    greeting: &Greeting,
    tls: LocalTls,
    input: &[u8],
    piece: usize,
) -> (Result<Option<Login>, ServerRefused>, Vec<u8>, usize) {
    let mut server = Server::new(greeting, tls);
    let (mut input, mut written) = (input, Vec::new());
    let first = greeting.offered(tls).to_payload().len() + 4;
    let end = loop {
        match server.step() {
            Ok(Step::Read(_)) if input.is_empty() => break Ok(None),
            Ok(Step::Read(most)) => {
                assert!(server.held() <= LONGEST_RESPONSE + 4);
                let (taken, rest) = input.split_at(most.min(piece).min(input.len()));
                input = rest;
                server.feed(taken).unwrap();
            }
            Ok(Step::Write(bytes)) => written.extend_from_slice(bytes.as_ref()),
            Ok(Step::StartTls) => {
                written.extend_from_slice(b"<TLS>");
                server.tls_started(TlsFacts { verified: false, certificate: None }).unwrap();
            }
            Ok(Step::Ready(login)) => break Ok(Some(login)),
            Err(refused) => break Err(refused),
        }
    };
    (end, written[first..].to_vec(), input.len())
}

fn packets(payloads: &[(u8, &[u8])]) -> Vec<u8> {
    payloads.iter().flat_map(|(sequence, payload)| packet(*sequence, payload).as_ref().to_vec()).collect()
}

#[test]
fn every_client_is_let_in_without_a_secret() {
    let confirm: &[u8] = &[1, 3];
    let switch = |name: &[u8]| [&[0xfe], name, &[0], &SCRAMBLE[..], &[0]].concat();
    let (to_native, to_caching) = (switch(plugin::NATIVE), switch(plugin::CACHING));
    let word = [7; 32];
    let empty: &[u8] = b"";
    // Greeting, flags, plugin and answer of the client, what we say, what it answers to that, what we say.
    type Row<'a> =
        (&'a str, Greeting, u32, &'a [u8], &'a [u8], Option<(&'a [u8], &'a [u8])>, Option<&'a [u8]>);
    let rows: [Row<'_>; 13] = [
        ("native, empty", mariadb(), MODERN, plugin::NATIVE, empty, None, None),
        ("native, a word", mariadb(), MODERN, plugin::NATIVE, &word[..20], None, None),
        ("before plugins", mariadb(), PLAIN, b"", &word[..20], None, None),
        ("caching, empty", mysql_8(), MODERN, plugin::CACHING, empty, None, None),
        ("caching, a zero byte", mysql_8(), MODERN, plugin::CACHING, b"\0", None, None),
        ("caching, a word", mysql_8(), MODERN, plugin::CACHING, &word, None, Some(confirm)),
        (
            "native at MySQL 8",
            mysql_8(),
            MODERN,
            plugin::NATIVE,
            empty,
            Some((&to_native, &word[..20])),
            None,
        ),
        (
            "caching at MariaDB",
            mariadb(),
            MODERN,
            plugin::CACHING,
            empty,
            Some((&to_caching, &word)),
            Some(confirm),
        ),
        (
            "caching at MariaDB, empty",
            mariadb(),
            MODERN,
            plugin::CACHING,
            empty,
            Some((&to_caching, b"\0")),
            None,
        ),
        (
            "sha256 at MySQL 8",
            mysql_8(),
            MODERN,
            b"sha256_password",
            b"\x01",
            Some((&to_caching, &word)),
            Some(confirm),
        ),
        (
            "clear at MySQL 8",
            mysql_8(),
            MODERN,
            b"mysql_clear_password",
            b"secret\0",
            Some((&to_caching, &word)),
            Some(confirm),
        ),
        ("ed25519 at MariaDB", mariadb(), MODERN, plugin::ED25519, empty, Some((&to_native, empty)), None),
        ("no name", mariadb(), MODERN, b"", empty, Some((&to_native, empty)), None),
    ];
    for (name, greeting, flags, plugin, answer, switched, confirmed) in rows {
        let mut sequence = 1;
        let mut next = || {
            sequence += 1;
            sequence - 1
        };
        let mut input = packets(&[(next(), &response(flags, plugin, answer))]);
        let mut output = Vec::new();
        if let Some((request, answer)) = switched {
            output.extend(packets(&[(next(), request)]));
            input.extend(packets(&[(next(), answer)]));
        }
        if let Some(more) = confirmed {
            output.extend(packets(&[(next(), more)]));
        }
        input.extend_from_slice(b"rest");
        for piece in [1, usize::MAX] {
            let (end, written, unread) = serve(&greeting, LocalTls::Offered, &input, piece);
            let Ok(Some(login)) = end else { panic!("{name}: {end:?}") };
            assert_eq!(
                (written.escape_ascii().to_string(), unread),
                (output.escape_ascii().to_string(), 4),
                "{name}"
            );
            let ok = Session { ok: b"\0\0\0\x02\0\0\0".to_vec() };
            assert_eq!(login.response().user(), b"alice");
            assert_eq!(login.accept(&ok).as_ref(), packets(&[(sequence, &ok.ok)]), "{name}");
        }
    }
}

#[test]
fn tls_is_begun_where_it_is_offered() {
    let request = response(MODERN | flag::SSL, plugin::CACHING, b"")[..32].to_vec();
    let input = packets(&[(1, &request), (2, &response(MODERN | flag::SSL, plugin::CACHING, b""))]);
    let (end, written, _) = serve(&mysql_8(), LocalTls::Offered, &input, 3);
    assert!(matches!(end, Ok(Some(_))), "{end:?}");
    assert_eq!(written, b"<TLS>");
    assert_eq!(serve(&mysql_8(), LocalTls::Absent, &input, 3).0.unwrap_err(), ServerRefused::Tls);
    let twice = packets(&[(1, &request), (2, &request)]);
    let malformed = ServerRefused::Response(Malformed::Fields);
    assert_eq!(serve(&mysql_8(), LocalTls::Offered, &twice, 3).0.unwrap_err(), malformed);
}

#[test]
fn clients_that_make_no_sense_are_refused_in_a_packet() {
    let many = [&b"\xfd\x02\x02\0"[..], &[0; 514]].concat();
    let with = |attributes: &[u8]| {
        [&response(MODERN & !flag::CONNECT_ATTRS, plugin::NATIVE, b"")[..], attributes].concat()
    };
    let attributes = |bytes: &[u8]| {
        let mut payload = with(bytes);
        payload[2] |= 0x10;
        payload
    };
    for (name, input, refused) in [
        ("too long", vec![0xff, 0xff, 0xff, 1], ServerRefused::Packet(BadPacket::Length(0xff_ffff))),
        (
            "out of order",
            vec![4, 0, 0, 3],
            ServerRefused::Packet(BadPacket::Sequence { expected: 1, got: 3 }),
        ),
        ("before 4.1", packets(&[(1, &response(1, b"", b""))]), ServerRefused::Response(Malformed::Old)),
        (
            "no end",
            packets(&[(1, &response(PLAIN, b"", b"")[..36])]),
            ServerRefused::Response(Malformed::Fields),
        ),
        (
            "answer without an end",
            packets(&[(1, &[&response(PLAIN, b"", b"")[..38], &[9]].concat())]),
            ServerRefused::Response(Malformed::Fields),
        ),
        (
            "attributes without an end",
            packets(&[(1, &attributes(b"\x09\x01"))]),
            ServerRefused::Response(Malformed::Fields),
        ),
        (
            "broken attributes",
            packets(&[(1, &attributes(b"\x02\x09\x01"))]),
            ServerRefused::Response(Malformed::Fields),
        ),
        (
            "attributes that break later",
            packets(&[(1, &attributes(b"\x05\x01a\x01b\x09"))]),
            ServerRefused::Response(Malformed::Fields),
        ),
        (
            "many attributes",
            packets(&[(1, &attributes(&many))]),
            ServerRefused::Response(Malformed::Attributes),
        ),
    ] {
        assert_eq!(serve(&mariadb(), LocalTls::Offered, &input, 7).0.unwrap_err(), refused, "{name}");
    }
    let server = Server::new(&mariadb(), LocalTls::Absent);
    let told = server.explain(&ServerRefused::Tls);
    assert!(told.as_ref().ends_with(b"#08S01the client asks for TLS, which it was not offered"));
}

#[test]
fn our_response_is_the_clients_with_another_user() {
    let client = parsed(MODERN);
    assert_eq!((client.user(), client.database()), (&b"alice"[..], Some(&b"shop"[..])));
    let attributes: Vec<_> = client.attributes().collect();
    assert_eq!(attributes, [(&b"program_name"[..], &b"psh"[..]), (b"_os", b"ab")]);
    let (end, written) =
        against(&mysql_8(), &client, settings(TlsMode::Disable), &packets(&[(2, &[0; 7])]), &VERIFIED);
    assert!(end.is_ok());
    let answer = scramble::caching(&password("canary"), &SCRAMBLE);
    let ours = [
        &MODERN.to_le_bytes()[..],
        &[0, 0, 0, 1, 45],
        &[0; 23],
        b"v-lease\0\x20",
        &answer,
        b"shop\0caching_sha2_password\0\x18\x0cprogram_name\x03psh\x03_os\x02ab",
    ];
    assert_eq!(
        written.escape_ascii().to_string(),
        packets(&[(1, &ours.concat())]).escape_ascii().to_string()
    );
    // The configured database, where the client has none.
    let client = parsed(MODERN & !flag::CONNECT_WITH_DB);
    let (_, written) =
        against(&mysql_8(), &client, settings(TlsMode::Disable), &packets(&[(2, &[0; 7])]), &VERIFIED);
    assert!(written.windows(8).any(|window| window == b"orders\0c"));
    assert!(!format!("{client:?}").contains("answer"));
}

fn settings(tls: TlsMode) -> Settings {
    Settings {
        user: "v-lease".to_owned(),
        password: Some(password("canary")),
        database: Some("orders".to_owned()),
        tls,
        clear: ClearPassword::OverVerifiedTls,
        key: None,
    }
}

/// How a login ends at a server that greets like this and then says these packets, and what was written.
fn against(
    greeting: &Greeting,
    client: &Response,
    settings: Settings,
    input: &[u8],
    facts: &TlsFacts<'_>,
) -> (Result<(), Refused>, Vec<u8>) {
    cut(greeting, client, settings, input, facts, usize::MAX)
        .unwrap_or_else(|written| panic!("it waits after {}", written.escape_ascii()))
}

type Outcome = (Result<(), Refused>, Vec<u8>);

fn cut(
    greeting: &Greeting,
    client: &Response,
    settings: Settings,
    input: &[u8],
    facts: &TlsFacts<'_>,
    piece: usize,
) -> Result<Outcome, Vec<u8>> {
    let mut greeter = Greeter::new();
    let payload = greeting.to_payload();
    let mut first = &packets(&[(0, &payload)])[..];
    let greeted = loop {
        match greeter.step() {
            Ok(Step::Read(most)) => {
                let (taken, rest) = first.split_at(most.min(piece));
                first = rest;
                greeter.feed(taken).unwrap();
            }
            Ok(Step::Ready(greeted)) => break greeted,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(greeted.greeting(), greeting);
    let mut machine = greeted.log_in(client, settings);
    let (mut input, mut written) = (input, Vec::new());
    loop {
        match machine.step() {
            Ok(Step::Read(_)) if input.is_empty() => return Err(written),
            Ok(Step::Read(most)) => {
                assert!(machine.held() <= LONGEST_PACKET + 4);
                let (taken, rest) = input.split_at(most.min(piece).min(input.len()));
                input = rest;
                machine.feed(taken).unwrap();
            }
            Ok(Step::Write(bytes)) => written.extend_from_slice(bytes.as_ref()),
            Ok(Step::StartTls) => {
                written.extend_from_slice(b"<TLS>");
                if let Err(refused) = machine.tls_started(*facts) {
                    return Ok((Err(refused), written));
                }
            }
            Ok(Step::Ready(_)) => return Ok((Ok(()), written)),
            Err(refused) => return Ok((Err(refused), written)),
        }
    }
}

#[test]
fn every_plugin_that_is_known_is_answered() {
    let client = parsed(MODERN);
    let ok: &[u8] = &[0; 7];
    let word = password("canary");
    let long: Vec<u8> = (1..=32).collect();
    let switch = |name: &[u8], scramble: &[u8]| [&[0xfe], name, &[0], scramble, &[0]].concat();
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let other: [u8; 20] = [99; 20];
    for (name, input, last) in [
        ("fast", packets(&[(2, &[1, 3]), (3, ok)]), None),
        (
            "native",
            packets(&[(2, &switch(plugin::NATIVE, &other)), (4, ok)]),
            Some(scramble::native(&word, &other)),
        ),
        (
            "caching",
            packets(&[(2, &switch(plugin::CACHING, &other)), (4, &[1, 3]), (5, ok)]),
            Some(scramble::caching(&word, &other)),
        ),
        (
            "ed25519",
            packets(&[(2, &switch(plugin::ED25519, &long)), (4, ok)]),
            Some(scramble::ed25519(&word, &long)),
        ),
    ] {
        let (end, written) = against(&mysql_8(), &client, settings(TlsMode::Disable), &input, &VERIFIED);
        assert_eq!(end, Ok(()), "{name}");
        if let Some(last) = last {
            assert!(written.ends_with(&packets(&[(3, &last)])), "{name}: {}", written.escape_ascii());
        }
    }
    // A server that has to see the password: inside of TLS, or under a key that is known.
    let input = packets(&[(3, &[1, 4]), (5, ok)]);
    let (end, written) = against(&mysql_8(), &client, settings(TlsMode::Verify), &input, &VERIFIED);
    assert!(end.is_ok() && written.ends_with(&packets(&[(4, b"canary\0")])), "{}", written.escape_ascii());
    let request = [&(MODERN | flag::SSL).to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23]].concat();
    assert!(written.starts_with(&[&packets(&[(1, &request)])[..], b"<TLS>"].concat()));
    let pinned = Settings {
        key: Some(ServerKey::from_pem(pem(&key).as_bytes()).unwrap()),
        ..settings(TlsMode::Disable)
    };
    let input = packets(&[(2, &[1, 4]), (4, ok)]);
    let (end, written) = against(&mysql_8(), &client, pinned, &input, &VERIFIED);
    assert_eq!(end, Ok(()));
    assert_eq!(decrypted(&key, &written[written.len() - 256..]), b"canary\0");
}

#[test]
fn a_hostile_server_gets_no_password() {
    let client = parsed(MODERN);
    let no_tls = Greeting::parse(&greeting("8", (ALL | 1) & !flag::SSL, 0, plugin::CACHING)).unwrap();
    let full = |sequence: u8| packets(&[(sequence, &[1, 4])]);
    let switch = |name: &[u8]| packets(&[(2, &[&[0xfe], name, &[0], &SCRAMBLE[..], &[0]].concat())]);
    let (plain, require, verify) = (TlsMode::Disable, TlsMode::Require, TlsMode::Verify);
    let named = |name: &str| Refused::Plugin(name.to_owned());
    for (name, greeting, tls, facts, input, refused) in [
        ("no TLS", &no_tls, verify, VERIFIED, vec![], Refused::NoTls),
        ("no TLS", &no_tls, require, VERIFIED, vec![], Refused::NoTls),
        ("not verified", &mysql_8(), verify, UNVERIFIED, vec![], Refused::NotVerified),
        ("full without TLS", &mysql_8(), plain, VERIFIED, full(2), Refused::FullAuthentication),
        ("full in TLS of an attacker", &mysql_8(), require, UNVERIFIED, full(3), Refused::FullAuthentication),
        (
            "a key that the server sends",
            &mysql_8(),
            plain,
            VERIFIED,
            packets(&[(2, b"\x01-----BEGIN PUBLIC KEY-----")]),
            Refused::Malformed(1),
        ),
        (
            "clear",
            &mysql_8(),
            plain,
            VERIFIED,
            switch(b"mysql_clear_password"),
            named("mysql_clear_password"),
        ),
        (
            "clear in TLS",
            &mysql_8(),
            require,
            VERIFIED,
            packets(&[(3, b"\xfemysql_clear_password\0")]),
            named("mysql_clear_password"),
        ),
        ("dialog", &mysql_8(), plain, VERIFIED, switch(b"dialog"), named("dialog")),
        ("a name with an escape", &mysql_8(), plain, VERIFIED, switch(b"\x1b[31m"), named("\\u{1b}[31m")),
        (
            "of a time before 4.1",
            &mysql_8(),
            plain,
            VERIFIED,
            packets(&[(2, &[0xfe])]),
            named("mysql_old_password"),
        ),
        (
            "a short scramble",
            &mysql_8(),
            plain,
            VERIFIED,
            packets(&[(2, b"\xfemysql_native_password\0short\0")]),
            Refused::Malformed(0xfe),
        ),
        (
            "two switches",
            &mysql_8(),
            plain,
            VERIFIED,
            [switch(plugin::NATIVE), packets(&[(4, b"\xfe")])].concat(),
            Refused::Unexpected(0xfe),
        ),
        (
            "more for native",
            &mysql_8(),
            plain,
            VERIFIED,
            [switch(plugin::NATIVE), full(4)].concat(),
            Refused::Unexpected(1),
        ),
        (
            "full twice",
            &mysql_8(),
            plain,
            VERIFIED,
            packets(&[(2, &[1, 3]), (3, &[1, 4])]),
            Refused::Unexpected(1),
        ),
        (
            "a second factor",
            &mysql_8(),
            plain,
            VERIFIED,
            packets(&[(2, b"\x02dialog\0")]),
            Refused::Unexpected(2),
        ),
        ("nothing", &mysql_8(), plain, VERIFIED, packets(&[(2, b"")]), Refused::Malformed(0)),
        (
            "16 MiB",
            &mysql_8(),
            plain,
            VERIFIED,
            vec![0xff, 0xff, 0xff, 2],
            Refused::Packet(BadPacket::Length(0xff_ffff)),
        ),
        (
            "out of order",
            &mysql_8(),
            plain,
            VERIFIED,
            vec![1, 0, 0, 9],
            Refused::Packet(BadPacket::Sequence { expected: 2, got: 9 }),
        ),
    ] {
        let (end, written) = against(greeting, &client, settings(tls), &input, &facts);
        assert_eq!(end, Err(refused), "{name}");
        assert!(!written.windows(6).any(|window| window == b"canary"), "{name}");
    }
}

#[test]
fn errors_of_the_server_reach_the_client_and_have_a_state() {
    let error = b"\xff\x15\x04#28000Access denied\x1b for user";
    let (end, _) =
        against(&mariadb(), &parsed(MODERN), settings(TlsMode::Disable), &packets(&[(2, error)]), &VERIFIED);
    let Err(Refused::Server(told)) = end else { panic!("{end:?}") };
    assert_eq!(
        (told.code(), told.state(), told.message()),
        (1045, Some("28000"), "Access denied\\u{1b} for user")
    );
    let login = || {
        serve(&mariadb(), LocalTls::Absent, &packets(&[(1, &response(MODERN, plugin::NATIVE, b""))]), 9)
            .0
            .unwrap()
            .unwrap()
    };
    assert_eq!(login().pass_on(&told).as_ref(), packets(&[(2, error)]));
    // Before its greeting, a server leaves the state out.
    let mut greeter = Greeter::new();
    let mut early = &packets(&[(0, b"\xff\x10\x04Too many connections")])[..];
    let told = loop {
        match greeter.step() {
            Ok(Step::Read(most)) => {
                let (taken, rest) = early.split_at(most);
                early = rest;
                greeter.feed(taken).unwrap();
            }
            Err(Refused::Server(told)) => break told,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((told.code(), told.state()), (1040, None));
    assert_eq!(login().pass_on(&told).as_ref(), packets(&[(2, b"\xff\x10\x04#08004Too many connections")]));
    let refused = Explanation::new(Reason::Refused, "no rule").with_remedy("Ask.");
    assert_eq!(login().refuse(&refused).as_ref(), packets(&[(2, b"\xff\x15\x04#28000no rule. Ask.")]));
    let ended = explain(&Explanation::new(Reason::Ended, "the lease ended"), 1);
    assert_eq!(ended.as_ref(), packets(&[(1, b"\xff\x87\x07#70100the lease ended")]));
}

fn pieces() -> impl Strategy<Value = usize> {
    1..12_usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn pieces_change_nothing_and_any_bytes_end_in_a_reason(
        honest in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        noise in prop::collection::vec(any::<u8>(), 0..40),
        piece in pieces(),
    ) {
        let switch = [&[0xfe], plugin::NATIVE, &[0], &SCRAMBLE[..], &[0]].concat();
        let mut input = match honest {
            0 => packets(&[(1, &response(MODERN, plugin::NATIVE, b""))]),
            1 => packets(&[(1, &response(MODERN, plugin::CACHING, &[1; 32])), (3, &[2; 32])]),
            2 => packets(&[(2, &switch), (4, &[0; 7])]),
            _ => packets(&[(2, &[1, 4]), (4, &[0; 7])]),
        };
        for (at, byte) in changes {
            let at = at.index(input.len());
            input[at] = byte;
        }
        input.extend(noise);
        let served = |piece| format!("{:?}", serve(&mariadb(), LocalTls::Offered, &input, piece));
        prop_assert_eq!(served(piece), served(usize::MAX));
        let client = parsed(MODERN);
        let login = |piece| format!("{:?}", cut(&mysql_8(), &client, settings(TlsMode::Disable), &input, &VERIFIED, piece));
        prop_assert_eq!(login(piece), login(usize::MAX));
    }

    #[test]
    fn any_payload_is_parsed_or_refused(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Greeting::parse(&payload);
        let _ = Response::parse(&payload, &mysql_8());
        let _ = ServerError::parse(&payload);
    }
}
