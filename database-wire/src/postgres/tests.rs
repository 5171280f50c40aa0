//! Has the two machines talk to each other and to hostile peers, with the stream cut anywhere.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::{
    ClearPassword, Explanation, LocalTls, Machine, Outgoing, Password, Reason, Step, TlsFacts, TlsMode,
};

/// What became of a machine that was fed.
#[derive(Debug)]
enum End<M: Machine> {
    Ready(M::Answer),
    Refused(M::Refusal),
    /// It waits for more.
    Waits,
}

const VERIFIED: TlsFacts<'_> = TlsFacts { verified: true, certificate: None };

/// Feeds a machine pieces of at most these lengths, in turn, and returns its end, what it wrote and what it
/// did not read.
fn run<M: Machine>(
    machine: &mut M,
    input: &[u8],
    pieces: &[usize],
    facts: &TlsFacts<'_>,
) -> (End<M>, Vec<u8>, usize) {
    let (mut input, mut written) = (input, Vec::new());
    let mut pieces = pieces.iter().copied().cycle();
    let end = loop {
        let refused = match machine.step() {
            Ok(Step::Read(most)) => {
                assert!((1..=LONGEST_MESSAGE + 1).contains(&most), "{most} bytes are asked for");
                if input.is_empty() {
                    break End::Waits;
                }
                let (piece, rest) = input.split_at(most.min(pieces.next().unwrap_or(1)).min(input.len()));
                input = rest;
                machine.feed(piece)
            }
            Ok(Step::Write(bytes)) => {
                written.extend_from_slice(bytes.as_ref());
                Ok(())
            }
            Ok(Step::StartTls) => {
                written.extend_from_slice(b"<TLS>");
                machine.tls_started(*facts)
            }
            Ok(Step::Ready(answer)) => break End::Ready(answer),
            Err(refused) => Err(refused),
        };
        if let Err(refused) = refused {
            break End::Refused(refused);
        }
    };
    (end, written, input.len())
}

fn serve(input: &[u8]) -> (End<Server>, Vec<u8>, usize) {
    run(&mut Server::new(LocalTls::Offered, Ask::Nothing), input, &[usize::MAX], &VERIFIED)
}

fn password(text: &str) -> Password {
    Password::new(text.into()).unwrap()
}

fn settings(tls: TlsMode) -> Settings {
    Settings {
        startup: Startup::new(Version::V3_0, "v-lease", "orders").unwrap(),
        password: Some(password("canary")),
        tls,
        clear: ClearPassword::OverVerifiedTls,
        nonce: Nonce::new([1; 18]),
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    message::Writer::new().message(kind, &[body]).finish().as_ref().to_vec()
}

fn request(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), rest].concat())
}

fn greeting() -> Vec<u8> {
    let status = message(b'S', b"server_version\x0015.18\0");
    [status, message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]), message(b'Z', b"I")].concat()
}

fn session(input: &[u8]) -> Session {
    let input = [&request(0, &[]), input].concat();
    match run(&mut Client::new(settings(TlsMode::Disable)), &input, &[usize::MAX], &VERIFIED).0 {
        End::Ready(session) => session,
        other => panic!("{other:?}"),
    }
}

const SSL: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

fn startup(version: [u16; 2], parameters: &[u8]) -> Vec<u8> {
    let [major, minor] = version;
    message(0, &[&major.to_be_bytes()[..], &minor.to_be_bytes(), parameters].concat())
}

#[test]
fn a_client_is_served_whatever_it_asks_for_first() {
    let begin = startup([3, 0], b"user\0alice\0application_name\0psql\0\0");
    for (name, first, answered) in [
        ("nothing", vec![], &b""[..]),
        ("TLS", SSL.to_vec(), b"S<TLS>"),
        ("GSS", GSS.to_vec(), b"N"),
        ("GSS, then TLS", [GSS, SSL].concat(), b"NS<TLS>"),
    ] {
        let input = [&first[..], &begin, b"Q..."].concat();
        let (end, written, unread) = serve(&input);
        let End::Ready(Opening::Login(login)) = end else { panic!("{name}: {end:?}") };
        assert_eq!((&written[..], unread), (answered, 4), "{name}: what follows is not ours");
        assert_eq!(login.startup().user(), Some(&b"alice"[..]));
        assert_eq!(login.startup().get("application_name"), Some(&b"psql"[..]));
        let session = session(&greeting());
        assert_eq!(session.key().unwrap().process(), 7);
        let answer = login.accept(&session);
        assert_eq!(answer.as_ref(), [request(0, &[]), greeting()].concat(), "{name}");
    }
    let mut without = Server::new(LocalTls::Absent, Ask::Nothing);
    let (end, written, _) = run(&mut without, &[&SSL[..], &GSS, &begin].concat(), &[3], &VERIFIED);
    assert!(matches!(end, End::Ready(Opening::Login(_))), "{end:?}");
    assert_eq!(written, b"NN");
}

