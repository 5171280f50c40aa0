//! Real MariaDB, its own client, PyMySQL and MySQL's connector for Python.

use std::{collections::BTreeSet, net::SocketAddr};

use database_wire::{Explanation, LocalTls, Reason};
use tests::{
    database_proxy::{self, Proxy, Upstream},
    mariadb::MariaDb,
    process::{Program, workspace},
};

const CANARY: &str = "ZZZZZZZZZZZZZZZZZZZZ";

/// A server with a user for each kind of login.
fn server() -> MariaDb {
    let server = MariaDb::start();
    let _ = server.query(&format!(
        "create user l_native identified by '{CANARY}'; create user l_tls identified by '{CANARY}' require ssl; \
         create user l_ed25519 identified via ed25519 using password('{CANARY}'); create user l_none; \
         grant all on *.* to l_native, l_tls, l_ed25519, l_none; create database other;"
    ));
    server
}

fn proxy(upstream: Upstream) -> Proxy {
    Proxy::start(database_proxy::Mysql::new(LocalTls::Offered, None), upstream)
}

fn python(script: &str, address: SocketAddr) -> Program {
    Program::new(workspace().join(".peers/venv/bin/python"))
        .args(["-c", script])
        .env("PORT", address.port().to_string())
}

const WHO: &str = "select substring_index(current_user(), '@', 1), database()";

#[test]
fn mariadbs_client_needs_no_password_however_the_server_wants_it() {
    let server = server();
    let upstream = |user: &str| Upstream::new(server.address(), user, Some(CANARY));
    for (user, upstream) in [
        ("l_native", upstream("l_native")),
        ("l_native", upstream("l_native").encrypted()),
        ("l_tls", upstream("l_tls").verified(&server.authority())),
        ("l_ed25519", upstream("l_ed25519")),
        ("l_ed25519", upstream("l_ed25519").verified(&server.authority())),
        ("l_none", Upstream::new(server.address(), "l_none", None)),
    ] {
        let told = format!("{upstream:?}");
        let proxy = proxy(upstream);
        for words in [
            &["--skip-ssl"][..],
            &["--ssl"],
            &["--skip-ssl", "--user=alice", "--password=wrong"],
            &["--ssl", "--user=alice", "--password=wrong", "--compress"],
            &["--skip-ssl", "--default-auth=caching_sha2_password"],
            &["--skip-ssl", "--default-auth=caching_sha2_password", "--password=wrong"],
            &["--ssl", "--default-auth=client_ed25519", "--password=wrong"],
            &["--skip-ssl", "--default-auth=mysql_clear_password", "--password=wrong"],
        ] {
            let rows = MariaDb::client(proxy.address(), words, WHO).succeed();
            assert_eq!(rows.trim(), format!("{user}\torders"), "{words:?} {told}");
        }
        let rows = MariaDb::client(proxy.address(), &["--database=other"], WHO).succeed();
        assert_eq!(rows.trim(), format!("{user}\tother"), "{told}");
        assert_eq!(proxy.failures(), [""; 0], "{told}");
    }
}

/// Both sides have agreed to the same: what depends on flags, on the version and on the connection's number.
#[test]
fn bytes_pass_untouched_after_the_login() {
    let server = server();
    let proxy = proxy(Upstream::new(server.address(), "l_native", Some(CANARY)));
    // First what brings its own OpenSSL, before Python loads another one.
    let script = "\
import _mysql_connector
import os, pymysql, mysql.connector
port = int(os.environ['PORT'])
def check(connection, number, version):
    cursor = connection.cursor()
    cursor.execute('select connection_id(), version()')
    assert cursor.fetchone() == (number, version), (number, version)
    cursor.execute('create or replace table t (n int primary key, b longblob)')
    big = os.urandom(3_000_000)
    cursor.execute('insert into t values (1, %s)', (big,))
    cursor.execute('select b from t')
    assert bytes(cursor.fetchone()[0]) == big
    cursor.execute('select count(*) from performance_schema.session_connect_attrs where processlist_id = connection_id()')
    assert cursor.fetchone()[0] > 2
    connection.close()
for words in ({}, {'user': 'alice', 'password': 'x'}, {'password': 'x', 'ssl': {}, 'database': 'orders'}):
    connection = pymysql.connect(host='127.0.0.1', port=port, **{'user': 'u', **words})
    check(connection, connection.thread_id(), connection.get_server_info().removeprefix('5.5.5-'))
for pure in (True, False):
    for words in ({}, {'password': 'x'}, {'password': 'x', 'auth_plugin': 'mysql_native_password'},
                  {'password': 'x', 'auth_plugin': 'caching_sha2_password'}, {'ssl_disabled': True, 'password': 'x'},
                  {'allow_local_infile': True}):
        # The other one is the library of MySQL's own programs, which has no native password any more.
        if not pure and words.get('auth_plugin') == 'mysql_native_password':
            continue
        connection = mysql.connector.connect(host='127.0.0.1', port=port, user='u', use_pure=pure, **words)
        cursor = connection.cursor()
        cursor.execute('select version()')
        told = cursor.fetchone()[0]
        check(connection, connection.connection_id, told)
print('done')
";
    let output = python(script, proxy.address()).output();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.trim(), "done", "{stderr}\n{:?}", proxy.failures());
    assert_eq!(proxy.failures(), [""; 0]);
}

