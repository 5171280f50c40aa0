//! PostgreSQL: the URL, the variables and the password file that libpq and its like understand.

use std::fmt::Write;

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::Access;

/// <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>
pub(super) fn url(access: &Access<'_>) -> String {
    format!("postgresql://{}@{}/{}", encoded(access.user), access.listen, encoded(access.database))
}

/// <https://www.postgresql.org/docs/current/libpq-envars.html>
pub(super) fn variables(access: &Access<'_>) -> Vec<(&'static str, String)> {
    vec![
        ("PGHOST", access.listen.ip().to_string()),
        ("PGPORT", access.listen.port().to_string()),
        ("PGDATABASE", access.database.to_owned()),
        ("PGUSER", access.user.to_owned()),
    ]
}

/// <https://www.postgresql.org/docs/current/libpq-pgpass.html>
pub(super) fn password_file(access: &Access<'_>) -> (&'static str, Zeroizing<String>) {
    let password = Zeroizing::new(escaped(access.password.expose_secret()));
    let host = escaped(&access.listen.ip().to_string());
    let line = format!("{host}:{}:*:{}:{}\n", access.listen.port(), escaped(access.user), *password);
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
        let access = Access {
            listen: "[::1]:5433".parse().unwrap(),
            database: "or/ders?x",
            user: "v-token@reader:1\"",
            password: &password,
        };
        assert_eq!(url(&access), "postgresql://v-token%40reader%3A1%22@[::1]:5433/or%2Fders%3Fx");
        let (variable, file) = password_file(&access);
        assert_eq!(variable, "PGPASSFILE");
        assert_eq!(*file, "\\:\\:1:5433:*:v-token@reader\\:1\":a\\:b\\\\c\n");
        assert!(!format!("{:?}{}", variables(&access), url(&access)).contains("a:b"));
    }
}