#[test]
fn what_postgresql_refuses_is_refused_in_its_words() {
    let long = [b"user\0a\0".to_vec(), b"x\0y\0".repeat(MOST_PARAMETERS), vec![0]].concat();
    for (name, input, code, sentence) in [
        (
            "TLS twice",
            [SSL, SSL].concat(),
            "0A000",
            "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2",
        ),
        (
            "GSS twice",
            [GSS, GSS].concat(),
            "0A000",
            "unsupported frontend protocol 1234.5680: server supports 3.0 to 3.2",
        ),
        (
            "GSS in TLS",
            [SSL, GSS].concat(),
            "0A000",
            "unsupported frontend protocol 1234.5680: server supports 3.0 to 3.2",
        ),
        (
            "version 2",
            startup([2, 0], b""),
            "0A000",
            "unsupported frontend protocol 2.0: server supports 3.0 to 3.2",
        ),
        (
            "version 4",
            startup([4, 0], b"\0"),
            "0A000",
            "unsupported frontend protocol 4.0: server supports 3.0 to 3.2",
        ),
        (
            "no end",
            startup([3, 0], b"user\0a\0"),
            "08P01",
            "invalid startup packet layout: expected terminator as last byte",
        ),
        (
            "goes on",
            startup([3, 0], b"user\0a\0\0x"),
            "08P01",
            "invalid startup packet layout: expected terminator as last byte",
        ),
        ("many", startup([3, 0], &long), "08P01", "the startup packet has more than 128 parameters"),
        (
            "short",
            vec![0, 0, 0, 3],
            "08P01",
            "invalid length of startup packet or answer: a message of 3 bytes is announced, which no login needs",
        ),
        (
            "huge",
            vec![0x40, 0, 0, 0],
            "08P01",
            "invalid length of startup packet or answer: a message of 1073741824 bytes is announced, which no login needs",
        ),
        (
            "key",
            message(0, &[4, 210, 22, 46, 0, 0, 0, 7, 1, 2, 3]),
            "08P01",
            "invalid length of cancel request packet",
        ),
    ] {
        let End::Refused(refused) = serve(&input).0 else { panic!("{name} is not refused") };
        let error = refused.to_message();
        let told = format!("SFATAL\0VFATAL\0C{code}\0M{sentence}\0\0");
        assert_eq!(
            error.as_ref().escape_ascii().to_string(),
            message(b'E', told.as_bytes()).escape_ascii().to_string(),
            "{name}"
        );
    }
}

#[test]
fn a_lease_takes_the_place_of_the_user_and_nothing_else() {
    let parse = |parameters: &[u8]| match serve(&startup([3, 2], parameters)).0 {
        End::Ready(Opening::Login(login)) => login.startup().for_login("v-lease", "orders").unwrap(),
        other => panic!("{other:?}"),
    };
    for (client, server) in [
        (&b"\0"[..], &b"user\0v-lease\0database\0orders\0\0"[..]),
        // libpq names the user as the database where its own user named none.
        (b"user\0alice\0database\0alice\0\0", b"user\0v-lease\0database\0orders\0\0"),
        (b"user\0alice\0database\0other\0\0", b"user\0v-lease\0database\0other\0\0"),
        (
            b"user\0alice\0options\0-csearch_path=x\\ y\0client_encoding\0LATIN1\0n\xe4me\0\xff\0replication\0database\0_pq_.x\0\0\0",
            b"user\0v-lease\0database\0orders\0options\0-csearch_path=x\\ y\0client_encoding\0LATIN1\0n\xe4me\0\xff\0replication\0database\0_pq_.x\0\0\0",
        ),
    ] {
        assert_eq!(parse(client).to_message().as_ref(), startup([3, 2], server));
    }
    assert_eq!(Startup::new(Version::V3_0, "a\0b", "c"), Err(ZeroByte));
}

