//! Logs clients of PostgreSQL in.

use std::{
    io,
    sync::{Arc, Mutex},
};

use database_wire::{
    ClearPassword, Explanation, LocalTls, Reason, TlsMode,
    postgres::{Ask, CancelKey, Client, Login, Nonce, Opening, Refused, Server, Session, Settings},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{Connection, Failure, Protocol, Tls, Upstream, drive, farewell, other, relay};

/// The database that clients get who name none.
const DATABASE: &str = "orders";

/// How clients are served.
#[derive(Debug)]
pub struct Postgres {
    tls: LocalTls,
    ask: Ask,
    keys: Mutex<Vec<CancelKey>>,
}

impl Postgres {
    /// Clients may use TLS, and are asked for this.
    #[must_use]
    pub fn new(tls: LocalTls, ask: Ask) -> Self {
        Self { tls, ask, keys: Mutex::default() }
    }

    async fn cancel(&self, key: CancelKey, upstream: &Upstream) -> io::Result<()> {
        let known = self.keys.lock().unwrap().iter().any(|known| key.is(known));
        if !known {
            return Err(other("a key that cancels nothing of ours"));
        }
        let mut server = upstream.connect().await?;
        let mut client = Client::cancel(key, upstream.tls);
        drive(&mut client, &mut server, &Tls::upstream(upstream)).await.map_err(other)?;
        // The server's answer is the end.
        while server.read(&mut [0; 16]).await.is_ok_and(|length| length > 0) {}
        Ok(())
    }
}

impl Protocol for Postgres {
    async fn serve(self: Arc<Self>, client: TcpStream, upstream: Arc<Upstream>) -> io::Result<()> {
        let mut client: Connection = Box::new(client);
        let mut machine = Server::new(self.tls, self.ask.clone());
        let login = match drive(&mut machine, &mut client, &Tls::local()).await {
            Ok(Opening::Login(login)) => login,
            Ok(Opening::Cancel(key)) => return self.cancel(key, &upstream).await,
            Err(Failure::Refused(refused)) => return farewell(&mut client, &refused.to_message()).await,
            Err(Failure::Gone(error)) => return Err(error),
        };
        if let Some(explanation) = &upstream.refusal {
            return farewell(&mut client, &login.refuse(explanation)).await;
        }
        match log_in(&login, &upstream).await {
            Ok((session, server)) => {
                self.keys.lock().unwrap().extend(session.key().cloned());
                tokio::io::AsyncWriteExt::write_all(&mut client, login.accept(&session).as_ref()).await?;
                relay(client, server).await;
                Ok(())
            }
            Err(Failure::Refused(Refused::Server(error))) => {
                farewell(&mut client, &login.pass_on(&error)).await?;
                Err(other(error))
            }
            Err(Failure::Refused(refused)) => {
                let explanation = Explanation::new(Reason::NotReached, &refused.to_string());
                farewell(&mut client, &login.refuse(&explanation)).await?;
                Err(other(refused))
            }
            Err(Failure::Gone(error)) => Err(error),
        }
    }
}

async fn log_in(login: &Login, upstream: &Upstream) -> Result<(Session, Connection), Failure<Refused>> {
    let mut server = upstream.connect().await?;
    let startup = login.startup().for_login(&upstream.user, DATABASE).map_err(other)?;
    let mut client = Client::new(Settings {
        startup,
        password: upstream.password(),
        tls: upstream.tls,
        clear: ClearPassword::OverVerifiedTls,
        nonce: Nonce::random().map_err(other)?,
    });
    let session = drive(&mut client, &mut server, &Tls::upstream(upstream)).await?;
    assert_eq!(
        client.can_bind(),
        upstream.tls != TlsMode::Disable,
        "certificates of our tests can be bound to"
    );
    Ok((session, server))
}
