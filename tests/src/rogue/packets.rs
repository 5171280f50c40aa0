//! SSH's binary packets (RFC 4253 §6): plain, then `aes128-gcm@openssh.com` (RFC 5647) after
//! `curve25519-sha256` (RFC 8731).

use std::fmt;

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    digest::{SHA256, digest},
    rand::SystemRandom,
};

use super::{
    link::{Gone, Link},
    number,
};
use crate::wire::{Reader, Writer};

/// The largest packet that we take.
const LARGEST: usize = 1 << 20;
const TAG: usize = 16;

/// What our KEXINIT offers.
#[derive(Clone, Debug)]
pub struct Algorithms {
    /// Key exchanges.
    pub key_exchange: String,
    /// Host key algorithms.
    pub host_key: String,
    /// Ciphers, for both directions.
    pub cipher: String,
    /// MACs, for both directions.
    pub mac: String,
    /// Compression, for both directions.
    pub compression: String,
}

impl Default for Algorithms {
    /// The one set that we can also use.
    fn default() -> Self {
        Self {
            key_exchange: "curve25519-sha256,curve25519-sha256@libssh.org,ext-info-c,kex-strict-c-v00@openssh.com".into(),
            host_key: "ssh-ed25519,rsa-sha2-512,rsa-sha2-256,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,\
                       ssh-ed25519-cert-v01@openssh.com"
                .into(),
            cipher: "aes128-gcm@openssh.com".into(),
            mac: "hmac-sha2-256".into(),
            compression: "none".into(),
        }
    }
}

impl Algorithms {
    /// The KEXINIT message (RFC 4253 §7.1).
    #[must_use]
    pub fn kexinit(&self) -> Vec<u8> {
        Writer::message(number::KEXINIT)
            .raw(&[0x5a; 16])
            .string(&self.key_exchange)
            .string(&self.host_key)
            .string(&self.cipher)
            .string(&self.cipher)
            .string(&self.mac)
            .string(&self.mac)
            .string(&self.compression)
            .string(&self.compression)
            .string("")
            .string("")
            .flag(false)
            .u32(0)
            .0
    }
}

/// One direction's key and its counter.
struct Cipher {
    key: LessSafeKey,
    nonce: [u8; 12],
}

impl Cipher {
    fn new(key: &[u8], nonce: &[u8]) -> Self {
        Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key[..16]).unwrap()),
            nonce: nonce[..12].try_into().unwrap(),
        }
    }

    fn next_nonce(&mut self) -> Nonce {
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let counter = u64::from_be_bytes(self.nonce[4..].try_into().unwrap()).wrapping_add(1);
        self.nonce[4..].copy_from_slice(&counter.to_be_bytes());
        nonce
    }
}

/// A connection after its identification lines.
pub struct Packets {
    link: Link,
    sealing: Option<Cipher>,
    opening: Option<Cipher>,
    session: Vec<u8>,
    /// Whether a key exchange that the server begins is answered; else its KEXINIT is handed out like any
    /// message.
    pub follows_rekey: bool,
    /// The last EXT_INFO (RFC 8308) of the server.
    pub extensions: Option<Vec<u8>>,
}

