//! Runs the logins of databases on bytes of a hostile client or server, whole and cut into pieces.

use std::fmt::Debug;

use database_wire::{
    ClearPassword, LocalTls, Machine, Password, Step, TlsFacts, TlsMode,
    mysql::{self, Greeter, Greeting},
    postgres::{self, Ask, Method, Nonce, Startup, Version},
    redis::{self, Credentials, Piece, Session},
};

/// The most that a machine may ask for in one step: a response to MySQL's greeting.
const MOST: usize = 72 * 1024;
/// The password that the client has, and the server's own client must not see.
const CANARY: &str = "canary-of-the-lease";

fn password() -> Password {
    Password::new(CANARY.into()).unwrap()
}

/// What became of a machine, what it wrote, and what it left unread. A refusal may come before the bytes that
/// were asked for are there, or after.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    end: String,
    written: Vec<u8>,
    unread: usize,
}

/// Feeds a machine pieces of this length; TLS that it begins is verified. Returns its answer too.
fn run<M: Machine>(machine: &mut M, input: &[u8], piece: usize) -> (Run, Option<M::Answer>)
where
    M::Answer: Debug,
{
    let (mut input, mut written) = (input, Vec::new());
    let facts = TlsFacts { verified: true, certificate: None };
    let (end, answer) = loop {
        let step = match machine.step() {
            Ok(Step::Read(_)) if input.is_empty() => break ("waits".to_owned(), None),
            Ok(Step::Read(most)) => {
                assert!((1..=MOST).contains(&most), "{most} bytes are asked for");
                let (taken, rest) = input.split_at(most.min(piece).min(input.len()));
                input = rest;
                machine.feed(taken)
            }
            Ok(Step::Write(bytes)) => {
                written.extend_from_slice(bytes.as_ref());
                Ok(())
            }
            Ok(Step::StartTls) => machine.tls_started(facts),
            Ok(Step::Ready(answer)) => break (format!("{answer:?}"), Some(answer)),
            Err(refused) => Err(refused),
        };
        if let Err(refused) = step {
            break (format!("{refused:?}"), None);
        }
    };
    let unread = if answer.is_some() { input.len() } else { 0 };
    (Run { end, written, unread }, answer)
}

/// However the bytes are cut, all is the same.
fn whole_or_cut<M: Machine>(make: impl Fn() -> M, input: &[u8]) -> (Run, Option<M::Answer>)
where
    M::Answer: Debug,
{
    let whole = run(&mut make(), input, usize::MAX);
    assert_eq!(run(&mut make(), input, 1).0, whole.0);
    whole
}

