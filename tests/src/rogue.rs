//! An SSH client of our own that may say anything: no honest client could be talked into half of what a
//! server must survive.
//!
//! Three layers, each usable alone: [`Link`] moves raw bytes (floods, broken identification lines),
//! [`Packets`] moves messages, before and after a key exchange, and [`Client`] logs in and opens channels.
//! The server's host key is ignored on purpose: an attacker does not care.

mod link;
mod packets;

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

pub use link::{Gone, Link, PATIENCE};
pub use packets::{Algorithms, Packets};

use crate::{
    key::Key,
    wire::{Reader, Writer},
};

/// How long to listen to a server that refuses and then says why.
pub const SAYS_WHY: Duration = Duration::from_secs(10);
/// How long to listen to one that is not expected to say more than no.
pub const SAYS_NOTHING: Duration = Duration::from_millis(200);

/// Message numbers of RFC 4250 §4.1.2.
pub mod number {
    #![allow(missing_docs, reason = "the names are those of the RFC")]
    pub const DISCONNECT: u8 = 1;
    pub const IGNORE: u8 = 2;
    pub const UNIMPLEMENTED: u8 = 3;
    pub const DEBUG: u8 = 4;
    pub const SERVICE_REQUEST: u8 = 5;
    pub const SERVICE_ACCEPT: u8 = 6;
    pub const EXT_INFO: u8 = 7;
    pub const KEXINIT: u8 = 20;
    pub const NEWKEYS: u8 = 21;
    pub const KEX_ECDH_INIT: u8 = 30;
    pub const KEX_ECDH_REPLY: u8 = 31;
    pub const USERAUTH_REQUEST: u8 = 50;
    pub const USERAUTH_FAILURE: u8 = 51;
    pub const USERAUTH_SUCCESS: u8 = 52;
    pub const USERAUTH_BANNER: u8 = 53;
    pub const USERAUTH_PK_OK: u8 = 60;
    pub const USERAUTH_INFO_REQUEST: u8 = 60;
    pub const USERAUTH_INFO_RESPONSE: u8 = 61;
    pub const GLOBAL_REQUEST: u8 = 80;
    pub const REQUEST_SUCCESS: u8 = 81;
    pub const REQUEST_FAILURE: u8 = 82;
    pub const CHANNEL_OPEN: u8 = 90;
    pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub const CHANNEL_DATA: u8 = 94;
    pub const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub const CHANNEL_EOF: u8 = 96;
    pub const CHANNEL_CLOSE: u8 = 97;
    pub const CHANNEL_REQUEST: u8 = 98;
    pub const CHANNEL_SUCCESS: u8 = 99;
    pub const CHANNEL_FAILURE: u8 = 100;
    /// Of OpenSSH's PROTOCOL file.
    pub const PING: u8 = 192;
}

/// One `publickey` request: an honest one, until a field is changed.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The login name.
    pub user: Vec<u8>,
    /// The name that the signature covers, when that is another.
    pub signed_user: Option<Vec<u8>>,
    /// The public key algorithm announced.
    pub algorithm: String,
    /// The key or certificate offered.
    pub blob: Vec<u8>,
    /// The key or certificate that the signature covers, when that is another.
    pub signed_blob: Option<Vec<u8>>,
    /// Who signs.
    pub key: Key,
    /// The signature's own name; for RSA it chooses the hash.
    pub signature_name: String,
    /// Breaks the signature by one bit.
    pub flip: bool,
}

impl Attempt {
    /// Offers a certificate, and signs with the key that it certifies.
    #[must_use]
    pub fn certificate(user: impl Into<Vec<u8>>, key: &Key, blob: Vec<u8>) -> Self {
        // The name in the blob is not repeated here: for RSA the algorithm announced says which hash will be
        // used.
        let algorithm = format!("{}-cert-v01@openssh.com", key.signature_name());
        Self { algorithm, blob, ..Self::plain(user, key) }
    }

    /// Offers a plain public key.
    #[must_use]
    pub fn plain(user: impl Into<Vec<u8>>, key: &Key) -> Self {
        Self {
            user: user.into(),
            signed_user: None,
            algorithm: key.signature_name(),
            blob: key.blob(),
            signed_blob: None,
            key: key.clone(),
            signature_name: key.signature_name(),
            flip: false,
        }
    }