impl fmt::Debug for Packets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Packets").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Packets {
    /// Nothing is encrypted yet.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self {
            link,
            sealing: None,
            opening: None,
            session: Vec::new(),
            follows_rekey: true,
            extensions: None,
        }
    }

    /// The bytes below, for what is not even a packet.
    pub fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// The connection alone, for a test that only waits for its end.
    #[must_use]
    pub fn into_link(self) -> Link {
        self.link
    }

    /// The session id: the hash of the first key exchange.
    #[must_use]
    pub fn session(&self) -> &[u8] {
        &self.session
    }

    /// Sends one message.
    pub fn send(&mut self, payload: &[u8]) -> Result<(), Gone> {
        let bytes = self.seal(payload);
        self.link.send(&bytes)
    }

    /// Sends many messages in one write.
    pub fn send_all<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Gone> {
        let mut bytes = Vec::new();
        for payload in payloads {
            bytes.extend(self.seal(payload));
        }
        self.link.send(&bytes)
    }

    fn seal(&mut self, payload: &[u8]) -> Vec<u8> {
        // With AES-GCM the length is not part of what is padded.
        let (block, outside) = if self.sealing.is_some() { (16, 0) } else { (8, 4) };
        let mut padding = block - (outside + 1 + payload.len()) % block;
        if padding < 4 {
            padding += block;
        }
        let length = (1 + payload.len() + padding) as u32;
        let mut packet = Writer::new().u32(length).byte(padding as u8).raw(payload).raw(&vec![0; padding]).0;
        if let Some(cipher) = &mut self.sealing {
            let nonce = cipher.next_nonce();
            let (head, body) = packet.split_at_mut(4);
            let tag = cipher.key.seal_in_place_separate_tag(nonce, Aad::from(&*head), body).unwrap();
            packet.extend_from_slice(tag.as_ref());
        }
        packet
    }

    /// The next message that means something; never empty.
    pub fn receive(&mut self) -> Result<Vec<u8>, Gone> {
        loop {
            let message = self.receive_any()?;
            match message[0] {
                number::DISCONNECT => {
                    let mut reader = Reader(&message[1..]);
                    let code = reader.u32().unwrap_or_default();
                    return Err(Gone::Disconnected { code, text: reader.text().unwrap_or_default() });
                }
                number::IGNORE | number::DEBUG => {}
                number::EXT_INFO => self.extensions = Some(message),
                number::KEXINIT if self.follows_rekey && !self.session.is_empty() => {
                    let ours = Algorithms::default().kexinit();
                    self.send(&ours)?;
                    self.agree(&ours, &message)?;
                }
                _ => return Ok(message),
            }
        }
    }

    fn receive_any(&mut self) -> Result<Vec<u8>, Gone> {
        let head = self.link.receive(4)?;
        let length = u32::from_be_bytes(head[..].try_into().unwrap()) as usize;
        if !(2..=LARGEST).contains(&length) {
            return Err(Gone::Garbled("a packet of an impossible length"));
        }
        let mut body = match &mut self.opening {
            None => self.link.receive(length)?,
            Some(cipher) => {
                let nonce = cipher.next_nonce();
                let mut sealed = self.link.receive(length + TAG)?;
                let opened = cipher.key.open_in_place(nonce, Aad::from(&head[..]), &mut sealed);
                opened.map_err(|_| Gone::Garbled("a packet that does not authenticate"))?;
                sealed.truncate(length);
                sealed
            }
        };
        let padding = usize::from(body.remove(0));
        body.truncate(body.len().saturating_sub(padding));
        if body.is_empty() { Err(Gone::Garbled("an empty message")) } else { Ok(body) }
    }

    /// Exchanges keys: the first time, or once more.
    pub fn exchange_keys(&mut self, offer: &Algorithms) -> Result<(), Gone> {
        let ours = offer.kexinit();
        self.send(&ours)?;
        let follows = std::mem::replace(&mut self.follows_rekey, false);
        // What the server sent before it noticed belongs to the time before; only floods would have us keep
        // it.
        let theirs = loop {
            let message = self.receive()?;
            if message[0] == number::KEXINIT {
                break message;
            }
        };
        self.follows_rekey = follows;
        self.agree(&ours, &theirs)
    }

    /// The exchange itself (RFC 5656 §4), once both KEXINITs are known.
    fn agree(&mut self, ours: &[u8], theirs: &[u8]) -> Result<(), Gone> {
        let secret = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        let public = secret.compute_public_key().unwrap();
        self.send(&Writer::message(number::KEX_ECDH_INIT).string(public.as_ref()).0)?;
        let reply = self.receive()?;
        if reply[0] != number::KEX_ECDH_REPLY {
            return Err(Gone::Garbled("no answer to the key exchange"));
        }
        let mut reader = Reader(&reply[1..]);
        let mut field = || reader.string().ok_or(Gone::Garbled("a key exchange cut short"));
        let (host_key, point) = (field()?, field()?);
        let peer = UnparsedPublicKey::new(&X25519, point);
        let shared = agree_ephemeral(secret, peer, Gone::Garbled("a bad point"), |shared| {
            Ok(Writer::new().mpint(shared).0)
        })?;

        let exchanged = Writer::new()
            .string(&self.link.client_id)
            .string(&self.link.server_id)
            .string(ours)
            .string(theirs)
            .string(host_key)
            .string(public.as_ref())
            .string(point)
            .raw(&shared);
        let hash = digest(&SHA256, &exchanged.0);
        if self.session.is_empty() {
            self.session = hash.as_ref().to_vec();
        }
        let derive = |letter: u8| {
            digest(&SHA256, &Writer::new().raw(&shared).raw(hash.as_ref()).byte(letter).raw(&self.session).0)
        };
        let sealing = Cipher::new(derive(b'C').as_ref(), derive(b'A').as_ref());
        let opening = Cipher::new(derive(b'D').as_ref(), derive(b'B').as_ref());

        self.send(&[number::NEWKEYS])?;
        self.sealing = Some(sealing);
        let answer = self.receive()?;
        if answer[0] != number::NEWKEYS {
            return Err(Gone::Garbled("no new keys"));
        }
        self.opening = Some(opening);
        Ok(())
    }
}