#[test]
fn a_request_to_cancel_is_compared_and_passed_on() {
    let key = |secret: &[u8]| match serve(&message(0, &[&[4, 210, 22, 46, 0, 0, 0, 7], secret].concat())).0 {
        End::Ready(Opening::Cancel(key)) => key,
        other => panic!("{other:?}"),
    };
    let session = session(&greeting());
    let known = session.key().unwrap();
    assert!(key(&[1, 2, 3, 4]).is(known) && !key(&[1, 2, 3, 5]).is(known) && !key(&[1; 32]).is(known));
    assert_eq!(format!("{known:?}"), "CancelKey(process 7)");
    let mut client = Client::cancel(key(&[9; 32]), TlsMode::Verify);
    let (end, written, _) = run(&mut client, b"S", &[1], &VERIFIED);
    assert!(matches!(end, End::Ready(_)));
    let request = message(0, &[&[4, 210, 22, 46, 0, 0, 0, 7][..], &[9; 32]].concat());
    assert_eq!(written, [&SSL[..], b"<TLS>", &request].concat());
}

/// What a server of these bytes gets, and why the client ends.
fn against(settings: Settings, input: &[u8], facts: &TlsFacts<'_>) -> (Result<(), Refused>, Vec<u8>) {
    let (end, written, _) = run(&mut Client::new(settings), input, &[usize::MAX], facts);
    match end {
        End::Ready(_) => (Ok(()), written),
        End::Refused(refused) => (Err(refused), written),
        End::Waits => panic!("it waits after {}", written.escape_ascii()),
    }
}

