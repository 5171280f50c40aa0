//! Reads public keys as people have them at hand: a key, a line of `ssh-keyscan` or of `known_hosts`, with comments and
//! empty lines between.

use russh::keys::PublicKey;

use super::BadTrust;

/// What the keys are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Those of authorities that sign hosts' keys.
    Authorities,
    /// A host's own.
    HostKeys,
}

/// Whether this is the text of keys rather than the name of a file of them.
pub(super) fn is_text(text: &str) -> bool {
    let is_line = |line: &str| {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        words.next().is_some()
            && (is_algorithm(first)
                || first.starts_with(['@', '|', '#'])
                || line.split_whitespace().skip(1).any(|word| word.starts_with("AAAA")))
    };
    text.lines().any(is_line)
}

/// The keys in the text, each with its line, counted from 1. Lines that name hosts have to name the same ones: which of
/// several hosts is the bastion is not for us to guess.
///
/// # Errors
/// The first line that cannot be used, and why.
pub(super) fn keys(text: &str, wanted: Wanted) -> Result<Vec<PublicKey>, (usize, BadTrust)> {
    let mut all = Vec::new();
    let mut hosts: Option<&str> = None;
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = Line::parse(line).map_err(|why| (number, why))?;
        match (wanted, line.kind) {
            (_, Kind::Bare)
            | (Wanted::Authorities, Kind::Authority(_))
            | (Wanted::HostKeys, Kind::Host(_)) => {}
            (Wanted::Authorities, Kind::Host(_)) => return Err((number, BadTrust::IsAHostsLine)),
            (Wanted::HostKeys, Kind::Authority(_)) => return Err((number, BadTrust::IsAnAuthoritysLine)),
        }
        if let Kind::Host(names) | Kind::Authority(names) = line.kind {
            match hosts {
                Some(others) if others != names => return Err((number, BadTrust::SeveralHosts)),
                _ => hosts = Some(names),
            }
        }
        all.push(line.key);
    }
    if all.is_empty() { Err((1, BadTrust::Empty)) } else { Ok(all) }
}

fn is_algorithm(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| word.starts_with(prefix))
}

struct Line<'a> {
    kind: Kind<'a>,
    key: PublicKey,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Bare,
    Host(&'a str),
    Authority(&'a str),
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Result<Self, BadTrust> {
        fn word(text: &str) -> Option<(&str, &str)> {
            text.split_once([' ', '\t']).map(|(word, rest)| (word, rest.trim_start()))
        }
        let (first, rest) = word(text).ok_or(BadTrust::NotAKey)?;
        let (kind, key) = match first {
            "@cert-authority" => {
                let (names, key) = word(rest).ok_or(BadTrust::NotAKey)?;
                // Without names, it is a key with a marker before it.
                if is_algorithm(names) { (Kind::Authority(""), rest) } else { (Kind::Authority(names), key) }
            }
            marker if marker.starts_with('@') => return Err(BadTrust::Marker),
            algorithm if is_algorithm(algorithm) => (Kind::Bare, text),
            names => (Kind::Host(names), rest),
        };
        let key = PublicKey::from_openssh(key).map_err(|_| BadTrust::NotAKey)?;
        Ok(Self { kind, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn what_people_have_at_hand_is_taken_or_told_what_of_it_to_take() {
        use Wanted::{Authorities, HostKeys};
        for (text, wanted, answer) in [
            ("ONE", HostKeys, Ok(1)),
            ("ONE me@here", Authorities, Ok(1)),
            ("b.example.com ONE", HostKeys, Ok(1)),
            (
                "# b.example.com:22 SSH-2.0-OpenSSH_9.2\n[b.example.com]:2222 ONE\n[b.example.com]:2222 ONE\n",
                HostKeys,
                Ok(2),
            ),
            ("b.example.com,192.0.2.1 ONE", HostKeys, Ok(1)),
            ("|1|c2FsdA==|aGFzaA== ONE", HostKeys, Ok(1)),
            ("@cert-authority *.example.com ONE", Authorities, Ok(1)),
            ("@cert-authority\t*.example.com\tONE a comment", Authorities, Ok(1)),
            ("@cert-authority ONE", Authorities, Ok(1)),
            ("@cert-authority * ONE", HostKeys, Err("host_authority")),
            ("b.example.com ONE", Authorities, Err("host_key")),
            ("@revoked b.example.com ONE", HostKeys, Err("marker")),
            ("a ONE\nb ONE", HostKeys, Err("several hosts")),
            ("b.example.com ssh-ed25519 AAAA", HostKeys, Err("not a public key")),
            ("# ssh-keyscan found nothing", HostKeys, Err("no key")),
        ] {
            let text = text.replace("ONE", ONE);
            assert!(is_text(&text), "{text}");
            match (keys(&text, wanted), answer) {
                (Ok(keys), Ok(count)) => assert_eq!(keys.len(), count, "{text}"),
                (Err((_, why)), Err(words)) => assert!(why.to_string().contains(words), "{text}: {why}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        for path in
            ["/etc/ssh/ca.pub", "ca.pub", "my keys/ca.pub", "~/ca.pub", "secret", "ssh-ca.pub", "./@ca.pub"]
        {
            assert!(!is_text(path), "{path}");
        }
    }
}