    /// Changes fields.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn request(&self, user: &[u8], blob: &[u8], signs: bool) -> Writer {
        Writer::message(number::USERAUTH_REQUEST)
            .string(user)
            .string("ssh-connection")
            .string("publickey")
            .flag(signs)
            .string(&self.algorithm)
            .string(blob)
    }

    /// The question whether a signature would do, without one (RFC 4252 §7).
    #[must_use]
    pub fn query(&self) -> Vec<u8> {
        self.request(&self.user, &self.blob, false).0
    }

    /// The whole message, signed for this connection (RFC 4252 §7).
    #[must_use]
    pub fn message(&self, session: &[u8]) -> Vec<u8> {
        let user = self.signed_user.as_ref().unwrap_or(&self.user);
        let blob = self.signed_blob.as_ref().unwrap_or(&self.blob);
        let signed = Writer::new().string(session).raw(&self.request(user, blob, true).0).0;
        let mut signature = self.key.sign(&self.signature_name, &signed);
        if self.flip {
            *signature.last_mut().unwrap() ^= 1;
        }
        self.request(&self.user, &self.blob, true).string(signature).0
    }
}

/// What the server made of a login.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Whether we are in.
    pub accepted: bool,
    /// The methods that the server says can go on, when it refused.
    pub methods: Option<String>,
    /// The banners it sent on the way.
    pub banners: Vec<String>,
    /// How it hung up, if it did.
    pub gone: Option<Gone>,
}

impl Verdict {
    /// All that the server said in words.
    #[must_use]
    pub fn said(&self) -> String {
        let farewell = match &self.gone {
            Some(Gone::Disconnected { text, .. }) => text.as_str(),
            _ => "",
        };
        format!("{}\n{farewell}", self.banners.join("\n"))
    }

    /// The code in a line `certificate refused: CODE: sentence`.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let said = self.said();
        let line = said.lines().find_map(|line| line.split_once("certificate refused: "))?.1;
        Some(line.split(':').next().unwrap_or(line).trim().to_owned())
    }
}

/// Why a channel did not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFailure {
    /// The reason code of RFC 4254 §5.1: 1 prohibited, 2 connect failed, 3 unknown type, 4 resource shortage.
    pub reason: u32,
    /// The description.
    pub text: String,
}

/// A channel that was asked for, by our number of it.
#[derive(Debug)]
pub struct Asked(u32);

/// An open channel.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Our number for it.
    pub ours: u32,
    /// The server's number for it.
    pub theirs: u32,
    /// The window that the server granted at first.
    pub window: u32,
    /// The largest packet that it takes.
    pub packet: u32,
}

/// A connection after its key exchange.
#[derive(Debug)]
pub struct Client {
    /// The messages below.
    pub packets: Packets,
    waiting: VecDeque<Vec<u8>>,
    next_channel: u32,
}

/// What we grant: more than any test reads through one channel without asking for it.
const WINDOW: u32 = 0x7fff_ffff;
const PACKET: u32 = 0x8000;

impl Client {
    /// Connects and exchanges keys.
    pub fn connect(server: SocketAddr) -> Result<Self, Gone> {
        Self::over(Link::connect(server)?)
    }

    /// Exchanges keys over a connection made otherwise.
    pub fn over(mut link: Link) -> Result<Self, Gone> {
        link.identify("SSH-2.0-rogue")?;
        let mut packets = Packets::new(link);
        packets.exchange_keys(&Algorithms::default())?;
        packets.send(&Writer::message(number::SERVICE_REQUEST).string("ssh-userauth").0)?;
        let mut client = Self { packets, waiting: VecDeque::new(), next_channel: 0 };
        client.wait_for(|message| message[0] == number::SERVICE_ACCEPT)?;
        Ok(client)
    }

    /// Connects and logs in with a certificate.
    ///
    /// # Panics
    /// When the server refuses.
    #[must_use]
    pub fn login(server: SocketAddr, user: &str, key: &Key, certificate: Vec<u8>) -> Self {
        let mut client = Self::connect(server).expect("a key exchange");
        let verdict = client.attempt(&Attempt::certificate(user, key, certificate));
        assert!(verdict.accepted, "login refused: {verdict:?}");
        client
    }

    /// Makes one `publickey` request and waits for the answer.
    pub fn attempt(&mut self, attempt: &Attempt) -> Verdict {
        let message = attempt.message(self.packets.session());
        self.authenticate(&message)
    }