#[test]
fn the_clients_flags_are_those_that_the_server_sees() {
    let server = server();
    let proxy = proxy(Upstream::new(server.address(), "l_native", Some(CANARY)));
    let seen = |address, words: &[&str]| -> BTreeSet<String> {
        let status = MariaDb::client(address, words, "status").output();
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        status
            .lines()
            .filter(|line| line.starts_with("Server") || line.contains("characterset"))
            .map(str::to_owned)
            .collect()
    };
    let password = format!("--password={CANARY}");
    for charset in ["latin1", "utf8mb4"] {
        let charset = format!("--default-character-set={charset}");
        let direct = seen(server.address(), &["--user=l_native", &password, "--skip-ssl", &charset]);
        assert!(direct.len() >= 5, "{direct:?}");
        assert_eq!(seen(proxy.address(), &["--skip-ssl", &charset]), direct);
    }
    // A file of the client, which only goes up if the client's flag did.
    let rows = "create or replace table f (n varchar(200)); load data local infile '/etc/hostname' into table f; select 'loaded'";
    let words = ["--skip-ssl", "--database=orders", "--local-infile=1"];
    assert!(MariaDb::client(proxy.address(), &words, rows).succeed().contains("loaded"));
    let without =
        MariaDb::client(proxy.address(), &["--skip-ssl", "--database=orders", "--local-infile=0"], rows)
            .output();
    assert!(!without.status.success(), "{without:?}");
}

#[test]
fn refusals_are_read_by_a_person() {
    let server = server();
    let explanation = Explanation::new(Reason::Refused, "the bastion refused this destination: orders:3306")
        .with_remedy("Ask the bastion's operator for a rule.");
    let sentence =
        "the bastion refused this destination: orders:3306. Ask the bastion's operator for a rule.";
    let refusing = proxy(Upstream::new(server.address(), "l_native", None).refusing(explanation));
    for words in [&["--skip-ssl"][..], &["--ssl"], &["--skip-ssl", "--password=x"]] {
        let output = MariaDb::client(refusing.address(), words, WHO).output();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(&format!("ERROR 1045 (28000): {sentence}")), "{words:?}: {error}");
    }
    // First what brings its own OpenSSL, before Python loads another one.
    let script = "\
import _mysql_connector
import os, pymysql, mysql.connector
port = int(os.environ['PORT'])
for connect in (pymysql.connect, mysql.connector.connect):
    try:
        connect(host='127.0.0.1', port=port, user='u', password='x')
    except Exception as error:
        print(error)
";
    let said = python(script, refusing.address()).succeed();
    assert_eq!(said.matches(sentence).count(), 2, "{said}");
    let upstream = |user: &str, password| Upstream::new(server.address(), user, password);
    for (upstream, says) in [
        (
            upstream("l_native", Some("wrong")),
            "ERROR 1045 (28000): Access denied for user 'l_native'@'localhost' (using password: YES)",
        ),
        (upstream("l_tls", Some(CANARY)), "ERROR 1045 (28000): Access denied for user 'l_tls'"),
        (upstream("nosuch", Some(CANARY)), "ERROR 1045 (28000): Access denied for user 'nosuch'"),
    ] {
        let told = format!("{upstream:?}");
        let proxy = proxy(upstream);
        let output = MariaDb::client(proxy.address(), &["--skip-ssl"], WHO).output();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(says), "{told}: {error}");
        assert!(!error.contains(CANARY), "{error}");
    }
    let proxy = proxy(upstream("l_native", Some(CANARY)));
    let output = MariaDb::client(proxy.address(), &["--database=nosuch"], WHO).output();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("ERROR 1049 (42000): Unknown database 'nosuch'"), "{error}");
}
