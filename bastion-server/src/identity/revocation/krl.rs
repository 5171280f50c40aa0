//! Parses the binary format of OpenSSH's PROTOCOL.krl.

use ssh_key::{encoding::Decode, public::KeyData};

use super::{Certificates, Entries, Fault, KeyName, Malformed, Revocations, Scope, sha256};
use crate::identity::MAX_BLOB;

/// The bytes with which every KRL begins.
pub(super) const MAGIC: &[u8] = b"SSHKRL\n\0";
const VERSION: u32 = 1;

const CERTIFICATES: u8 = 1;
const EXPLICIT_KEY: u8 = 2;
const FINGERPRINT_SHA1: u8 = 3;
const SIGNATURE: u8 = 4;
const FINGERPRINT_SHA256: u8 = 5;
const EXTENSION: u8 = 255;

const SERIAL_LIST: u8 = 0x20;
const SERIAL_RANGE: u8 = 0x21;
const SERIAL_BITMAP: u8 = 0x22;
const KEY_ID: u8 = 0x23;
const CERTIFICATE_EXTENSION: u8 = 0x39;

/// The longest bitmap, in bytes, without the leading zero that keeps it from being negative. OpenSSH neither
/// writes nor reads longer ones.
const LONGEST_BITMAP: usize = 2048;

pub(super) fn parse(bytes: &[u8]) -> Result<Revocations, Malformed> {
    let mut file = Reader { bytes, offset: 0 };
    let mut revocations = Revocations::default();
    file.take(MAGIC.len())?;
    let at = file.offset;
    match file.u32()? {
        VERSION => {}
        version => return Err(Fault::Version(version).at(at)),
    }
    // The number and the time of the list, the flags, of which none is defined, and a reserved field.
    let (_number, _generated, _flags) = (file.u64()?, file.u64()?, file.u64()?);
    file.string()?;
    let _comment = file.text()?;
    while !file.is_empty() {
        let at = file.offset;
        let kind = file.u8()?;
        if kind == SIGNATURE {
            // An attacker who can replace the file can also remove the signature, so a signature that is only
            // checked when present proves nothing. OpenSSH once checked such signatures, against keys that
            // could not be configured, and refuses the file since 9.4.
            return Err(Fault::Signature.at(at));
        }
        let mut section = file.section()?;
        match kind {
            CERTIFICATES => certificates(&mut section, &mut revocations)?,
            EXPLICIT_KEY => section.each(|section| {
                let (at, blob) = section.string()?;
                // As for sshd, the blob need not be a key of a known type.
                let key = sha256(blob).ok_or(Fault::Truncated.at(at))?;
                revocations.add_key(key).map_err(|fault| fault.at(at))
            })?,
            FINGERPRINT_SHA1 => section.each(|section| {
                let (at, hash) = section.fingerprint()?;
                revocations.add_key_by_sha1(hash).map_err(|fault| fault.at(at))
            })?,
            FINGERPRINT_SHA256 => section.each(|section| {
                let (at, hash) = section.fingerprint()?;
                revocations.add_key(hash).map_err(|fault| fault.at(at))
            })?,
            EXTENSION => extension(&mut section)?,
            unknown => return Err(Fault::UnknownSection(unknown).at(at)),
        }
        section.end()?;
    }
    Ok(revocations.finish())
}

fn certificates(section: &mut Reader<'_>, revocations: &mut Revocations) -> Result<(), Malformed> {
    let scope = scope(section)?;
    let _reserved = section.string()?;
    let Revocations { certificates, entries, .. } = revocations;
    let listed = certificates.entry(scope).or_default();
    section.each(|section| {
        let at = section.offset;
        let kind = section.u8()?;
        let mut part = section.section()?;
        match kind {
            SERIAL_LIST => part.each(|part| {
                let at = part.offset;
                let serial = part.u64()?;
                listed.add_serials(serial, serial, entries).map_err(|fault| fault.at(at))
            })?,
            SERIAL_RANGE => {
                let at = part.offset;
                let (first, last) = (part.u64()?, part.u64()?);
                listed.add_serials(first, last, entries).map_err(|fault| fault.at(at))?;
            }
            SERIAL_BITMAP => bitmap(&mut part, listed, entries)?,
            KEY_ID => part.each(|part| {
                let at = part.offset;
                let key_id = part.text()?;
                listed.add_key_id(key_id, entries).map_err(|fault| fault.at(at))
            })?,
            CERTIFICATE_EXTENSION => extension(&mut part)?,
            unknown => return Err(Fault::UnknownCertificateSection(unknown).at(at)),
        }
        part.end()
    })
}