    /// Sends any `USERAUTH_REQUEST` and waits for the answer.
    pub fn authenticate(&mut self, message: &[u8]) -> Verdict {
        let mut verdict = Verdict::default();
        let mut answer = self.packets.send(message);
        while answer.is_ok() && !verdict.accepted && verdict.methods.is_none() {
            answer = self.packets.receive().map(|message| match message[0] {
                number::USERAUTH_SUCCESS => verdict.accepted = true,
                number::USERAUTH_FAILURE => {
                    verdict.methods = Some(Reader(&message[1..]).text().unwrap_or_default());
                }
                number::USERAUTH_BANNER => {
                    verdict.banners.push(Reader(&message[1..]).text().unwrap_or_default());
                }
                _ => self.waiting.push_back(message),
            });
        }
        verdict.gone = answer.err();
        verdict
    }

    /// [`Client::attempt`], and after a refusal also what the server says: to who asks for its words, and
    /// otherwise before it hangs up, if it does within `patience`.
    #[must_use]
    pub fn attempt_to_the_end(&mut self, attempt: &Attempt, patience: Duration) -> Verdict {
        let mut verdict = self.attempt(attempt);
        if !verdict.accepted && verdict.gone.is_none() {
            if verdict.methods.as_deref().is_some_and(|methods| methods.contains("keyboard-interactive")) {
                verdict.banners.extend(self.instructions(&attempt.user));
            } else {
                verdict.gone = self.farewell(patience);
            }
        }
        verdict
    }

    /// What the server shows to a person who logs in by `keyboard-interactive` (RFC 4256 §3.2), if it asks
    /// nothing there.
    pub fn instructions(&mut self, user: &[u8]) -> Option<String> {
        let request = Writer::message(number::USERAUTH_REQUEST)
            .string(user)
            .string("ssh-connection")
            .string("keyboard-interactive")
            .string("")
            .string("");
        self.packets.send(&request.0).ok()?;
        let answer = self
            .wait_for(|message| {
                matches!(message[0], number::USERAUTH_INFO_REQUEST | number::USERAUTH_FAILURE)
            })
            .ok()?;
        let mut reader = Reader(answer.strip_prefix(&[number::USERAUTH_INFO_REQUEST])?);
        let (_name, instructions, _language, prompts) =
            (reader.text()?, reader.text()?, reader.text()?, reader.u32()?);
        assert_eq!(prompts, 0, "nothing is asked");
        self.packets.send(&Writer::message(number::USERAUTH_INFO_RESPONSE).u32(0).0).ok()?;
        let _ = self.wait_for(|message| message[0] == number::USERAUTH_FAILURE).ok()?;
        Some(instructions)
    }

    /// Asks whether a signature with a key or certificate would do.
    pub fn query(&mut self, attempt: &Attempt) -> Result<bool, Gone> {
        self.packets.send(&attempt.query())?;
        let answer =
            self.wait_for(|message| matches!(message[0], number::USERAUTH_PK_OK | number::USERAUTH_FAILURE))?;
        Ok(answer[0] == number::USERAUTH_PK_OK)
    }

    /// What the server says after its answer and before it hangs up, if it does within `patience`.
    pub fn farewell(&mut self, patience: Duration) -> Option<Gone> {
        self.packets.link().patience(patience);
        let end = loop {
            match self.packets.receive() {
                Ok(message) => self.waiting.push_back(message),
                Err(end) => break end,
            }
        };
        self.packets.link().patience(PATIENCE);
        (end != Gone::Silent).then_some(end)
    }

    /// A login by another method, such as `none`, with the method's own fields.
    pub fn authenticate_by(&mut self, user: &str, method: &str, fields: &[u8]) -> Verdict {
        self.authenticate_by_bytes(user.as_bytes(), method, fields)
    }

    /// [`Client::authenticate_by`], with a name that need not be text.
    pub fn authenticate_by_bytes(&mut self, user: &[u8], method: &str, fields: &[u8]) -> Verdict {
        let message = Writer::message(number::USERAUTH_REQUEST)
            .string(user)
            .string("ssh-connection")
            .string(method)
            .raw(fields);
        self.authenticate(&message.0)
    }

