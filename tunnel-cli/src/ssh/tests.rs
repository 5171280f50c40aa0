use russh::{Channel, ChannelOpenFailure};
use ssh_transport::relay::{Account, End};

use super::{
    refusal::{not_opened, reason_in, whole_reason},
    *,
};

#[test]
fn the_bastions_reason_is_found_and_cannot_hurt() {
    assert_eq!(
        reason_in("Welcome\ncertificate refused: expired: it ended 3 s ago\nmore\n").as_deref(),
        Some("expired: it ended 3 s ago")
    );
    assert_eq!(reason_in("it said: certificate refused: \u{1b}[2Jx").as_deref(), Some("\\u{1b}[2Jx"));
    assert_eq!(reason_in("Welcome"), None);
    assert_eq!(reason_in("Rules: be kind"), None);
    for (farewell, expected) in [
        ("too_many_connections: close one", "too_many_connections: close one"),
        ("certificate refused: expired: it ended", "expired: it ended"),
        ("Too many authentication failures", "Too many authentication failures"),
    ] {
        assert_eq!(whole_reason(farewell), expected);
    }
    let banner = "Welcome\naudit_stopped: it grants nothing new\n";
    assert_eq!(reason_in(banner).as_deref(), Some("audit_stopped: it grants nothing new"));
}

/// A bastion that admits every user and refuses every stream with the port in its words, the later the earlier.
struct Refusing;

impl russh::server::Handler for Refusing {
    type Error = russh::Error;

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &russh::keys::Certificate,
    ) -> Result<russh::server::Auth, russh::Error> {
        Ok(russh::server::Auth::Accept)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<russh::server::Msg>,
        _host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: russh::server::ChannelOpenHandle,
        _session: &mut russh::server::Session,
    ) -> Result<(), russh::Error> {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(u64::from(200 - port))).await;
            reply.reject(ChannelOpenFailure::Other { code: 1, reason: format!("port {port}") }).await;
        });
        Ok(())
    }
}

async fn credential() -> Credential {
    let signer = vault_signer::Local::generate(vault_signer::signer::local::Role {
        name: "any".into(),
        kind: vault_signer::Kind::User,
        principals: vec!["tunnel".into()],
        ttl: Duration::from_secs(60),
        max_ttl: Duration::from_secs(60),
    })
    .unwrap();
    let request = vault_signer::Request::forwarding("any", vec!["tunnel".into()], Duration::from_secs(60));
    Credential::generate(&signer, &request).await.unwrap()
}

/// A bastion that refuses every certificate, and tells when it has.
struct TurningAway {
    refused: Arc<tokio::sync::Notify>,
    banner: Option<&'static str>,
    instructions: Option<&'static str>,
}

impl russh::server::Handler for TurningAway {
    type Error = russh::Error;

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &russh::keys::Certificate,
    ) -> Result<russh::server::Auth, russh::Error> {
        self.refused.notify_one();
        Ok(russh::server::Auth::reject())
    }

    async fn authentication_banner(&mut self) -> Result<Option<String>, russh::Error> {
        Ok(self.banner.map(str::to_owned))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        _response: Option<russh::server::Response<'a>>,
    ) -> Result<russh::server::Auth, russh::Error> {
        Ok(match self.instructions {
            None => russh::server::Auth::reject(),
            Some(instructions) => russh::server::Auth::Partial {
                name: "".into(),
                instructions: instructions.into(),
                prompts: (&[]).into(),
            },
        })
    }
}

/// Why a login is refused by a bastion that greets with `banner`, answers who asks on with `instructions`, and ends the
/// connection with `farewell`.
async fn turned_away(
    banner: Option<&'static str>,
    instructions: Option<&'static str>,
    farewell: Option<&'static str>,
) -> Refusal {
    let host_key =
        russh::keys::PrivateKey::random(&mut rand::rng(), russh::keys::Algorithm::Ed25519).unwrap();
    let trust = Trust::Keys(vec![host_key.public_key().clone()]);
    let config = russh::server::Config {
        keys: vec![host_key],
        auth_rejection_time: Duration::ZERO,
        ..Default::default()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refused = Arc::new(tokio::sync::Notify::new());
    let handler = TurningAway { refused: Arc::clone(&refused), banner, instructions };
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let running = russh::server::run_stream(Arc::new(config), socket, handler).await.unwrap();
        let handle = running.handle();
        tokio::spawn(async move {
            refused.notified().await;
            if let Some(farewell) = farewell {
                let reason = Disconnect::NoMoreAuthMethodsAvailable;
                handle.disconnect(reason, farewell.to_owned(), "en".to_owned()).await.unwrap();
            }
        });
        let _ = running.await;
    });
    let socket = TcpStream::connect(address).await.unwrap();
    let host = "127.0.0.1".parse().unwrap();
    let credential = credential().await;
    Session::connect(socket, &trust, &host, "tunnel", &credential).await.err().unwrap()
}

#[tokio::test]
async fn what_a_bastion_says_as_it_refuses_is_heard() {
    let many = "too_many_connections: this key has as many connections as it may have";
    let expired = "certificate refused: expired: it ended";
    for (banner, instructions, farewell, expected) in [
        (None, None, Some(many), Some(many)),
        (None, None, Some(expired), Some("expired: it ended")),
        (Some("Welcome"), None, Some("Too many failures"), Some("Too many failures")),
        (Some("Welcome\ncertificate refused: expired: it ended"), None, None, Some("expired: it ended")),
        (Some("Welcome"), Some(expired), None, Some("expired: it ended")),
        (None, Some("no_valid_certificate: a key\r\nalone"), None, Some("no_valid_certificate: a key alone")),
        (Some("Welcome"), None, None, None),
    ] {
        let refusal = turned_away(banner, instructions, farewell).await;
        assert!(
            matches!(&refusal, Refusal::Certificate(why) if why.as_deref() == expected),
            "{banner:?} {instructions:?} {farewell:?}: {refusal:?}"
        );
    }
}

