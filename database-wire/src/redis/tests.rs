//! Has commands of drivers pass, cut anywhere, and hostile bytes of both sides.

use proptest::prelude::*;

use super::*;
use crate::{Explanation, Machine, Password, Reason, Step, TlsFacts, TlsMode};

fn credentials() -> Credentials {
    Credentials::new(Some("v-lease"), Password::new("canary".into()).unwrap())
}

const OURS: &[u8] = b"*3\r\n$4\r\nAUTH\r\n$7\r\nv-lease\r\n$6\r\ncanary\r\n";

/// What the server gets for these bytes, given in pieces of at most these lengths.
fn passed(input: &[u8], pieces: &[usize]) -> (Vec<u8>, Option<Malformed>) {
    let mut session = Session::new(credentials());
    let mut pieces = pieces.iter().copied().cycle();
    let (mut rest, mut out) = (input, Vec::new());
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(pieces.next().unwrap_or(1).min(rest.len()));
        rest = after;
        loop {
            match session.next(&mut piece) {
                Ok(Some(Piece::Pass(bytes))) => out.extend_from_slice(bytes),
                Ok(Some(Piece::Instead(bytes))) => out.extend_from_slice(bytes.as_ref()),
                Ok(None) => break,
                Err(malformed) => return (out, Some(malformed)),
            }
            assert!(session.held() <= 2 * LONGEST_INLINE, "{} bytes are held", session.held());
        }
        assert!(piece.is_empty(), "{} bytes are left", piece.len());
    }
    (out, None)
}

