//! Sets up russh for both ends of a connection: which algorithms are spoken, on what socket a
//! session runs, and how bytes go between a TCP socket and whatever carries a forwarded connection.
//!
//! - [`algorithms`]: the lists, and why each entry is in them.
//! - [`socket`]: the socket under an SSH session. It reads ahead while a write is pending, since russh does not, and can
//!   be cut from outside.
//! - [`preamble`]: what a server may say before SSH begins, which a client skips.
//! - [`relay`]: the copying itself, between a TCP socket and a [`relay::Source`] with a [`relay::Sink`]. It does not know
//!   what carries the bytes.
//! - [`key_exchange`]: which end replaces the keys of a session, and when.
//! - [`turns`]: how fast channels may be opened.
//! - [`budget`]: how much memory all of that may take, and who ends when it is too much.
//! - [`channel`]: an SSH channel as such a source and sink.
//! - [`streams`]: streams that outlive the connection which carries them, as such sources and sinks.
//! - [`race`]: which of several addresses to connect to, and when to try the next.

pub mod algorithms;
pub mod budget;
pub mod channel;
pub mod key_exchange;
pub mod preamble;
pub mod race;
pub mod relay;
pub mod socket;
pub mod streams;
pub mod turns;

/// The receive window of one channel, in bytes (RFC 4254 §5.2).
///
/// russh grants credit on receipt, so this bounds neither memory nor a slow reader; it has to cover the
/// bandwidth-delay product. 4 MiB is 300 Mbit/s at 100 ms.
pub const CHANNEL_WINDOW: u32 = 4 * 1024 * 1024;

/// The receive window of one channel at the bastion, in bytes. It costs nothing before it is used (see above), and streams,
/// whose credit bounds what is under way, never fill it.
pub const BASTION_WINDOW: u32 = 64 * 1024 * 1024;

/// The largest payload of one channel packet, in bytes. OpenSSH's own; a foreign peer may refuse more.
pub const CHANNEL_PACKET: u32 = 32 * 1024;

/// The same towards `pf-tunnel` and the bastion: one frame of a stream. OpenSSH's client sends as much where it may; each
/// peer is sent what it allows.
pub const BASTION_PACKET: u32 = 128 * 1024;