/// A session with a server of russh's.
async fn connected(
    config: russh::server::Config,
    handler: impl russh::server::Handler<Error = russh::Error> + Send + 'static,
) -> Arc<Session> {
    let key = || russh::keys::PrivateKey::random(&mut rand::rng(), russh::keys::Algorithm::Ed25519).unwrap();
    let host_key = key();
    let trust = Trust::Keys(vec![host_key.public_key().clone()]);
    let config = russh::server::Config { keys: vec![host_key], ..config };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        russh::server::run_stream(Arc::new(config), socket, handler).await.unwrap().await
    });

    let credential = credential().await;
    let socket = TcpStream::connect(address).await.unwrap();
    let host = "127.0.0.1".parse().unwrap();
    Arc::new(Session::connect(socket, &trust, &host, "tunnel", &credential).await.unwrap())
}

/// A bastion that admits every user and takes what comes on a stream.
struct Taking;

impl russh::server::Handler for Taking {
    type Error = russh::Error;

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &russh::keys::Certificate,
    ) -> Result<russh::server::Auth, russh::Error> {
        Ok(russh::server::Auth::Accept)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        mut channel: Channel<russh::server::Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: russh::server::ChannelOpenHandle,
        _session: &mut russh::server::Session,
    ) -> Result<(), russh::Error> {
        tokio::spawn(async move {
            reply.accept().await;
            while !matches!(channel.wait().await, Some(russh::ChannelMsg::Eof) | None) {}
            let _ = channel.eof().await;
            let _ = channel.close().await;
        });
        Ok(())
    }
}

#[tokio::test]
async fn keys_are_replaced_and_streams_opened_as_the_bastion_announces() {
    use tokio::io::AsyncWriteExt;
    let megabytes = 8_u64;
    let server = |said: &str| russh::server::Config {
        server_id: SshId::Standard(format!("SSH-2.0-x {said}").into()),
        limits: key_exchange::left_to_the_peer(),
        ..russh::server::Config::default()
    };
    for (said, least, paced) in
        [("rekey=1048576,3600 opens=1,1", megabytes / 2, true), ("as others do", 1, false)]
    {
        let session = connected(server(said), Taking).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = session.open(None, &"demo.internal:1".parse().unwrap(), address).await.unwrap();
        let mut program = TcpStream::connect(address).await.unwrap();
        let (local, _) = listener.accept().await.unwrap();
        let account = Account::default();
        let (written, end) = tokio::join!(
            async {
                program.write_all(&vec![7; usize::try_from(megabytes << 20).unwrap()]).await.unwrap();
                program.shutdown().await
            },
            stream.relay(local, &account, std::future::pending()),
        );
        written.unwrap();
        assert_eq!(end, (End::Finished, None), "{said}");
        let exchanges = session.exchanges();
        assert!(if least > 1 { exchanges >= least } else { exchanges == 1 }, "{said}: {exchanges}");
        let longest = Duration::from_secs(9);
        assert_eq!(session.turn(longest), Some(Duration::ZERO), "{said}");
        assert_eq!(session.turn(longest) > Some(Duration::ZERO), paced, "{said}");
        session.close().await;
    }
}

#[tokio::test]
async fn each_of_many_refusals_has_its_own_words() {
    let session = connected(russh::server::Config::default(), Refusing).await;
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let opens = (1..=100_u16).map(|port| {
        let session = Arc::clone(&session);
        async move {
            let destination = format!("demo.internal:{port}").parse().unwrap();
            let refused = session.open(None, &destination, address).await.err();
            assert_eq!(refused, Some(NotOpened::Policy(format!("port {port}"))));
        }
    });
    futures_util::future::join_all(opens).await;
    session.close().await;
    assert!(session.has_ended());
}

#[test]
fn a_foreign_server_starts_the_key_exchanges_and_gets_a_plain_window() {
    let trust = Trust::Keys(Vec::new());
    let foreign = config(&trust, None);
    assert_eq!(foreign.window_size, CHANNEL_WINDOW);
    assert_eq!(foreign.limits.rekey_read_limit as u64, key_exchange::BACKSTOP);
    assert_eq!(foreign.limits.rekey_write_limit as u64, key_exchange::BACKSTOP);
    assert_eq!(foreign.limits.rekey_time_limit, Duration::MAX);
    let bastion = config(&trust, Some(Rekey { bytes: 1 << 20, time: Duration::from_secs(60) }));
    assert_eq!(
        bastion.window_size, UNREACHED_WINDOW,
        "the end that goes first must hold all that is under way"
    );
    assert_eq!(bastion.limits.rekey_read_limit, 1 << 20);
}

#[test]
fn refusals_of_a_stream_are_told_apart() {
    let told = |text: &str| Some(text.to_owned());
    assert_eq!(
        not_opened(&ChannelOpenFailure::AdministrativelyProhibited, told("no-rule: no rule allows it")),
        NotOpened::Policy("no-rule: no rule allows it".into())
    );
    assert_eq!(
        not_opened(&ChannelOpenFailure::ConnectFailed, None),
        NotOpened::Target("Connect failed".into())
    );
    assert_eq!(
        not_opened(&ChannelOpenFailure::ResourceShortage, told("")),
        NotOpened::Limit("Resource shortage".into())
    );
}
