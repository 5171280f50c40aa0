//! Proves a password without sending it: SCRAM-SHA-256 (RFC 5802 and 7677), bound to TLS or not.
//!
//! As in PostgreSQL, the name in the exchange is empty, since the startup message has it, and a password that
//! SASLprep (RFC 4013) refuses is taken as it is.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest::SHA256, hmac, pbkdf2, rand};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{hash::digest, password::Password};

/// The mechanism without a binding.
pub(crate) const PLAIN: &str = "SCRAM-SHA-256";
/// The mechanism that is bound to the server's certificate.
pub(crate) const PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The most rounds that a server may ask for: a second of work. PostgreSQL's default is 4096.
const MOST_ROUNDS: u32 = 1_000_000;
/// Rounds that our own server side asks for.
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
/// The longest salt or nonce. PostgreSQL's have 16 bytes.
const LONGEST_FIELD: usize = 1024;

/// Random bytes that make an exchange unlike every other.
#[derive(Clone, Copy, Debug)]
pub struct Nonce([u8; 18]);

impl Nonce {
    /// Random bytes of the system.
    ///
    /// # Errors
    /// When the system has none.
    pub fn random() -> Result<Self, ScramError> {
        let mut bytes = [0; 18];
        rand::fill(&mut bytes).map_err(|_| ScramError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// These bytes, which must never have been used: for tests.
    #[must_use]
    pub fn new(bytes: [u8; 18]) -> Self {
        Self(bytes)
    }
}

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The system has no random bytes.
    #[error("the system has no random numbers")]
    NoRandomness,
    /// A message is not what RFC 5802 says.
    #[error("malformed SCRAM message")]
    Malformed,
    /// The other side went on with a nonce that does not begin with ours, as a replay would.
    #[error("the SCRAM nonce is not the one that was sent")]
    Nonce,
    /// The server asks for more work than a second.
    #[error("the server asks for {0} rounds of SCRAM, of which {MOST_ROUNDS} are done at most")]
    Rounds(u64),
    /// The server does not know the password itself.
    #[error("the server does not prove that it knows the password")]
    ServerProof,
    /// The client does not know the password.
    #[error("the password is wrong")]
    ClientProof,
    /// The two sides see different certificates, or a side was told that the other can bind no login.
    #[error("SCRAM channel binding check failed")]
    Binding,
}

/// How a client binds the exchange to TLS: the flag in RFC 5802 §7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// To the hash of the server's certificate.
    EndPoint(Vec<u8>),
    /// The client could, and the server does not offer it.
    NotOffered,
    /// The client cannot.
    Impossible,
}

impl Binding {
    fn flag(&self) -> &'static str {
        match self {
            Self::EndPoint(_) => "p=tls-server-end-point,,",
            Self::NotOffered => "y,,",
            Self::Impossible => "n,,",
        }
    }

    pub(crate) fn mechanism(&self) -> &'static str {
        match self {
            Self::EndPoint(_) => PLUS,
            Self::NotOffered | Self::Impossible => PLAIN,
        }
    }

    /// The flag and what is bound, as the final message repeats them.
    fn encoded(&self) -> String {
        let mut data = self.flag().as_bytes().to_vec();
        if let Self::EndPoint(hash) = self {
            data.extend_from_slice(hash);
        }
        STANDARD.encode(data)
    }
}

fn mac(key: &[u8], message: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    Zeroizing::new(hmac::sign(&key, message).as_ref().to_vec())
}

fn xor(one: &[u8], other: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(one.iter().zip(other).map(|(a, b)| a ^ b).collect())
}

/// The password as it is hashed.
fn salted(password: &Password, salt: &[u8], rounds: NonZeroU32) -> Zeroizing<[u8; 32]> {
    let prepared = stringprep::saslprep(password.expose());
    let prepared = Zeroizing::new(prepared.map_or_else(|_| password.expose().to_owned(), Into::into));
    let mut out = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, prepared.as_bytes(), &mut *out);
    out
}

/// The value of an attribute, such as `r=…`.
fn attribute<'a>(field: Option<&'a str>, name: &str) -> Result<&'a str, ScramError> {
    let value = field.and_then(|field| field.strip_prefix(name)).and_then(|field| field.strip_prefix('='));
    let value = value.filter(|value| !value.is_empty() && value.len() <= LONGEST_FIELD);
    value.ok_or(ScramError::Malformed)
}

fn decoded(text: &str) -> Result<Vec<u8>, ScramError> {
    STANDARD.decode(text).map_err(|_| ScramError::Malformed)
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed)
}

/// The client's side, until the server has answered its first message.
#[derive(Debug)]
pub(crate) struct ClientExchange {
    binding: Binding,
    /// Empty but in the examples of RFC 7677.
    name: &'static str,
    nonce: String,
    password: Password,
}

impl ClientExchange {
    pub(crate) fn new(password: Password, binding: Binding, nonce: Nonce) -> Self {
        Self { binding, name: "", nonce: STANDARD.encode(nonce.0), password }
    }