    /// The next message that fits; the others are kept until they are asked for.
    pub fn wait_for(&mut self, fits: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Gone> {
        if let Some(index) = self.waiting.iter().position(|message| fits(message)) {
            return Ok(self.waiting.remove(index).unwrap());
        }
        loop {
            let message = self.packets.receive()?;
            if fits(&message) {
                return Ok(message);
            }
            self.waiting.push_back(message);
        }
    }

    /// Asks for a channel of any type, with any fields.
    pub fn open(&mut self, kind: &str, fields: &[u8]) -> Result<Result<Channel, OpenFailure>, Gone> {
        let asked = self.begin_open(kind, fields)?;
        self.opened(asked)
    }

    /// [`Client::open`], without waiting for the answer.
    pub fn begin_open(&mut self, kind: &str, fields: &[u8]) -> Result<Asked, Gone> {
        let ours = self.next_channel;
        self.next_channel += 1;
        let message =
            Writer::message(number::CHANNEL_OPEN).string(kind).u32(ours).u32(WINDOW).u32(PACKET).raw(fields);
        self.packets.send(&message.0)?;
        Ok(Asked(ours))
    }

    /// Waits for the answer to [`Client::begin_open`].
    pub fn opened(&mut self, Asked(ours): Asked) -> Result<Result<Channel, OpenFailure>, Gone> {
        let answer = self.wait_for(|message| {
            matches!(message[0], number::CHANNEL_OPEN_CONFIRMATION | number::CHANNEL_OPEN_FAILURE)
                && message[1..].starts_with(&ours.to_be_bytes())
        })?;
        let mut reader = Reader(&answer[5..]);
        let mut field = || reader.u32().unwrap_or_default();
        Ok(if answer[0] == number::CHANNEL_OPEN_CONFIRMATION {
            Ok(Channel { ours, theirs: field(), window: field(), packet: field() })
        } else {
            Err(OpenFailure { reason: field(), text: reader.text().unwrap_or_default() })
        })
    }

    /// Asks for a connection to any host, by any bytes, and any port, up to 32 bits of it.
    pub fn forward(
        &mut self,
        host: impl AsRef<[u8]>,
        port: u32,
    ) -> Result<Result<Channel, OpenFailure>, Gone> {
        let fields = Writer::new().string(host).u32(port).string("127.0.0.1").u32(40_000);
        self.open("direct-tcpip", &fields.0)
    }

    /// Makes a request on a channel; the answer says whether the server granted it.
    pub fn request(&mut self, channel: Channel, name: &str, fields: &[u8]) -> Result<bool, Gone> {
        let message =
            Writer::message(number::CHANNEL_REQUEST).u32(channel.theirs).string(name).flag(true).raw(fields);
        self.packets.send(&message.0)?;
        let ours = channel.ours.to_be_bytes();
        let answer = self.wait_for(|message| {
            matches!(message[0], number::CHANNEL_SUCCESS | number::CHANNEL_FAILURE)
                && message[1..].starts_with(&ours)
        })?;
        Ok(answer[0] == number::CHANNEL_SUCCESS)
    }

    /// Makes a request about the whole connection; the answer says whether the server granted it.
    pub fn global_request(&mut self, name: &str, fields: &[u8]) -> Result<bool, Gone> {
        self.packets.send(&Writer::message(number::GLOBAL_REQUEST).string(name).flag(true).raw(fields).0)?;
        let answer =
            self.wait_for(|message| matches!(message[0], number::REQUEST_SUCCESS | number::REQUEST_FAILURE))?;
        Ok(answer[0] == number::REQUEST_SUCCESS)
    }

    /// Sends data, whatever the window.
    pub fn write(&mut self, channel: Channel, data: &[u8]) -> Result<(), Gone> {
        for piece in data.chunks(PACKET as usize) {
            self.packets.send(&Writer::message(number::CHANNEL_DATA).u32(channel.theirs).string(piece).0)?;
        }
        Ok(())
    }

    /// Reads until `length` bytes or the channel's end.
    pub fn read(&mut self, channel: Channel, length: usize) -> Result<Vec<u8>, Gone> {
        let ours = channel.ours.to_be_bytes();
        let mut data = Vec::new();
        while data.len() < length {
            let message = self.wait_for(|message| {
                matches!(
                    message[0],
                    number::CHANNEL_DATA
                        | number::CHANNEL_EXTENDED_DATA
                        | number::CHANNEL_EOF
                        | number::CHANNEL_CLOSE
                ) && message[1..].starts_with(&ours)
            })?;
            match message[0] {
                number::CHANNEL_DATA => data.extend(Reader(&message[5..]).string().unwrap_or_default()),
                number::CHANNEL_EXTENDED_DATA => {
                    data.extend(Reader(&message[9..]).string().unwrap_or_default())
                }
                _ => break,
            }
        }
        Ok(data)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self, channel: Channel) -> Result<(), Gone> {
        self.packets.send(&Writer::message(number::CHANNEL_EOF).u32(channel.theirs).0)
    }

    /// Closes a channel.
    pub fn close(&mut self, channel: Channel) -> Result<(), Gone> {
        self.packets.send(&Writer::message(number::CHANNEL_CLOSE).u32(channel.theirs).0)
    }
}
