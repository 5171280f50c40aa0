//! Digests, as the logins of databases combine them.

use aws_lc_rs::digest::{self, Algorithm};
use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

/// The digest of these pieces, one after the other.
pub(crate) fn digest(algorithm: &'static Algorithm, pieces: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut context = digest::Context::new(algorithm);
    for piece in pieces {
        context.update(piece);
    }
    Zeroizing::new(context.finish().as_ref().to_vec())
}

/// MD5 of these pieces in hexadecimal, as PostgreSQL stores and sends it.
pub(crate) fn md5_hex(pieces: &[&[u8]]) -> Zeroizing<String> {
    let mut context = Md5::new();
    for piece in pieces {
        context.update(piece);
    }
    let digest = Zeroizing::new(<[u8; 16]>::from(context.finalize()));
    let mut hex = Zeroizing::new(String::with_capacity(32));
    for byte in digest.iter() {
        for half in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(half.into(), 16).unwrap_or('0'));
        }
    }
    hex
}
