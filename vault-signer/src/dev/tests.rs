//! The stand-in, asked with the same code that asks Vault.

use super::*;
use crate::{
    Request, Server, Settings, SignError, Signer as _, Vault,
    credential::Credential,
    http::Error,
    login::{GivenToken, Login as _, LoginError, Source},
};

struct Running {
    server: Server,
    users: PublicKey,
    hosts: PublicKey,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn running() -> Running {
    let options = Options {
        root_token: "root".into(),
        principals: vec!["tunnel".into(), "dev".into()],
        max_ttl: Duration::from_secs(3600),
    };
    let authority = Authority::generate(options).unwrap();
    let (users, hosts) = (authority.users().clone(), authority.hosts().clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Some(format!("http://{}", listener.local_addr().unwrap()));
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(serve(listener, authority, async { drop(stopped.await) }));
    let server = Server::new(&Settings { address, ..Settings::default() }).unwrap();
    Running { server, users, hosts, stop, served }
}

impl Running {
    async fn vault(&self, mount: &str) -> Vault {
        let token = GivenToken::new(Source::Given("root".into())).login(&self.server).await.unwrap();
        Vault::new(self.server.clone(), token, mount)
    }
}

#[tokio::test]
async fn it_signs_users_and_hosts_with_different_keys() {
    let dev = running().await;
    let hour = Duration::from_secs(3600);
    let user = Request::forwarding("forward", vec!["dev".into()], hour);
    let credential = Credential::generate(&dev.vault("ssh").await, &user).await.unwrap();
    assert_eq!(credential.authority().key_data(), dev.users.key_data());
    assert_eq!(credential.certificate().valid_principals(), ["dev"]);
    assert!(credential.remaining(std::time::SystemTime::now()) > hour - Duration::from_secs(60));
    let host = Request::host("bastion", vec!["localhost".into()], hour);
    let credential = Credential::generate(&dev.vault("ssh-host").await, &host).await.unwrap();
    assert_eq!(credential.authority().key_data(), dev.hosts.key_data());
    assert_ne!(dev.users, dev.hosts);
    assert_eq!(dev.vault("ssh-host").await.authorities().await.unwrap()[0].key_data(), dev.hosts.key_data());
}

#[tokio::test]
async fn it_refuses_as_vault_does() {
    let dev = running().await;
    let hour = Duration::from_secs(3600);
    let ask = async |mount: &str, role: &str, principal: &str, ttl: Duration| {
        let request = Request::forwarding(role, vec![principal.into()], ttl);
        Credential::generate(&dev.vault(mount).await, &request).await.unwrap_err()
    };
    for error in [
        ask("ssh", "root", "dev", hour).await,
        ask("ssh", "forward", "root", hour).await,
        ask("ssh", "forward", "dev", hour * 2).await,
        ask("ssh-host", "bastion", "dev", hour).await,
    ] {
        assert!(matches!(error, SignError::Refused { .. }), "{error:?}");
    }
    let nowhere = ask("nowhere", "forward", "dev", hour).await;
    assert!(matches!(nowhere, SignError::Server(Error::NotFound { .. })), "{nowhere:?}");

    let other = GivenToken::new(Source::Given("other".into())).login(&dev.server).await.unwrap_err();
    assert!(matches!(other, LoginError::TokenRefused { .. }), "{other:?}");
}

#[tokio::test]
async fn it_says_that_it_is_for_development() {
    let dev = running().await;
    assert!(dev.server.health().await.unwrap().development);
    let request = Request::forwarding("forward", vec![], Duration::from_secs(60));
    let credential = Credential::generate(&dev.vault("ssh").await, &request).await.unwrap();
    assert!(credential.certificate().key_id().starts_with("dev-"));
}

#[tokio::test]
async fn it_takes_what_the_vault_command_sends_and_no_more_than_that() {
    let dev = running().await;
    let client = reqwest::Client::new();
    let key = ssh_key::PrivateKey::random(&mut rand::rng(), ssh_key::Algorithm::Ed25519).unwrap();
    let key = key.public_key().to_openssh().unwrap();
    let url = |path: &str| format!("{}/v1/{path}", dev.server.address());
    let put = async |body: String| {
        let request = client.put(url("ssh/sign/forward")).header("X-Vault-Token", "root").body(body);
        request.send().await.unwrap().status().as_u16()
    };
    for ttl in ["\"5m\"", "\"300\"", "300", "\"1h0m0s\"", "null"] {
        assert_eq!(put(format!(r#"{{"public_key": "{key}", "ttl": {ttl}}}"#)).await, 200, "{ttl}");
    }
    for ttl in ["\"x\"", "-1", "true", "\"-5m\""] {
        assert_eq!(put(format!(r#"{{"public_key": "{key}", "ttl": {ttl}}}"#)).await, 400, "{ttl}");
    }
    for body in ["", "{", "{}", "[]", r#"{"public_key": "junk"}"#] {
        assert_eq!(put(body.to_owned()).await, 400, "{body}");
    }
    assert_eq!(put(" ".repeat(100_000)).await, 413);
    for (method, path, status) in
        [("DELETE", "ssh/sign/forward", 405), ("GET", "sys/mounts", 404), ("GET", "ssh/config/ca", 403)]
    {
        let answer = client.request(method.parse().unwrap(), url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        assert!(answer.text().await.unwrap().contains("\"errors\""));
    }
}

#[tokio::test]
async fn it_ends_when_told_though_somebody_still_holds_a_connection() {
    let dev = running().await;
    let address = dev.server.address().trim_start_matches("http://").to_owned();
    let mut held = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut held, b"GET /v1/sys/health HTTP/1.1\r\n").await.unwrap();
    assert!(dev.server.health().await.is_ok());
    dev.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), dev.served).await.unwrap().unwrap().unwrap();
    assert!(matches!(dev.server.health().await, Err(Error::Unreachable { .. } | Error::Broken { .. })));
}
