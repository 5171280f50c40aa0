//! Logs clients of MySQL and MariaDB in.

use std::{io, sync::Arc};

use database_wire::{
    ClearPassword, Explanation, LocalTls, Reason,
    mysql::{Greeter, Greeting, Login, Refused, Server, ServerKey, Settings},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Connection, Failure, Protocol, Tls, Upstream, drive, farewell, other, relay};

/// The database that clients get who name none.
const DATABASE: &str = "orders";

/// How clients are served.
#[derive(Debug)]
pub struct Mysql {
    tls: LocalTls,
    key: Option<ServerKey>,
}

impl Mysql {
    /// Clients may use TLS. `key` is the server's RSA key, where it is known.
    #[must_use]
    pub fn new(tls: LocalTls, key: Option<ServerKey>) -> Self {
        Self { tls, key }
    }

    fn settings(&self, upstream: &Upstream) -> Settings {
        Settings {
            user: upstream.user.clone(),
            password: upstream.password(),
            database: Some(DATABASE.to_owned()),
            tls: upstream.tls,
            clear: ClearPassword::OverVerifiedTls,
            key: self.key.clone(),
        }
    }

    /// Logs the client in to our side, under this greeting.
    async fn greet(&self, client: &mut Connection, greeting: &Greeting) -> io::Result<Option<Login>> {
        let mut machine = Server::new(greeting, self.tls);
        match drive(&mut machine, client, &Tls::local()).await {
            Ok(login) => Ok(Some(login)),
            Err(Failure::Refused(refused)) => {
                farewell(client, &machine.explain(&refused)).await?;
                Ok(None)
            }
            Err(Failure::Gone(error)) => Err(error),
        }
    }
}

impl Protocol for Mysql {
    async fn serve(self: Arc<Self>, client: TcpStream, upstream: Arc<Upstream>) -> io::Result<()> {
        let mut client: Connection = Box::new(client);
        if let Some(explanation) = &upstream.refusal {
            let login = self.greet(&mut client, &Greeting::without_server()).await?;
            let words = login.map(|login| login.refuse(explanation));
            return farewell(&mut client, &words.ok_or_else(|| other("no login"))?).await;
        }
        let mut server = upstream.connect().await?;
        let tls = Tls::upstream(&upstream);
        let greeted = match drive(&mut Greeter::new(), &mut server, &tls).await {
            Ok(greeted) => greeted,
            Err(Failure::Refused(Refused::Server(error))) => {
                let login = self.greet(&mut client, &Greeting::without_server()).await?;
                let words = login.map(|login| login.pass_on(&error));
                farewell(&mut client, &words.ok_or_else(|| other("no login"))?).await?;
                return Err(other(error));
            }
            Err(failure) => return Err(other(failure)),
        };
        let Some(login) = self.greet(&mut client, greeted.greeting()).await? else { return Ok(()) };
        let mut machine = greeted.log_in(login.response(), self.settings(&upstream));
        match drive(&mut machine, &mut server, &tls).await {
            Ok(session) => {
                client.write_all(login.accept(&session).as_ref()).await?;
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
