//! Parses and writes the greeting of a server (`Protocol::HandshakeV10`).

use super::{flag, plugin};
use crate::{link::LocalTls, reader::Reader};

/// The bytes of a scramble that passwords are mixed with. A zero byte follows them.
const SCRAMBLE: usize = 20;

/// Why a payload is no greeting, or no response to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field is missing, or does not end.
    #[error("it ends in the middle of a field")]
    Fields,
    /// It begins like no greeting of version 10.
    #[error("it is of version {0}, and not of version 10")]
    Version(u8),
    /// It is of a time before passwords were sent as they are today.
    #[error("it lacks flags that every version since 4.1 has")]
    Old,
    /// It has more attributes than any client sends.
    #[error("it has too many attributes")]
    Attributes,
}

/// What a server says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    version: Vec<u8>,
    connection: u32,
    scramble: [u8; SCRAMBLE],
    flags: u32,
    mariadb_flags: u32,
    collation: u8,
    status: u16,
    plugin: Vec<u8>,
}

impl Greeting {
    /// The greeting for a client that will only be refused, where there is no server to greet it.
    #[must_use]
    pub fn without_server() -> Self {
        Self {
            version: b"8.0.0-not-connected".to_vec(),
            connection: 0,
            scramble: *b"no-server-to-log-in.",
            flags: flag::NEEDED | flag::LONG_PASSWORD | flag::CONNECT_WITH_DB | flag::LENENC_AUTH,
            mariadb_flags: 0,
            // utf8mb4_general_ci
            collation: 45,
            status: 2,
            plugin: plugin::NATIVE.to_vec(),
        }
    }

    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        let fields = Malformed::Fields;
        let version = reader.u8().ok_or(fields)?;
        if version != 10 {
            return Err(Malformed::Version(version));
        }
        let version = reader.until_zero().ok_or(fields)?;
        let connection = reader.u32_le().ok_or(fields)?;
        let first = reader.take(8).ok_or(fields)?;
        reader.take(1).ok_or(fields)?;
        let low = reader.u16_le().ok_or(fields)?;
        if reader.is_empty() {
            return Err(Malformed::Old);
        }
        let collation = reader.u8().ok_or(fields)?;
        let status = reader.u16_le().ok_or(fields)?;
        let high = reader.u16_le().ok_or(fields)?;
        let flags = u32::from(low) | u32::from(high) << 16;
        if flags & flag::NEEDED != flag::NEEDED {
            return Err(Malformed::Old);
        }
        let length = usize::from(reader.u8().ok_or(fields)?);
        reader.take(6).ok_or(fields)?;
        // Four bytes that MySQL reserves. A server without its first flag is MariaDB, and has flags there.
        let reserved = reader.u32_le().ok_or(fields)?;
        let mariadb_flags = if flags & flag::LONG_PASSWORD == 0 { reserved } else { 0 };
        let rest = reader.take(length.saturating_sub(8).max(13)).ok_or(fields)?;
        let mut scramble = [0; SCRAMBLE];
        let all = first.iter().chain(rest.get(..SCRAMBLE - 8).ok_or(fields)?);
        scramble.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        let plugin = reader.until_zero_or_end();
        let (version, plugin) = (version.to_vec(), plugin.to_vec());
        Ok(Self { version, connection, scramble, flags, mariadb_flags, collation, status, plugin })
    }

    /// The server's version, as it says it.
    #[must_use]
    pub fn version(&self) -> &[u8] {
        &self.version
    }

    /// The number that the server gave to the connection.
    #[must_use]
    pub fn connection(&self) -> u32 {
        self.connection
    }

    pub(crate) fn scramble(&self) -> &[u8; SCRAMBLE] {
        &self.scramble
    }

    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    pub(crate) fn mariadb_flags(&self) -> u32 {
        self.mariadb_flags
    }

    pub(crate) fn plugin(&self) -> &[u8] {
        &self.plugin
    }

    /// Whether the server speaks TLS.
    pub(crate) fn offers_tls(&self) -> bool {
        self.flags & flag::SSL != 0
    }

    /// The greeting for our client: the server's, less the flags that cannot be passed through, with a
    /// plugin that lets a client in without a password, and our own TLS.
    #[must_use]
    pub(crate) fn offered(&self, tls: LocalTls) -> Self {
        let ours = match tls {
            LocalTls::Offered => flag::SSL,
            LocalTls::Absent => 0,
        };
        let is_caching = self.plugin == plugin::CACHING;
        Self {
            flags: self.flags & !flag::WITHHELD | ours,
            mariadb_flags: self.mariadb_flags & flag::MARIADB,
            plugin: if is_caching { plugin::CACHING } else { plugin::NATIVE }.to_vec(),
            ..self.clone()
        }
    }

    pub(crate) fn to_payload(&self) -> Vec<u8> {
        let [low, high] = [self.flags & 0xffff, self.flags >> 16].map(|half| half.to_le_bytes());
        let (first, rest) = self.scramble.split_at(8);
        [
            &[10],
            &self.version[..],
            &[0],
            &self.connection.to_le_bytes(),
            first,
            &[0],
            &low[..2],
            &[self.collation],
            &self.status.to_le_bytes(),
            &high[..2],
            &[21],
            &[0; 6],
            &self.mariadb_flags.to_le_bytes(),
            rest,
            &[0],
            &self.plugin,
            &[0],
        ]
        .concat()
    }
}