/// Reads the authority of a section; an empty key stands for all authorities. A blob that is not a key would
/// silently match no certificate, so it is a fault.
fn scope(section: &mut Reader<'_>) -> Result<Scope, Malformed> {
    let (at, blob) = section.string()?;
    if blob.is_empty() {
        return Ok(Scope::EveryAuthority);
    }
    let mut rest = blob;
    // The bound also limits how deep certificates can nest in the key.
    let key = (blob.len() <= MAX_BLOB).then(|| KeyData::decode(&mut rest).ok()).flatten();
    match key {
        Some(key) if rest.is_empty() && !key.is_certificate() => {
            KeyName::of(&key).map(|name| Scope::Authority(name.sha256)).ok_or(Fault::NoAuthority.at(at))
        }
        Some(_) | None => Err(Fault::NoAuthority.at(at)),
    }
}

/// Adds one serial number for each bit that is set, counting from the first; the lowest is in the last byte:
/// an `mpint` of RFC 4251 §5.
fn bitmap(part: &mut Reader<'_>, listed: &mut Certificates, entries: &mut Entries) -> Result<(), Malformed> {
    let at = part.offset;
    let first = part.u64()?;
    let (bits_at, bits) = part.string()?;
    let negative = bits.first().is_some_and(|byte| byte & 0x80 != 0);
    let bits = bits.strip_prefix(&[0]).unwrap_or(bits);
    if negative || bits.len() > LONGEST_BITMAP {
        return Err(Fault::Bitmap.at(bits_at));
    }
    for (position, byte) in (0_u64..).step_by(8).zip(bits.iter().rev()) {
        for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
            let serial = first.checked_add(position + bit).ok_or(Fault::BitmapWraps.at(at))?;
            listed.add_serials(serial, serial, entries).map_err(|fault| fault.at(at))?;
        }
    }
    Ok(())
}

/// No extension is known, so each is skipped, or refuses the file if it is marked critical.
fn extension(section: &mut Reader<'_>) -> Result<(), Malformed> {
    let at = section.offset;
    let _name = section.text()?;
    let critical = section.u8()? != 0;
    let _contents = section.string()?;
    if critical { Err(Fault::CriticalExtension.at(at)) } else { Ok(()) }
}

/// The rest of a file or of a section, and its offset.
#[derive(Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    /// The offset from the beginning of the file.
    offset: usize,
}

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Fault::Truncated.at(self.offset))?;
        self.bytes = rest;
        self.offset += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let at = self.offset;
        self.take(N)?.try_into().map_err(|_| Fault::Truncated.at(at))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads a string of RFC 4251 §5, and returns its offset too.
    fn string(&mut self) -> Result<(usize, &'a [u8]), Malformed> {
        let at = self.offset;
        let length = usize::try_from(self.u32()?).map_err(|_| Fault::Truncated.at(at))?;
        Ok((at, self.take(length).map_err(|_| Fault::Truncated.at(at))?))
    }

    /// Reads a C string: a NUL may end it, and may stand nowhere else.
    fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let (at, text) = self.string()?;
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        if text.contains(&0) { Err(Fault::Nul.at(at)) } else { Ok(text) }
    }

    fn fingerprint<const N: usize>(&mut self) -> Result<(usize, [u8; N]), Malformed> {
        let (at, hash) = self.string()?;
        let hash = hash.try_into().map_err(|_| Fault::Fingerprint(hash.len()).at(at))?;
        Ok((at, hash))
    }

    /// Returns a reader for the contents of a string.
    fn section(&mut self) -> Result<Self, Malformed> {
        let (_, bytes) = self.string()?;
        Ok(Self { bytes, offset: self.offset - bytes.len() })
    }

    fn each(&mut self, mut read: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        while !self.is_empty() {
            read(self)?;
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Fault::Trailing.at(self.offset)) }
    }
}
