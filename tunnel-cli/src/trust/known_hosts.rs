//! OpenSSH's lines for host keys (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), as far as a published list has them.
//!
//! What cannot be honoured is refused rather than passed over: a line that takes a key back (`@revoked`), and a name that
//! is hashed, which only hides names that are published anyway.

use russh::keys::PublicKey;

use super::{BadTrust, Trust};
use crate::endpoint::Endpoint;

/// A line that cannot be used. Its content is never repeated.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub(crate) struct BadLine {
    /// Counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: BadEntry,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadEntry {
    /// Too few words.
    #[error("a line has names and a key: bastion.example.com ssh-ed25519 AAAA…")]
    Words,
    /// `@revoked`, or one that is not known.
    #[error("this marker is not supported; only @cert-authority is")]
    Marker,
    /// `|1|…`
    #[error("hashed names are not supported; write the names themselves")]
    Hashed,
    /// The key.
    #[error(transparent)]
    Key(#[from] BadTrust),
}

/// What the lines trust for these addresses, if any of them is named. Where an authority is named it alone is trusted:
/// an authority makes single keys needless.
///
/// # Errors
/// The first line that cannot be used, whomever it is about.
pub(crate) fn trust(text: &str, addresses: &[Endpoint]) -> Result<Option<Trust>, BadLine> {
    let (mut authorities, mut keys) = (Vec::new(), Vec::new());
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let entry = Entry::parse(text).map_err(|why| BadLine { line, why })?;
        if addresses.iter().any(|address| entry.is_for(address)) {
            if entry.is_authority { &mut authorities } else { &mut keys }.push(entry.key);
        }
    }
    Ok(match (authorities.is_empty(), keys.is_empty()) {
        (false, _) => Some(Trust::Authorities(authorities)),
        (true, false) => Some(Trust::Keys(keys)),
        (true, true) => None,
    })
}

struct Entry<'a> {
    is_authority: bool,
    names: &'a str,
    key: PublicKey,
}

impl<'a> Entry<'a> {
    fn parse(text: &'a str) -> Result<Self, BadEntry> {
        fn word(text: &str) -> Option<(&str, &str)> {
            text.split_once([' ', '\t']).map(|(word, rest)| (word, rest.trim_start()))
        }
        let (first, rest) = word(text).ok_or(BadEntry::Words)?;
        let (is_authority, (names, key)) = match first {
            "@cert-authority" => (true, word(rest).ok_or(BadEntry::Words)?),
            marker if marker.starts_with('@') => return Err(BadEntry::Marker),
            names => (false, (names, rest)),
        };
        if names.starts_with('|') {
            return Err(BadEntry::Hashed);
        }
        let key = PublicKey::from_openssh(key).map_err(|_| BadTrust::NotAKey)?;
        Ok(Self { is_authority, names, key })
    }

    /// Whether it names the address, by the host alone or with its port. One name with `!` before it spoils the others.
    fn is_for(&self, address: &Endpoint) -> bool {
        let host = address.host().bare().to_lowercase();
        let with_port = format!("[{host}]:{}", address.port());
        let is_named = |pattern: &str| {
            let pattern = pattern.to_lowercase();
            matches(pattern.as_bytes(), host.as_bytes()) || matches(pattern.as_bytes(), with_port.as_bytes())
        };
        let mut named = false;
        for pattern in self.names.split(',') {
            match pattern.strip_prefix('!') {
                Some(pattern) if is_named(pattern) => return false,
                Some(_) => {}
                None => named |= is_named(pattern),
            }
        }
        named
    }
}

/// `*` is any text, `?` any character. Takes time in proportion to the product of the lengths, however many stars.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(seen) {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, seen));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                at += 1;
                seen += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    (at, seen) = (after_star, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn of(text: &str, address: &str) -> Result<Option<Trust>, String> {
        trust(&text.replace("ONE", ONE), &[address.parse().unwrap()]).map_err(|bad| bad.to_string())
    }

    #[test]
    fn a_line_counts_for_whom_it_names() {
        for (names, address, named) in [
            ("b.example.com", "b.example.com:22", true),
            ("B.Example.com", "b.example.COM:2222", true),
            ("[b.example.com]:2222", "b.example.com:2222", true),
            ("[b.example.com]:2222", "b.example.com:22", false),
            ("a,b.example.com", "b.example.com:22", true),
            ("*", "b.example.com:22", true),
            ("*.example.com", "b.example.com:22", true),
            ("*.example.com,!b.example.com", "b.example.com:22", false),
            ("!c.example.com,*.example.com", "b.example.com:22", true),
            ("!c.example.com", "b.example.com:22", false),
            ("?.example.com", "b.example.com:22", true),
            ("b.example", "b.example.com:22", false),
            ("*.example.co", "b.example.com:22", false),
            ("2001:db8::1", "[2001:db8::1]:22", true),
            ("[2001:db8::1]:2222", "[2001:db8::1]:2222", true),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:22", false),
        ] {
            assert_eq!(of(&format!("{names} ONE\n"), address).unwrap().is_some(), named, "{names} {address}");
        }
    }

    #[test]
    fn an_authority_goes_before_keys() {
        let keys = of("# ours\n\nb ONE a comment\nb\tONE\n", "b:22").unwrap();
        assert!(matches!(keys, Some(Trust::Keys(keys)) if keys.len() == 2));
        let both = of("b ONE\n@cert-authority b ONE\n@cert-authority c ONE\n", "b:22").unwrap();
        assert!(matches!(both, Some(Trust::Authorities(keys)) if keys.len() == 1));
        assert_eq!(of("", "b:22"), Ok(None));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for (text, line) in [
            ("b\n", "line 1: a line has names"),
            ("b ONE\n@revoked b ONE\n", "line 2: this marker"),
            ("@cert-authority ONE\n", "line 1: "),
            ("|1|c2FsdA==|aGFzaA== ONE\n", "line 1: hashed"),
            ("b ssh-ed25519 hunter2\n", "line 1: this is not a public key"),
            ("c hunter2 hunter2\n", "line 1: this is not a public key"),
        ] {
            let told = of(text, "b:22").unwrap_err();
            assert!(told.starts_with(line) && !told.contains("hunter2"), "{text}: {told}");
        }
    }
}
