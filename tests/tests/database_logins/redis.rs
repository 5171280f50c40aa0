//! Real Redis, redis-cli and redis-py, with both versions of the protocol.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use database_wire::{Explanation, Reason};
use tests::{
    database_proxy::{self, Proxy, Upstream},
    process::{Program, workspace},
    redis::{Redis, USER, redis_cli},
};

const CANARY: &str = "ZZZZZZZZZZZZZZZZZZZZ";

fn proxy(upstream: Upstream) -> Proxy {
    Proxy::start(database_proxy::Redis, upstream)
}

fn python(script: &str, address: SocketAddr) -> Program {
    Program::new(workspace().join(".peers/venv/bin/python"))
        .args(["-c", script])
        .env("PORT", address.port().to_string())
}

#[test]
fn redis_cli_needs_no_password_in_any_mode() {
    let redis = Redis::start(CANARY);
    for upstream in [
        Upstream::new(redis.address(), USER, Some(CANARY)),
        Upstream::new(redis.tls_address(), USER, Some(CANARY)).encrypted(),
        Upstream::new(redis.tls_address(), USER, Some(CANARY)).verified(&redis.authority()),
    ] {
        let told = format!("{upstream:?}");
        let proxy = proxy(upstream);
        for words in [
            &[][..],
            &["-3"],
            &["-a", "wrong"],
            &["--user", "alice", "-a", "wrong"],
            &["-3", "--user", "alice", "-a", "wrong", "-n", "1"],
            &["--tls", "--insecure"],
            &["--tls", "--insecure", "-3", "-a", "wrong"],
        ] {
            let who = redis_cli(proxy.address(), words, &["ACL", "WHOAMI"]).succeed();
            assert_eq!(who.trim().trim_matches('"'), USER, "{words:?} {told}");
        }
        assert_eq!(proxy.failures(), [""; 0], "{told}");
    }
}

/// All that drivers begin with, by bytes.
#[test]
fn answers_come_in_order_however_the_commands_are_cut() {
    let redis = Redis::start(CANARY);
    let proxy = proxy(Upstream::new(redis.address(), USER, Some(CANARY)));
    let input =
        b"*6\r\n$5\r\nHELLO\r\n$1\r\n2\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\nx\r\n$7\r\nSETNAME\r\nAUTH x\r\n\
        *2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n*3\r\n$4\r\nauth\r\n$1\r\nu\r\n$1\r\nx\r\nSELECT 1\r\nSET k AUTH\r\n\
        *2\r\n$3\r\nGET\r\n$1\r\nk\r\nACL WHOAMI\r\nAUTH\r\nQUIT\r\n";
    // SETNAME has its name, and the count says so.
    let input = String::from_utf8(input.to_vec()).unwrap();
    let input = input.replace("*6\r\n", "*7\r\n").replace("SETNAME\r\n", "SETNAME\r\n$1\r\nn\r\n");
    let answers = "+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n$4\r\nAUTH\r\n$7\r\nv-lease\r\n\
        -ERR wrong number of arguments for 'auth' command\r\n+OK\r\n";
    for piece in [input.len(), 1, 7] {
        let mut connection = TcpStream::connect(proxy.address()).unwrap();
        connection.set_nodelay(true).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        for bytes in input.as_bytes().chunks(piece) {
            connection.write_all(bytes).unwrap();
        }
        connection.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        connection.read_to_string(&mut said).unwrap();
        let (hello, rest) = said.split_once("$4\r\nrole\r\n").unwrap();
        assert!(hello.starts_with("*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n"), "{said}");
        assert!(rest.ends_with(answers), "in pieces of {piece}: {said}");
    }
}

#[test]
fn redis_py_works_in_both_protocols() {
    let redis = Redis::start(CANARY);
    let proxy = proxy(Upstream::new(redis.address(), USER, Some(CANARY)));
    let script = "\
import os, redis
for protocol in (2, 3):
    for words in ({}, {'password': 'x'}, {'username': 'u', 'password': 'x'}, {'ssl': True, 'ssl_cert_reqs': None}):
        client = redis.Redis(host='127.0.0.1', port=int(os.environ['PORT']), protocol=protocol, client_name='n', **words)
        assert client.acl_whoami() in ('v-lease', b'v-lease'), client.acl_whoami()
        big = os.urandom(3_000_000)
        with client.pipeline() as pipe:
            pipe.set('k', big); pipe.set('AUTH', 'AUTH x'); pipe.get('k'); pipe.get('AUTH')
            results = pipe.execute()
        assert results == [True, True, big, b'AUTH x'], results[:2]
        assert client.client_getname() in ('n', b'n')
        client.execute_command('AUTH', 'again')
        assert client.get('AUTH') == b'AUTH x'
print('done')
";
    assert_eq!(python(script, proxy.address()).succeed().trim(), "done");
    assert_eq!(proxy.failures(), [""; 0]);
}

#[test]
fn refusals_are_read_by_a_person() {
    let redis = Redis::start(CANARY);
    let explanation = Explanation::new(Reason::Refused, "the bastion refused this destination: cache:6379");
    let refusing = proxy(Upstream::new(redis.address(), USER, None).refusing(explanation));
    let sentence = "ERR the bastion refused this destination: cache:6379";
    for words in [&[][..], &["-3"], &["-a", "x"]] {
        let output = redis_cli(refusing.address(), words, &["GET", "k"]).output();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(sentence), "{words:?}: {said}");
    }
    let script = "\
import os, redis
for protocol in (2, 3):
    try:
        redis.Redis(host='127.0.0.1', port=int(os.environ['PORT']), protocol=protocol, retry=None).get('k')
    except redis.RedisError as error:
        print(error)
";
    let said = python(script, refusing.address()).succeed();
    assert_eq!(said.matches("the bastion refused this destination: cache:6379").count(), 2, "{said}");
    let wrong = proxy(Upstream::new(redis.address(), USER, Some("wrong")));
    let output = redis_cli(wrong.address(), &[], &["GET", "k"]).output();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("WRONGPASS invalid username-password pair"), "{said}");
    // What is no command is said to be none.
    let proxy = proxy(Upstream::new(redis.address(), USER, Some(CANARY)));
    let mut connection = TcpStream::connect(proxy.address()).unwrap();
    connection.write_all(b"*1\r\n:1\r\n").unwrap();
    let mut said = String::new();
    connection.read_to_string(&mut said).unwrap();
    assert_eq!(said, "-ERR Protocol error: expected '$', got ':'\r\n");
}
