//! PostgreSQL: the URL, the variables and the password file that libpq and its like understand.

use std::fmt::Write;

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{Access, Verify};

/// The variables of libpq (<https://www.postgresql.org/docs/current/libpq-envars.html>) that say where to go, as whom and
/// with what, or that choose among several places. Those that say how, such as `PGSSLMODE` and `PGAPPNAME`, stay the
/// person's.
pub(super) const MISLEADING: [&str; 15] = [
    "PGDATABASE",
    "PGHOST",
    "PGHOSTADDR",
    "PGLOADBALANCEHOSTS",
    "PGPASSFILE",
    "PGPASSWORD",
    "PGPORT",
    "PGREALM",
    "PGREQUIREPEER",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGTARGETSESSIONATTRS",
    "PGTTY",
    "PGUSER",
];

/// The others, which a test compares with what the library knows.
#[cfg(test)]
const HARMLESS: [&str; 34] = [
    "PGAPPNAME",
    "PGCHANNELBINDING",
    "PGCLIENTENCODING",
    "PGCONNECT_TIMEOUT",
    "PGDATESTYLE",
    "PGGEQO",
    "PGGSSDELEGATION",
    "PGGSSENCMODE",
    "PGGSSLIB",
    "PGKRBSRVNAME",
    "PGLOCALEDIR",
    "PGMAXPROTOCOLVERSION",
    "PGMINPROTOCOLVERSION",
    "PGOAUTHCAFILE",
    "PGOAUTHDEBUG",
    "PGOPTIONS",
    "PGREQUIREAUTH",
    "PGREQUIRESSL",
    "PGSSLCERT",
    "PGSSLCERTMODE",
    "PGSSLCOMPRESSION",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLKEY",
    "PGSSLKEYLOGFILE",
    "PGSSLMAXPROTOCOLVERSION",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMODE",
    "PGSSLNEGOTIATION",
    "PGSSLROOTCERT",
    "PGSSLSNI",
    "PGTZ",
    "PGCOLOR",
    "PGCOLORS",
];

/// Whether `sslmode=verify-full` is asked for. A name is not given to others: many programs know no address beside it, and
/// would look for the name themselves, outside the tunnel.
pub(super) fn verifies<'a>(
    arguments: impl IntoIterator<Item = &'a str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Verify {
    const FULL: &str = "verify-full";
    let said = variable("PGSSLMODE").is_some_and(|mode| mode == FULL);
    if said || arguments.into_iter().any(|word| word.contains(FULL)) { Verify::Name } else { Verify::No }
}

/// <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>
pub(super) fn url(access: &Access<'_>, verify: Verify) -> String {
    let (user, database) = (encoded(access.user), encoded(access.database));
    match verify {
        Verify::No => format!("postgresql://{user}@{}/{database}", access.listen),
        Verify::Name => {
            let (ip, port) = (access.listen.ip().to_string(), access.listen.port());
            format!("postgresql://{user}@{}:{port}/{database}?hostaddr={}", access.host, encoded(&ip))
        }
    }
}

/// <https://www.postgresql.org/docs/current/libpq-envars.html>
pub(super) fn variables(access: &Access<'_>, verify: Verify) -> Vec<(&'static str, String)> {
    let ip = access.listen.ip().to_string();
    let mut all = vec![
        ("PGPORT", access.listen.port().to_string()),
        ("PGDATABASE", access.database.to_owned()),
        ("PGUSER", access.user.to_owned()),
    ];
    match verify {
        Verify::No => all.push(("PGHOST", ip)),
        Verify::Name => all.extend([("PGHOST", access.host.bare()), ("PGHOSTADDR", ip)]),
    }
    all
}

/// <https://www.postgresql.org/docs/current/libpq-pgpass.html>. For every host: whatever the program calls the local end,
/// nothing but it has this port, and no other database knows this user.
pub(super) fn password_file(access: &Access<'_>) -> (&'static str, Zeroizing<String>) {
    let password = Zeroizing::new(escaped(access.password.expose_secret()));
    let line = format!("*:{}:*:{}:{}\n", access.listen.port(), escaped(access.user), *password);
    ("PGPASSFILE", Zeroizing::new(line))
}

fn escaped(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

/// Everything but what RFC 3986 calls unreserved.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_can_break_out_of_its_field() {
        let password = secrecy::SecretString::from("a:b\\c");
        let host = "orders.databases.svc".parse().unwrap();
        let access = Access {
            listen: "[::1]:5433".parse().unwrap(),
            host: &host,
            database: "or/ders?x",
            user: "v-token@reader:1\"",
            password: &password,
        };
        assert_eq!(url(&access, Verify::No), "postgresql://v-token%40reader%3A1%22@[::1]:5433/or%2Fders%3Fx");
        assert_eq!(
            url(&access, Verify::Name),
            "postgresql://v-token%40reader%3A1%22@orders.databases.svc:5433/or%2Fders%3Fx?hostaddr=%3A%3A1"
        );
        let (variable, file) = password_file(&access);
        assert_eq!(variable, "PGPASSFILE");
        assert_eq!(*file, "*:5433:*:v-token@reader\\:1\":a\\:b\\\\c\n");
        for verify in [Verify::No, Verify::Name] {
            assert!(!format!("{:?}{}", variables(&access, verify), url(&access, verify)).contains("a:b"));
        }
    }

    #[test]
    fn the_name_is_given_to_whoever_verifies_it() {
        let asked = |words: &[&str], mode: Option<&str>| {
            verifies(words.iter().copied(), |name| mode.filter(|_| name == "PGSSLMODE").map(str::to_owned))
        };
        assert_eq!(asked(&["psql"], None), Verify::No);
        assert_eq!(asked(&["psql"], Some("require")), Verify::No);
        assert_eq!(asked(&["psql"], Some("verify-full")), Verify::Name);
        assert_eq!(asked(&["psql", "sslmode=verify-full"], None), Verify::Name);
        assert_eq!(asked(&["sh", "-c", "psql 'sslmode=verify-full'"], Some("")), Verify::Name);
    }

    /// Every variable that the installed library looks at is one that was thought about.
    #[test]
    fn every_variable_of_the_real_library_is_known() {
        let folders = ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
        let library = folders
            .into_iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flat_map(|entries| entries.flatten())
            .find(|entry| entry.file_name().to_string_lossy().starts_with("libpq.so.5"))
            .expect("libpq is not installed: run tests/install first");
        let bytes = std::fs::read(library.path()).unwrap();
        let is_part = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'_';
        let mut found = 0;
        for word in bytes.split(|byte| *byte == 0) {
            // Results of a query and of a connection are called so too.
            if word.len() < 5
                || !word.starts_with(b"PG")
                || !word.iter().all(is_part)
                || word.contains(&b'_') && word != b"PGCONNECT_TIMEOUT"
            {
                continue;
            }
            let name = std::str::from_utf8(word).unwrap();
            assert!(MISLEADING.contains(&name) || HARMLESS.contains(&name), "{name} is new");
            found += 1;
        }
        assert!(found > 20, "{found}");
    }
}
