//! Logs clients of Redis in.

use std::{io, sync::Arc};

use database_wire::{
    Outgoing,
    postgres::DIRECT_TLS,
    redis::{Client, Credentials, Piece, Refused, Refusing, Session, explain},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
};

use super::{Connection, Failure, Protocol, Tls, Upstream, drive, farewell, other};

/// How clients are served: in TLS if they begin with it.
#[derive(Debug)]
pub struct Redis;

impl Protocol for Redis {
    async fn serve(self: Arc<Self>, client: TcpStream, upstream: Arc<Upstream>) -> io::Result<()> {
        let mut first = [0];
        if client.peek(&mut first).await? == 0 {
            return Ok(());
        }
        let is_tls = first == [DIRECT_TLS];
        let mut client: Connection = Box::new(client);
        if is_tls {
            client = Tls::local().start(client).await?.0;
        }
        if let Some(explanation) = &upstream.refusal {
            return refuse(client, Refusing::new(explanation.clone())).await;
        }
        let password = upstream.password().ok_or_else(|| other("no password"))?;
        let user = Some(&*upstream.user).filter(|user| !user.is_empty());
        let credentials = Credentials::new(user, password);
        let mut server = upstream.connect().await?;
        let mut login = Client::new(credentials.clone(), upstream.tls);
        match drive(&mut login, &mut server, &Tls::upstream(&upstream)).await {
            Ok(()) => {}
            Err(Failure::Refused(Refused::Server(error))) => {
                farewell(&mut client, &error.to_message()).await?;
                return Err(other(error));
            }
            Err(failure) => return Err(other(failure)),
        }
        let (from_client, mut to_client) = tokio::io::split(client);
        let (mut from_server, to_server) = tokio::io::split(server);
        let up = pass(from_client, to_server, Session::new(credentials));
        let down = async {
            tokio::io::copy(&mut from_server, &mut to_client).await?;
            to_client.shutdown().await
        };
        tokio::select! {
            passed = up => if let Ok(Some(words)) = passed {
                to_client.write_all(words.as_ref()).await?;
                to_client.shutdown().await?;
            },
            // How a session ends is for its two ends.
            _ = down => {}
        }
        Ok(())
    }
}

/// Passes the client's commands on until it ends, or until they are none: then there is something to say.
async fn pass(
    mut client: ReadHalf<Connection>,
    mut server: WriteHalf<Connection>,
    mut session: Session,
) -> io::Result<Option<Outgoing>> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Clients of Redis end TLS by closing the connection.
        let length = match client.read(&mut buffer).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        if length == 0 {
            server.shutdown().await?;
            // The server's last answers are still to come.
            return std::future::pending().await;
        }
        let mut input = &buffer[..length];
        loop {
            match session.next(&mut input) {
                Ok(Some(Piece::Pass(bytes))) => server.write_all(bytes).await?,
                Ok(Some(Piece::Instead(bytes))) => server.write_all(bytes.as_ref()).await?,
                Ok(None) => break,
                Err(malformed) => {
                    let told = database_wire::Explanation::new(
                        database_wire::Reason::Protocol,
                        &malformed.to_string(),
                    );
                    return Ok(Some(explain(&told)));
                }
            }
        }
    }
}

async fn refuse(mut client: Connection, mut refusing: Refusing) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        let length = client.read(&mut buffer).await?;
        match refusing.answers(&buffer[..length]) {
            Some(answers) if length > 0 => client.write_all(answers.as_ref()).await?,
            _ => return client.shutdown().await,
        }
    }
}