#[test]
fn a_hostile_server_gets_no_password() {
    let unverified = TlsFacts { verified: false, certificate: None };
    let scram = request(10, b"SCRAM-SHA-256\0\0");
    let first = request(11, b"r=AQEBAQEBAQEBAQEBAQEBAQEBAQEBx,s=AAAA,i=4096");
    let clear = request(3, &[]);
    let (plain, require, verify) = (TlsMode::Disable, TlsMode::Require, TlsMode::Verify);
    let cases: Vec<(&str, TlsMode, Vec<u8>, TlsFacts<'_>, Refused)> = vec![
        ("no TLS", require, b"N".to_vec(), VERIFIED, Refused::NoTls),
        ("no TLS, verified", verify, b"N".to_vec(), VERIFIED, Refused::NoTls),
        ("an error for TLS", verify, b"E\0\0\0\x10".to_vec(), VERIFIED, Refused::TlsAnswer(b'E')),
        ("a certificate that is not verified", verify, b"S".to_vec(), unverified, Refused::NotVerified),
        ("clear without TLS", plain, clear.clone(), VERIFIED, Refused::ClearPassword),
        (
            "clear in TLS of an attacker",
            require,
            [b"S", &clear[..]].concat(),
            unverified,
            Refused::ClearPassword,
        ),
        (
            "permission instead of a proof",
            plain,
            [&scram[..], &request(0, &[])].concat(),
            VERIFIED,
            Refused::Unproven,
        ),
        (
            "permission before the proof",
            plain,
            [&scram[..], &first, &request(0, &[])].concat(),
            VERIFIED,
            Refused::Unproven,
        ),
        (
            "a wrong proof",
            plain,
            [&scram[..], &first, &request(12, b"v=AAAA")].concat(),
            VERIFIED,
            Refused::Scram(ScramError::ServerProof),
        ),
        (
            "a second question",
            plain,
            [request(5, &[0; 4]), clear.clone()].concat(),
            VERIFIED,
            Refused::Unexpected(b'R'),
        ),
        ("Kerberos", plain, request(7, &[]), VERIFIED, Refused::Method(7)),
        ("another mechanism", plain, request(10, b"OAUTHBEARER\0\0"), VERIFIED, Refused::Mechanism),
        ("a list without an end", plain, request(10, b"SCRAM-SHA-256"), VERIFIED, Refused::Malformed(b'R')),
        ("a short salt", plain, request(5, &[0; 3]), VERIFIED, Refused::Malformed(b'R')),
        ("a result before the login", plain, message(b'D', &[0, 0]), VERIFIED, Refused::Unexpected(b'D')),
        (
            "COPY after the permission",
            plain,
            [request(0, &[]), message(b'G', &[0])].concat(),
            VERIFIED,
            Refused::Unexpected(b'G'),
        ),
        (
            "a length of 1 GiB",
            plain,
            b"R\x40\0\0\0".to_vec(),
            VERIFIED,
            Refused::Length(message::Length(1 << 30)),
        ),
        (
            "a length of nothing",
            plain,
            b"R\0\0\0\x03".to_vec(),
            VERIFIED,
            Refused::Length(message::Length(3)),
        ),
        (
            "a key without a secret",
            plain,
            [request(0, &[]), message(b'K', &[0; 4])].concat(),
            VERIFIED,
            Refused::Malformed(b'K'),
        ),
        ("an error without an end", plain, message(b'E', b"Mx\0"), VERIFIED, Refused::Malformed(b'E')),
    ];
    for (name, tls, input, facts, refused) in cases {
        let (outcome, written) = against(settings(tls), &input, &facts);
        assert_eq!(outcome, Err(refused), "{name}");
        assert!(!written.windows(6).any(|window| window == b"canary"), "{name}: {}", written.escape_ascii());
    }
    let notices = message(b'N', &[0; 20_000]).repeat(4);
    assert_eq!(against(settings(plain), &notices, &VERIFIED).0, Err(Refused::Greeting));
    let without = Settings { password: None, ..settings(plain) };
    assert_eq!(against(without, &request(5, &[0; 4]), &VERIFIED).0, Err(Refused::NoPassword));
    let never = Settings { clear: ClearPassword::Never, ..settings(verify) };
    assert_eq!(against(never, &[b"S", &clear[..]].concat(), &VERIFIED).0, Err(Refused::ClearPassword));
    let any = Settings { clear: ClearPassword::DangerouslyOverAnyTls, ..settings(require) };
    let input = [b"S", &clear[..], &request(0, &[]), &greeting()].concat();
    let (outcome, written) = against(any, &input, &unverified);
    assert!(outcome.is_ok() && written.ends_with(b"p\0\0\0\x0bcanary\0"));
}

#[test]
fn the_answer_for_md5_is_postgresqls() {
    let mut login = settings(TlsMode::Disable);
    login.startup = Startup::new(Version::V3_0, "user", "db").unwrap();
    login.password = Some(password("pencil"));
    let input = [request(5, &[1, 2, 3, 4]), request(0, &[]), greeting()].concat();
    let (outcome, written) = against(login, &input, &VERIFIED);
    assert!(outcome.is_ok());
    // By hashlib of Python, as the manual has it: md5(md5(password user) salt).
    assert!(
        written.ends_with(b"p\0\0\0\x28md54376eb6913b38f9aaff38dc7cf19ca76\0"),
        "{}",
        written.escape_ascii()
    );
}