fn command(words: &[&str]) -> Vec<u8> {
    command::written(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
}

fn hello(words: &[&str]) -> Vec<u8> {
    command(&[&["HELLO"], words].concat())
}

#[test]
fn every_login_of_a_client_becomes_ours_and_all_else_stays() {
    let long = "x".repeat(100_000);
    for (client, server) in [
        (command(&["AUTH", "x"]), OURS.to_vec()),
        (command(&["auth", "alice", "x"]), OURS.to_vec()),
        (b"AUTH x\r\n".to_vec(), OURS.to_vec()),
        (b"  aUtH \"al\\x69ce\" 'it\\'s'\n".to_vec(), OURS.to_vec()),
        (
            hello(&["3", "AUTH", "alice", "x", "SETNAME", "n"]),
            hello(&["3", "AUTH", "v-lease", "canary", "SETNAME", "n"]),
        ),
        (
            hello(&["2", "SETNAME", "AUTH", "auth", "a", "b"]),
            hello(&["2", "SETNAME", "AUTH", "auth", "v-lease", "canary"]),
        ),
        (b"HELLO 3 AUTH default x\r\n".to_vec(), hello(&["3", "AUTH", "v-lease", "canary"])),
        (command(&["AUTH", &long]), OURS.to_vec()),
    ] {
        assert_eq!(
            passed(&client, &[usize::MAX]).0.escape_ascii().to_string(),
            server.escape_ascii().to_string()
        );
    }
    for unchanged in [
        command(&["GET", "AUTH"]),
        command(&["PING"]),
        command(&["HELLO"]),
        hello(&["3"]),
        hello(&["3", "AUTH", "alice"]),
        hello(&["3", "SETNAME", "AUTH"]),
        // The server says what is wrong with it.
        command(&["AUTH"]),
        command(&["AUTH", "a", "b", "c"]),
        command(&["CLIENT", "SETINFO", "LIB-NAME", "x"]),
        command(&["SET", "k", &long]),
        command(&["AUTHOR", "a"]),
        b"GET k\r\n\r\n*0\r\n*-1\r\nAUTH\r\nHELLO\n".to_vec(),
        b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n".to_vec(),
    ] {
        assert_eq!(passed(&unchanged, &[usize::MAX]), (unchanged.clone(), None));
    }
}

#[test]
fn a_session_of_drivers_passes_in_one_segment_and_byte_by_byte() {
    let session = |auth: &[u8], hello: Vec<u8>| {
        [
            &hello[..],
            auth,
            auth,
            &command(&["SELECT", "1"]),
            &command(&["CLIENT", "SETINFO", "LIB-NAME", "x"]),
            b"INFO\r\n",
            auth,
            &command(&["GET", "k"]),
        ]
        .concat()
    };
    let client = session(&command(&["AUTH", "u", "x"]), hello(&["3", "AUTH", "u", "x", "SETNAME", "n"]));
    let server = session(OURS, hello(&["3", "AUTH", "v-lease", "canary", "SETNAME", "n"]));
    assert_eq!(passed(&client, &[usize::MAX]), (server.clone(), None));
    assert_eq!(passed(&client, &[1]), (server, None));
}

#[test]
fn what_is_no_command_ends_the_session_and_what_came_before_is_passed() {
    let ping = command(&["PING"]);
    for (bytes, malformed) in [
        (&b"*x\r\n"[..], Malformed::Count),
        (b"*+1\r\n$4\r\nPING\r\n", Malformed::Count),
        (b"*2147483648\r\n", Malformed::Count),
        (b"*00000000000000000000000000000000000001\r\n", Malformed::Count),
        (b"*1\r\nPING\r\n", Malformed::Argument(b'P')),
        (b"*1\r\n$-1\r\n", Malformed::Length),
        (b"*2\r\n$3\r\nGET\r\n$9999999999999\r\n", Malformed::Length),
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", Malformed::Argument(b':')),
        (b"AUTH \"x\r\n", Malformed::Quotes),
        (b"AUTH \"x\"y\r\n", Malformed::Quotes),
        (b"*17\r\n$5\r\nHELLO\r\n", Malformed::Hello),
        (b"*2\r\n$5\r\nHELLO\r\n$16384\r\n", Malformed::Hello),
    ] {
        let (out, refused) = passed(&[&ping[..], bytes].concat(), &[usize::MAX]);
        assert_eq!(refused, Some(malformed), "{}", bytes.escape_ascii());
        assert!(out.starts_with(&ping), "{}", bytes.escape_ascii());
    }
    assert_eq!(passed(&vec![b'x'; LONGEST_INLINE + 1], &[1000]).1, Some(Malformed::Inline));
}

#[test]
fn each_command_is_refused_a_hundred_times() {
    let explanation =
        || Explanation::new(Reason::Refused, "no rule lets you reach cache:6379\r\n+OK").with_remedy("Ask.");
    let line = "-ERR no rule lets you reach cache:6379 +OK. Ask.\r\n";
    assert_eq!(explain(&explanation()).as_ref(), line.as_bytes());
    let mut refusing = Refusing::new(explanation());
    let input =
        [hello(&["3"]), command(&["AUTH", "x"]), b"\r\nPING\r\n".to_vec(), command(&["SET", "k", "v"])]
            .concat();
    let mut answers = Vec::new();
    for byte in &input {
        answers.extend_from_slice(refusing.answers(&[*byte]).unwrap().as_ref());
    }
    assert_eq!(String::from_utf8(answers).unwrap(), line.repeat(4));
    assert_eq!(refusing.answers(&b"PING\r\n".repeat(96)).unwrap().as_ref().len(), 96 * line.len());
    assert_eq!(refusing.answers(b"PING\r\n"), None);
    let mut many = Refusing::new(explanation());
    assert_eq!(many.answers(&b"PING\r\n".repeat(150)).unwrap().as_ref().len(), 100 * line.len());
    assert_eq!(many.answers(b"PING\r\n"), None);
    let mut broken = Refusing::new(explanation());
    assert_eq!(broken.answers(b"PING\r\n*x\r\nPING\r\n").unwrap().as_ref(), line.as_bytes());
    assert_eq!(broken.answers(b"PING\r\n"), None);
}

/// How a login ends at a server that says this, what was written, and what is not read.
fn login(
    input: &[u8],
    tls: TlsMode,
    verified: bool,
    piece: usize,
) -> (Option<Result<(), Refused>>, Vec<u8>, usize) {
    let mut client = Client::new(credentials(), tls);
    let (mut input, mut written) = (input, Vec::new());
    let facts = TlsFacts { verified, certificate: None };
    let end = loop {
        let refused = match client.step() {
            Ok(Step::Read(_)) if input.is_empty() => break None,
            Ok(Step::Read(most)) => {
                let (taken, rest) = input.split_at(most.min(piece).min(input.len()));
                input = rest;
                client.feed(taken)
            }
            Ok(Step::Write(bytes)) => {
                written.extend_from_slice(bytes.as_ref());
                Ok(())
            }
            Ok(Step::StartTls) => {
                written.extend_from_slice(b"<TLS>");
                client.tls_started(facts)
            }
            Ok(Step::Ready(())) => break Some(Ok(())),
            Err(refused) => Err(refused),
        };
        if let Err(refused) = refused {
            break Some(Err(refused));
        }
    };
    (end, written, input.len())
}

#[test]
fn we_log_in_or_say_why_not() {
    let plain = TlsMode::Disable;
    assert_eq!(login(b"+OK\r\n$3\r\n", plain, false, 9), (Some(Ok(())), OURS.to_vec(), 4));
    let (end, written, _) = login(b"-WRONGPASS invalid username-password pair\r\n", plain, false, 9);
    let Some(Err(Refused::Server(error))) = end else { panic!("{end:?}") };
    assert_eq!((error.code(), error.message()), ("WRONGPASS", "invalid username-password pair"));
    assert_eq!(error.to_message().as_ref(), b"-WRONGPASS invalid username-password pair\r\n");
    assert_eq!(written, OURS);
    let over_tls = [b"<TLS>", OURS].concat();
    assert_eq!(login(b"+OK\r\n", TlsMode::Require, false, 1), (Some(Ok(())), over_tls.clone(), 0));
    assert_eq!(login(b"+OK\r\n", TlsMode::Verify, true, 1), (Some(Ok(())), over_tls, 0));
    assert_eq!(
        login(b"+OK\r\n", TlsMode::Verify, false, 1),
        (Some(Err(Refused::NotVerified)), b"<TLS>".to_vec(), 5)
    );
    assert_eq!(login(b":1\r\n", plain, false, 1).0, Some(Err(Refused::Unexpected(b':'))));
    assert_eq!(login(&[b'-'; 5000], plain, false, 100).0, Some(Err(Refused::TooLong)));
    let one = Credentials::new(None, Password::new("p".into()).unwrap());
    assert_eq!(one.auth().as_ref(), b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n");
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..12_usize, 1..6)
}

/// Commands as drivers send them, or inline, or broken.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("AUTH".to_owned()),
        Just("hello".to_owned()),
        Just("3".to_owned()),
        Just("SETNAME".to_owned()),
        Just("GET".to_owned()),
        "[a-z\"' ]{0,9}",
    ];
    let words = || prop::collection::vec(word.clone(), 0..6);
    let one = prop_oneof![
        words().prop_map(|words| command(&words.iter().map(String::as_str).collect::<Vec<_>>())),
        words().prop_map(|words| (words.join(" ") + "\r\n").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(one, 0..8).prop_map(|commands| commands.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn pieces_change_nothing(stream in stream(), pieces in pieces()) {
        let (whole, cut) = (passed(&stream, &[usize::MAX]), passed(&stream, &pieces));
        prop_assert_eq!(&whole.1, &cut.1);
        // Where it ends early, whether the first bytes of the broken command went up already depends.
        if whole.1.is_none() {
            prop_assert_eq!(whole.0, cut.0);
        }
    }

    #[test]
    fn any_bytes_of_a_server_end_in_an_answer_or_a_reason(
        input in prop::collection::vec(any::<u8>(), 0..200),
        piece in 1..9_usize,
    ) {
        let input = [b"-", &input[..]].concat();
        let whole = login(&input, TlsMode::Disable, false, usize::MAX);
        prop_assert_eq!(login(&input, TlsMode::Disable, false, piece), whole);
    }
}