fn holds_no_password(written: &[u8]) {
    assert!(!written.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
}

/// Bytes of a client of PostgreSQL, which is let in, or asked for a password.
pub fn postgres_server(bytes: &[u8]) {
    let methods = [Method::Cleartext, Method::Md5([1, 2, 3, 4]), Method::Scram(Nonce::new([1; 18]))];
    let asks = methods.map(|method| Ask::Password { password: password(), method });
    for ask in [Ask::Nothing].into_iter().chain(asks) {
        let (ran, opening) = whole_or_cut(|| postgres::Server::new(LocalTls::Offered, ask.clone()), bytes);
        holds_no_password(&ran.written);
        if let Some(postgres::Opening::Login(login)) = opening {
            let ours = login.startup().for_login("v-lease", "orders").unwrap();
            assert_eq!(ours.user(), Some(&b"v-lease"[..]));
            assert!(ours.get("database").is_some_and(|name| !name.is_empty()));
        }
    }
}

/// Bytes of a server of PostgreSQL. Without TLS it does not get the password.
pub fn postgres_client(bytes: &[u8]) {
    for tls in [TlsMode::Disable, TlsMode::Verify] {
        let settings = postgres::Settings {
            startup: Startup::new(Version::V3_0, "v-lease", "orders").unwrap(),
            password: Some(password()),
            tls,
            clear: ClearPassword::OverVerifiedTls,
            nonce: Nonce::new([1; 18]),
        };
        let (ran, session) = whole_or_cut(|| postgres::Client::new(settings.clone()), bytes);
        if tls == TlsMode::Disable {
            holds_no_password(&ran.written);
        }
        if let Some(session) = session {
            assert!(session.greeting().len() <= 64 * 1024 && session.greeting().contains(&b'Z'));
        }
    }
}

/// Bytes of a client of MySQL, under a greeting that is as real as possible.
pub fn mysql_server(bytes: &[u8]) {
    let (ran, _) = whole_or_cut(|| mysql::Server::new(&Greeting::without_server(), LocalTls::Offered), bytes);
    holds_no_password(&ran.written);
}

/// Bytes of a server of MySQL, its greeting first. Without TLS it does not get the password.
pub fn mysql_client(bytes: &[u8]) {
    let response = b"\x01\x82\x38\x00\0\0\0\x01\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0alice\0\0mysql_native_password\0\0";
    let packet = [&[u8::try_from(response.len()).unwrap(), 0, 0, 1], &response[..]].concat();
    let mut server = mysql::Server::new(&Greeting::without_server(), LocalTls::Absent);
    let (ran, login) = run(&mut server, &packet, usize::MAX);
    let login = login.unwrap_or_else(|| panic!("{}", ran.end));
    let (greeted, _) = whole_or_cut(Greeter::new, bytes);
    let rest = &bytes[bytes.len() - greeted.unread..];
    for tls in [TlsMode::Disable, TlsMode::Verify] {
        let make = || {
            let (_, greeted) = run(&mut Greeter::new(), bytes, usize::MAX);
            greeted.map(|greeted| {
                let settings = mysql::Settings {
                    user: "v-lease".to_owned(),
                    password: Some(password()),
                    database: None,
                    tls,
                    clear: ClearPassword::OverVerifiedTls,
                    key: None,
                };
                greeted.log_in(login.response(), settings)
            })
        };
        if make().is_none() {
            return;
        }
        let (ran, _) = whole_or_cut(|| make().unwrap(), rest);
        if tls == TlsMode::Disable {
            holds_no_password(&ran.written);
        }
    }
}

/// What a server gets for these bytes of a client of Redis.
fn passed(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut session = Session::new(Credentials::new(Some("v-lease"), password()));
    let mut out = Vec::new();
    for mut input in bytes.chunks(piece) {
        loop {
            match session.next(&mut input) {
                Ok(Some(Piece::Pass(bytes))) => out.extend_from_slice(bytes),
                Ok(Some(Piece::Instead(bytes))) => out.extend_from_slice(bytes.as_ref()),
                Ok(None) => break,
                Err(_) => return (out, true),
            }
        }
        assert!(input.is_empty(), "all is taken, or nothing goes on");
    }
    (out, false)
}

/// Bytes of a client of Redis. What has no credentials passes as it is.
pub fn redis_session(bytes: &[u8]) {
    let (whole, is_broken) = passed(bytes, usize::MAX);
    let (cut, is_broken_too) = passed(bytes, 1);
    assert_eq!(is_broken, is_broken_too);
    if is_broken {
        return;
    }
    assert_eq!(whole, cut);
    let lower = bytes.to_ascii_lowercase();
    let names = |name: &[u8]| lower.windows(name.len()).any(|window| window == name);
    // An escape in an inline command may spell a name otherwise.
    if !names(b"auth") && !bytes.contains(&b'\\') && !bytes.contains(&b'"') && !bytes.contains(&b'\'') {
        assert!(bytes.starts_with(&whole), "what is passed is what came");
    }
}

/// Bytes of a server of Redis.
pub fn redis_client(bytes: &[u8]) {
    let credentials = Credentials::new(Some("v-lease"), password());
    let (ran, answer) = whole_or_cut(|| redis::Client::new(credentials.clone(), TlsMode::Disable), bytes);
    if answer.is_some() {
        assert!(bytes.starts_with(b"+") && bytes[..bytes.len() - ran.unread].ends_with(b"\r\n"));
    }
}