    pub(crate) fn mechanism(&self) -> &'static str {
        self.binding.mechanism()
    }

    fn first_bare(&self) -> String {
        format!("n={},r={}", self.name, self.nonce)
    }

    pub(crate) fn first(&self) -> String {
        format!("{}{}", self.binding.flag(), self.first_bare())
    }

    /// The answer to the server's first message, and the proof that the server owes.
    pub(crate) fn finish(self, server_first: &[u8]) -> Result<(String, ServerProof), ScramError> {
        let server_first = text(server_first)?;
        let mut fields = server_first.split(',');
        let nonce = attribute(fields.next(), "r")?;
        let salt = decoded(attribute(fields.next(), "s")?)?;
        let rounds = attribute(fields.next(), "i")?;
        if fields.next().is_some() || !rounds.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ScramError::Malformed);
        }
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Nonce);
        }
        let rounds: u64 = rounds.parse().map_err(|_| ScramError::Rounds(u64::MAX))?;
        let rounds =
            u32::try_from(rounds).ok().filter(|few| *few <= MOST_ROUNDS).ok_or(ScramError::Rounds(rounds))?;
        let rounds = NonZeroU32::new(rounds).ok_or(ScramError::Malformed)?;

        let salted = salted(&self.password, &salt, rounds);
        let client_key = mac(&*salted, b"Client Key");
        let stored_key = digest(&SHA256, &[&client_key]);
        let without_proof = format!("c={},r={nonce}", self.binding.encoded());
        let signed = format!("{},{server_first},{without_proof}", self.first_bare());
        let proof = xor(&client_key, &mac(&stored_key, signed.as_bytes()));
        let server_key = mac(&*salted, b"Server Key");
        let owed = ServerProof(mac(&server_key, signed.as_bytes()));
        Ok((format!("{without_proof},p={}", STANDARD.encode(&*proof)), owed))
    }
}

/// What the server's last message must say.
#[derive(Debug)]
pub(crate) struct ServerProof(Zeroizing<Vec<u8>>);

impl ServerProof {
    pub(crate) fn verify(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut fields = text(server_final)?.split(',');
        let signature = decoded(attribute(fields.next(), "v")?)?;
        verify_slices_are_equal(&self.0, &signature).map_err(|_| ScramError::ServerProof)
    }
}

/// The server's side.
#[derive(Debug)]
pub(crate) struct ServerExchange {
    pub(crate) password: Password,
    pub(crate) nonce: Nonce,
    /// What clients can bind to.
    pub(crate) end_point: Option<Vec<u8>>,
}

impl ServerExchange {
    /// Answers the client's first message.
    pub(crate) fn first(&self, mechanism: &str, message: &[u8]) -> Result<(String, OwedProof), ScramError> {
        let message = text(message)?;
        // RFC 5802 §7: the flag, an authorization identity, which is not used, and the bare message.
        let mut parts = message.splitn(3, ',');
        let (flag, identity) = (parts.next(), parts.next());
        let bare = parts.next().filter(|_| identity == Some("")).ok_or(ScramError::Malformed)?;
        let binding = match (flag, &self.end_point) {
            (Some("p=tls-server-end-point"), Some(hash)) => Binding::EndPoint(hash.clone()),
            // A client that could bind was told by an attacker that we cannot.
            (Some("y"), Some(_)) => return Err(ScramError::Binding),
            (Some("y"), None) => Binding::NotOffered,
            (Some("n"), _) => Binding::Impossible,
            (Some(bound), _) if bound.starts_with("p=") => return Err(ScramError::Binding),
            _ => return Err(ScramError::Malformed),
        };
        if binding.mechanism() != mechanism {
            return Err(ScramError::Binding);
        }
        let mut fields = bare.split(',');
        fields.next().filter(|name| name.starts_with("n=")).ok_or(ScramError::Malformed)?;
        let theirs = attribute(fields.next(), "r")?;
        if !theirs.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Malformed);
        }
        let (salt, ours) = self.nonce.0.split_at(9);
        let nonce = format!("{theirs}{}", STANDARD.encode(ours));
        let first = format!("r={nonce},s={},i={ROUNDS}", STANDARD.encode(salt));
        let signed = format!("{bare},{first}");
        let salted = salted(&self.password, salt, ROUNDS);
        Ok((first, OwedProof { salted, nonce, binding, signed }))
    }
}

/// What the client's last message must say.
#[derive(Debug)]
pub(crate) struct OwedProof {
    salted: Zeroizing<[u8; 32]>,
    nonce: String,
    binding: Binding,
    signed: String,
}

