//! Parses a plain list: one public key a line, as in `authorized_keys` without options.

use std::str;

use ssh_key::{Certificate, PublicKey};

use super::{Fault, KeyName, Malformed, Revocations};

/// The longest line, in bytes: a certificate of the largest accepted size, and a comment. The bound also
/// limits how deep certificates can nest in each other before the library parses them.
const LONGEST_LINE: usize = 24 * 1024;

pub(super) fn parse(file: &[u8]) -> Result<Revocations, Malformed> {
    let mut revocations = Revocations::default();
    let mut offset = 0;
    for (index, line) in file.split(|&byte| byte == b'\n').enumerate() {
        let text = line.trim_ascii();
        if !text.is_empty() && !text.starts_with(b"#") {
            let key = key(text).ok_or(Fault::NoKeyInLine(index + 1).at(offset))?;
            revocations.add_key(key.sha256).map_err(|fault| fault.at(offset))?;
        }
        offset += line.len() + 1;
    }
    Ok(revocations.finish())
}

/// Returns the key of a line, or the key of the certificate in it: sshd compares only keys.
fn key(line: &[u8]) -> Option<KeyName> {
    if line.len() > LONGEST_LINE {
        return None;
    }
    // Only the comment may be in an encoding other than ASCII, and the parser skips it.
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (name, base64) = (str::from_utf8(words.next()?).ok()?, str::from_utf8(words.next()?).ok()?);
    let line = format!("{name} {base64}");
    match PublicKey::from_openssh(&line) {
        // The line names another key type than the key has.
        Ok(key) if key.key_data().is_certificate() => None,
        Ok(key) => KeyName::of(key.key_data()),
        Err(_) => KeyName::of(Certificate::from_openssh(&line).ok()?.public_key()),
    }
}
