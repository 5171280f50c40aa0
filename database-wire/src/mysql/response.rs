//! Parses and writes the response of a client to the greeting (`Protocol::HandshakeResponse41`).

use std::fmt;

use zeroize::Zeroizing;

use super::{
    MOST_ATTRIBUTES, flag,
    greeting::{Greeting, Malformed},
};
use crate::reader::Reader;

/// The bytes up to the user's name, which by themselves are a request for TLS.
pub(crate) const FIXED: usize = 32;

/// What a client wants: flags, user, database, and attributes that describe it.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    flags: u32,
    longest_packet: u32,
    collation: u8,
    /// Reserved, but for MariaDB's flags in the last four bytes.
    reserved: [u8; 23],
    user: Vec<u8>,
    answer: Zeroizing<Vec<u8>>,
    database: Option<Vec<u8>>,
    plugin: Option<Vec<u8>>,
    /// Names and values, each with its length before it.
    attributes: Vec<u8>,
}

/// Whether a packet asks for TLS.
pub(crate) fn asks_for_tls(payload: &[u8]) -> bool {
    payload.len() == FIXED && Reader(payload).u32_le().is_some_and(|flags| flags & flag::SSL != 0)
}

impl Response {
    /// `greeting` is the one that the client was given: flags that it did not have are not taken.
    pub(crate) fn parse(payload: &[u8], greeting: &Greeting) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        let fields = Malformed::Fields;
        let flags = reader.u32_le().ok_or(fields)? & greeting.flags();
        if flags & (flag::PROTOCOL_41 | flag::SECURE_CONNECTION)
            != flag::PROTOCOL_41 | flag::SECURE_CONNECTION
        {
            return Err(Malformed::Old);
        }
        let longest_packet = reader.u32_le().ok_or(fields)?;
        let collation = reader.u8().ok_or(fields)?;
        let mut reserved = [0; 23];
        let bytes = reader.take(23).ok_or(fields)?;
        // MySQL's clients have zeros there.
        if flags & flag::LONG_PASSWORD == 0 {
            let mask = [[0; 4].as_slice(), &[0; 15], &greeting.mariadb_flags().to_le_bytes()].concat();
            let masked = bytes.iter().zip(mask).map(|(byte, mask)| byte & mask);
            reserved.iter_mut().zip(masked).for_each(|(to, from)| *to = from);
        }
        let user = reader.until_zero().ok_or(fields)?.to_vec();
        let length = match flags & flag::LENENC_AUTH {
            0 => reader.u8().map(u64::from),
            _ => reader.lenenc(),
        };
        let answer = reader.take_u64(length.ok_or(fields)?).ok_or(fields)?;
        let answer = Zeroizing::new(answer.to_vec());
        let has = |wanted: u32| flags & wanted != 0;
        let database = has(flag::CONNECT_WITH_DB).then(|| reader.until_zero_or_end().to_vec());
        let plugin = has(flag::PLUGIN_AUTH).then(|| reader.until_zero_or_end().to_vec());
        // Some clients set the flag, and send none.
        let mut attributes = Vec::new();
        if has(flag::CONNECT_ATTRS) && !reader.is_empty() {
            let length = reader.lenenc().ok_or(fields)?;
            attributes = reader.take_u64(length).ok_or(fields)?.to_vec();
        }
        let database = database.filter(|database| !database.is_empty());
        let mut each = Reader(&attributes);
        let mut count = 0;
        while !each.is_empty() {
            // A name, and a value.
            for _ in 0..2 {
                let length = each.lenenc().ok_or(fields)?;
                each.take_u64(length).ok_or(fields)?;
            }
            count += 1;
            if count > MOST_ATTRIBUTES {
                return Err(Malformed::Attributes);
            }
        }
        Ok(Self { flags, longest_packet, collation, reserved, user, answer, database, plugin, attributes })
    }

    /// The user that the client names.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        &self.user
    }

    /// The database that the client wants to begin with.
    #[must_use]
    pub fn database(&self) -> Option<&[u8]> {
        self.database.as_deref()
    }

    /// What the client says about itself, such as `program_name`.
    pub fn attributes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut reader = Reader(&self.attributes);
        std::iter::from_fn(move || {
            let mut text = || {
                let length = reader.lenenc()?;
                reader.take_u64(length)
            };
            Some((text()?, text()?))
        })
    }

    /// The plugin that the client's answer is for; none in clients of a time before plugins.
    pub(crate) fn plugin(&self) -> Option<&[u8]> {
        self.plugin.as_deref()
    }

    pub(crate) fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// The flags for our login to the server: those of the client, and what our login needs.
    pub(crate) fn flags_for(&self, is_tls: bool, has_database: bool) -> u32 {
        let own = flag::SSL | flag::CONNECT_WITH_DB;
        let tls = if is_tls { flag::SSL } else { 0 };
        let database = if has_database { flag::CONNECT_WITH_DB } else { 0 };
        self.flags & !own | flag::NEEDED | tls | database
    }

    /// The request for TLS, and the first part of every response.
    pub(crate) fn fixed(&self, flags: u32) -> Vec<u8> {
        let bytes = [&flags.to_le_bytes()[..], &self.longest_packet.to_le_bytes(), &[self.collation]];
        [&bytes.concat()[..], &self.reserved].concat()
    }

    /// Our response: that of the client, for another user, with another answer.
    pub(crate) fn for_login(&self, login: &ForLogin<'_>) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(
            FIXED + 512 + login.user.len() + login.answer.len() + self.attributes.len(),
        ));
        out.extend_from_slice(&self.fixed(login.flags));
        out.extend_from_slice(login.user);
        out.push(0);
        // Both encodings of a length are this for less than 251 bytes, which every answer has.
        out.push(u8::try_from(login.answer.len()).unwrap_or(0));
        out.extend_from_slice(login.answer);
        if let Some(database) = login.database {
            out.extend_from_slice(database);
            out.push(0);
        }
        out.extend_from_slice(login.plugin);
        out.push(0);
        if login.flags & flag::CONNECT_ATTRS != 0 {
            out.extend_from_slice(&lenenc(self.attributes.len()));
            out.extend_from_slice(&self.attributes);
        }
        out
    }
}

/// The client's answer is not printed.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("flags", &self.flags)
            .field("user", &self.user.escape_ascii().to_string())
            .field("database", &self.database.as_ref().map(|name| name.escape_ascii().to_string()))
            .finish_non_exhaustive()
    }
}

/// What is ours in our response.
pub(crate) struct ForLogin<'a> {
    pub(crate) flags: u32,
    pub(crate) user: &'a [u8],
    pub(crate) answer: &'a [u8],
    pub(crate) database: Option<&'a [u8]>,
    pub(crate) plugin: &'a [u8],
}

/// A length as the protocol encodes it.
fn lenenc(length: usize) -> Vec<u8> {
    let [a, b, c, ..] = u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes();
    match length {
        0..=250 => vec![a],
        251..=0xffff => vec![0xfc, a, b],
        _ => vec![0xfd, a, b, c],
    }
}