#[test]
fn the_servers_own_error_and_version_reach_the_client() {
    let error = message(b'E', b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients\x1b[31m\0Htry later\0\0");
    let negotiation = message(b'v', b"\0\0\0\0\0\0\0\x01_pq_.x\0");
    let End::Refused(Refused::Server(told)) =
        run(&mut Client::new(settings(TlsMode::Disable)), &error, &[1], &VERIFIED).0
    else {
        panic!("no error");
    };
    assert_eq!((told.code(), told.hint()), ("53300", Some("try later")));
    assert_eq!(told.message(), "sorry, too many clients\\u{1b}[31m");
    let login = || match serve(&startup([3, 9999], b"user\0a\0_pq_.x\0\0\0")).0 {
        End::Ready(Opening::Login(login)) => login,
        other => panic!("{other:?}"),
    };
    assert_eq!(login().pass_on(&told).as_ref(), error);
    let input = [&negotiation[..], &message(b'N', b"\0"), &request(0, &[]), &greeting()].concat();
    let End::Ready(session) = run(&mut Client::new(settings(TlsMode::Disable)), &input, &[1], &VERIFIED).0
    else {
        panic!("no session");
    };
    let answer = [&negotiation[..], &request(0, &[]), &message(b'N', b"\0"), &greeting()].concat();
    assert_eq!(login().accept(&session).as_ref(), answer);
}

#[test]
fn an_explanation_is_one_error_with_a_hint() {
    let refused =
        Explanation::new(Reason::Refused, "no rule lets\nyou reach orders:5432\0").with_remedy("ask");
    let told = b"SFATAL\0VFATAL\0C28000\0Mno rule lets you reach orders:5432\\0\0Hask\0\0";
    assert_eq!(explain(&refused).as_ref(), message(b'E', told));
}

/// Has both machines talk, and returns how each ended.
fn talk(
    server: &mut Server,
    client: &mut Client,
    pieces: &[usize],
    facts: &TlsFacts<'_>,
) -> (Option<Result<(), ServerRefused>>, Result<(), Refused>) {
    let (mut up, mut down) = (VecDeque::new(), VecDeque::new());
    let mut pieces = pieces.iter().copied().cycle();
    let mut piece = |queue: &mut VecDeque<u8>, most: usize| {
        let length = most.min(pieces.next().unwrap_or(1)).min(queue.len());
        queue.drain(..length).collect::<Vec<u8>>()
    };
    let (mut served, mut login) = (None, None);
    loop {
        let before = (up.len(), down.len());
        while served.is_none() {
            match server.step() {
                Ok(Step::Read(_)) if up.is_empty() => break,
                Ok(Step::Read(most)) => server.feed(&piece(&mut up, most)).unwrap(),
                Ok(Step::Write(bytes)) => down.extend(bytes.as_ref()),
                Ok(Step::StartTls) => server.tls_started(*facts).unwrap(),
                Ok(Step::Ready(Opening::Login(opened))) => {
                    down.extend(opened.accept(&session(&greeting())).as_ref());
                    served = Some(Ok(()));
                }
                Ok(Step::Ready(Opening::Cancel(_))) => panic!("no login"),
                Err(refused) => {
                    down.extend(refused.to_message().as_ref());
                    served = Some(Err(refused));
                }
            }
        }
        while login.is_none() {
            match client.step() {
                Ok(Step::Read(_)) if down.is_empty() => break,
                Ok(Step::Read(most)) => client.feed(&piece(&mut down, most)).unwrap(),
                Ok(Step::Write(bytes)) => up.extend(bytes.as_ref()),
                Ok(Step::StartTls) => client.tls_started(*facts).unwrap(),
                Ok(Step::Ready(session)) => {
                    assert_eq!(session.greeting(), greeting());
                    login = Some(Ok(()));
                }
                Err(refused) => login = Some(Err(refused)),
            }
        }
        // A client that refuses the server is gone, and the server waits for it.
        if let Some(login) = login.as_ref().filter(|login| served.is_some() || login.is_err()) {
            return (served, login.clone());
        }
        assert_ne!(before, (up.len(), down.len()), "both wait: {served:?} {login:?}");
    }
}

fn methods() -> [Method; 3] {
    [Method::Cleartext, Method::Md5([1, 2, 3, 4]), Method::Scram(Nonce::new([9; 18]))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_machines_log_in_to_each_other(
        method in 0..4_usize,
        tls in any::<bool>(),
        bound in any::<bool>(),
        right in any::<bool>(),
        pieces in prop::collection::vec(1..40_usize, 1..8),
    ) {
        let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert;
        let facts = TlsFacts { verified: true, certificate: bound.then_some(certificate.der()) };
        let ask = match methods().get(method) {
            Some(method) => Ask::Password {
                password: password(if right { "canary" } else { "other" }),
                method: *method,
            },
            None => Ask::Nothing,
        };
        let mut client = Client::new(settings(if tls { TlsMode::Verify } else { TlsMode::Disable }));
        let mut server = Server::new(LocalTls::Offered, ask);
        let (served, login) = talk(&mut server, &mut client, &pieces, &facts);
        if method == 0 && !tls {
            prop_assert_eq!(login, Err(Refused::ClearPassword));
        } else if right || method == 3 {
            prop_assert_eq!((served, login), (Some(Ok(())), Ok(())));
        } else {
            let Err(Refused::Server(error)) = login else { panic!("{login:?}") };
            prop_assert_eq!(error.code(), "28P01");
        }
    }

    /// However the stream is cut, the same is written, read and decided.
    #[test]
    fn pieces_change_nothing(
        honest in 0..6_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        pieces in prop::collection::vec(1..9_usize, 1..6),
    ) {
        let scram = request(10, b"SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0");
        let first = request(11, b"r=AQEBAQEBAQEBAQEBAQEBAQEBAQEBx,s=AAAA,i=1");
        let mut input = match honest {
            0 => [&GSS[..], &SSL, &startup([3, 0], b"user\0alice\0database\0x\0\0"), b"Qrest"].concat(),
            1 => message(0, &[&[4, 210, 22, 46, 0, 0, 0, 7][..], &[5; 32]].concat()),
            2 => [b"S", &request(0, &[])[..], &greeting(), b"rest"].concat(),
            3 => [b"S", &scram[..], &first, &request(12, b"v=AAAA")].concat(),
            4 => [b"S", &request(5, &[1; 4])[..], &message(b'E', b"C28P01\0Mno\0\0")].concat(),
            _ => [b"S", &message(b'v', &[0; 8])[..], &request(3, &[]), &request(0, &[]), &greeting()].concat(),
        };
        for (at, byte) in changes {
            let at = at.index(input.len());
            input[at] = byte;
        }
        let server = |pieces: &[usize]| {
            format!("{:?}", run(&mut Server::new(LocalTls::Offered, Ask::Nothing), &input, pieces, &VERIFIED))
        };
        prop_assert_eq!(server(&pieces), server(&[usize::MAX]));
        let client = |pieces: &[usize]| {
            format!("{:?}", run(&mut Client::new(settings(TlsMode::Verify)), &input, pieces, &VERIFIED))
        };
        prop_assert_eq!(client(&pieces), client(&[usize::MAX]));
    }

    #[test]
    fn any_bytes_end_in_an_answer_or_a_reason(input in prop::collection::vec(any::<u8>(), 0..400)) {
        for tls in [TlsMode::Disable, TlsMode::Verify] {
            run(&mut Client::new(settings(tls)), &input, &[usize::MAX], &VERIFIED);
        }
        for method in methods() {
            let ask = Ask::Password { password: password("canary"), method };
            run(&mut Server::new(LocalTls::Offered, ask), &input, &[usize::MAX], &VERIFIED);
        }
        serve(&input);
    }

    /// A message of any announced length takes no more memory than the bound.
    #[test]
    fn memory_is_bounded(kind in any::<u8>(), length in any::<u32>(), body in prop::collection::vec(any::<u8>(), 0..64)) {
        let input = [&[kind][..], &length.to_be_bytes(), &body].concat();
        let mut client = Client::new(settings(TlsMode::Disable));
        run(&mut client, &input, &[usize::MAX], &VERIFIED);
        prop_assert!(client.held() <= LONGEST_MESSAGE + 1 + LONGEST_GREETING);
        let mut server = Server::new(LocalTls::Offered, Ask::Nothing);
        run(&mut server, &input[1..], &[usize::MAX], &VERIFIED);
        prop_assert!(server.held() <= LONGEST_STARTUP);
    }
}

#[test]
fn more_bytes_than_asked_for_are_a_defect_that_is_named() {
    let mut server = Server::new(LocalTls::Offered, Ask::Nothing);
    assert!(matches!(server.step(), Ok(Step::Read(4))));
    assert!(matches!(server.feed(&SSL), Err(ServerRefused::Unasked(_))));
    let mut bytes: Vec<Outgoing> = Vec::new();
    let (end, ..) = serve(&startup([3, 0], b"\0"));
    if let End::Ready(Opening::Login(login)) = end {
        bytes.push(login.refuse(&Explanation::new(Reason::NotReached, "no answer")));
    }
    assert!(bytes.iter().all(|bytes| bytes.as_ref().windows(6).any(|window| window == b"C08006")));
}