impl OwedProof {
    /// The server's last message, if the client's is right.
    pub(crate) fn finish(self, message: &[u8]) -> Result<String, ScramError> {
        let message = text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut fields = without_proof.split(',');
        let bound = attribute(fields.next(), "c")?;
        let nonce = attribute(fields.next(), "r")?;
        if bound != self.binding.encoded() {
            return Err(ScramError::Binding);
        }
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let signed = format!("{},{without_proof}", self.signed);
        let stored_key = digest(&SHA256, &[&mac(&*self.salted, b"Client Key")]);
        let proof = decoded(proof).ok().filter(|proof| proof.len() == stored_key.len());
        let client_key = xor(&proof.ok_or(ScramError::Malformed)?, &mac(&stored_key, signed.as_bytes()));
        let proven = digest(&SHA256, &[&client_key]);
        verify_slices_are_equal(&proven, &stored_key).map_err(|_| ScramError::ClientProof)?;
        let server_key = mac(&*self.salted, b"Server Key");
        Ok(format!("v={}", STANDARD.encode(&*mac(&server_key, signed.as_bytes()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.into()).unwrap()
    }

    /// RFC 7677 §3.
    fn example() -> ClientExchange {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        ClientExchange { binding: Binding::Impossible, name: "user", nonce, password: password("pencil") }
    }

    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_example_of_the_rfc_comes_out_as_it_says() {
        let exchange = example();
        assert_eq!(exchange.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, owed) = exchange.finish(SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(owed.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert_eq!(
            owed.verify(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
            Err(ScramError::ServerProof)
        );
        assert_eq!(owed.verify(b"e=invalid-proof"), Err(ScramError::Malformed));
    }

    #[test]
    fn a_server_that_breaks_the_exchange_gets_no_proof() {
        for (first, error) in [
            ("r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096", ScramError::Nonce),
            ("r=other,s=AAAA,i=4096", ScramError::Nonce),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0", ScramError::Malformed),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=+1", ScramError::Malformed),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1000001", ScramError::Rounds(1_000_001)),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4294967297", ScramError::Rounds(4_294_967_297)),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=99999999999999999999", ScramError::Rounds(u64::MAX)),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096", ScramError::Malformed),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4096,m=x", ScramError::Malformed),
            ("m=x,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4096", ScramError::Malformed),
            ("", ScramError::Malformed),
        ] {
            assert_eq!(example().finish(first.as_bytes()).map(|_| ()), Err(error), "{first}");
        }
    }

    /// PostgreSQL prepares what SASLprep accepts, and takes the rest as it is.
    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        let hashed = |text: &str| *salted(&password(text), b"salt", NonZeroU32::MIN);
        assert_eq!(hashed("\u{2168}"), hashed("IX"));
        assert_eq!(hashed("a\u{ad}b"), hashed("ab"));
        assert_ne!(hashed("a\u{7}b"), hashed("ab"));
    }

    fn server(end_point: Option<&[u8]>) -> ServerExchange {
        ServerExchange {
            password: password("pencil"),
            nonce: Nonce::new([7; 18]),
            end_point: end_point.map(<[u8]>::to_vec),
        }
    }

    fn agree(client: ClientExchange, server: &ServerExchange) -> Result<(), ScramError> {
        let (first, owed) = server.first(client.mechanism(), client.first().as_bytes())?;
        let (last, proof) = client.finish(first.as_bytes())?;
        proof.verify(owed.finish(last.as_bytes())?.as_bytes())
    }

    #[test]
    fn both_sides_agree_or_say_why_not() {
        let client = |word: &str, binding| ClientExchange::new(password(word), binding, Nonce::new([1; 18]));
        let bound = |hash: &[u8]| Binding::EndPoint(hash.to_vec());
        for (client, end_point, outcome) in [
            (client("pencil", Binding::Impossible), None, Ok(())),
            (client("pencil", Binding::Impossible), Some(b"hash"), Ok(())),
            (client("pencil", Binding::NotOffered), None, Ok(())),
            // What an attacker does who takes the binding out of the offer.
            (client("pencil", Binding::NotOffered), Some(b"hash"), Err(ScramError::Binding)),
            (client("pencil", bound(b"hash")), Some(b"hash"), Ok(())),
            // What an attacker does who has a certificate of its own.
            (client("pencil", bound(b"fake")), Some(b"hash"), Err(ScramError::Binding)),
            (client("pencil", bound(b"hash")), None, Err(ScramError::Binding)),
            (client("Pencil", Binding::Impossible), None, Err(ScramError::ClientProof)),
        ] {
            let told = format!("{client:?} {end_point:?}");
            assert!(!told.contains("encil"), "{told}");
            assert_eq!(agree(client, &server(end_point.map(|hash| &hash[..]))), outcome, "{told}");
        }
    }

    #[test]
    fn a_proof_of_another_length_is_none() {
        let exchange = server(None);
        let (_, owed) = exchange.first(PLAIN, b"n,,n=,r=abc").unwrap();
        let long = STANDARD.encode([0; 33]);
        let last = format!("c=biws,r={},p={long}", owed.nonce);
        assert_eq!(owed.finish(last.as_bytes()), Err(ScramError::Malformed));
    }
}
