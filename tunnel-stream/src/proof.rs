//! Proves on a new carrier that an association's streams belong to the client that has just logged in.
//!
//! The client has logged in already, with a certificate: SSH binds that login to the connection (RFC 4252
//! §7). The proof shows that it is also the process which holds the streams. It is an HMAC-SHA256, by a
//! secret that only the two processes know, over the bastion's challenge, which is new for each carrier, so
//! that a recorded proof is worth nothing anywhere else. The secret is replaced at each resumption.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use zeroize::Zeroizing;

/// What a proof is about, so that no other HMAC by the same key can stand for one.
const PURPOSE: &[u8] = b"streams@tunnel-suite.internal resume v1";

/// Names an association. Public: what it opens is opened by the secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssociationId(pub [u8; 16]);

impl fmt::Debug for AssociationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The bastion's random bytes for one carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge(pub [u8; 32]);

/// Counts the attempts to resume an association; each has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// What the two processes of an association share. It does not print and is wiped.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// For the wire alone.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The client's proof.
    pub fn prove(&self, challenge: &Challenge, association: AssociationId, epoch: Epoch) -> Proof {
        let mut proof = [0; 32];
        proof.copy_from_slice(self.tag(challenge, association, epoch).as_ref());
        Proof(proof)
    }

    /// Whether a proof was made by this secret. Takes the same time for each wrong one.
    pub fn verifies(
        &self,
        proof: &Proof,
        challenge: &Challenge,
        association: AssociationId,
        epoch: Epoch,
    ) -> bool {
        let tag = self.tag(challenge, association, epoch);
        constant_time::verify_slices_are_equal(tag.as_ref(), &proof.0).is_ok()
    }

    fn tag(&self, challenge: &Challenge, association: AssociationId, epoch: Epoch) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice());
        let mut context = hmac::Context::with_key(&key);
        context.update(PURPOSE);
        context.update(&challenge.0);
        context.update(&association.0);
        context.update(&epoch.0.to_be_bytes());
        context.sign()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// See [`Secret::prove`]. It does not print either: until it has arrived, it opens the streams.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof(pub [u8; 32]);

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof")
    }
}

/// The bastion's secrets of an association: the one that the client has for certain, and the one that it was
/// sent last and may not have got.
#[derive(Debug)]
pub(crate) struct Secrets {
    current: Secret,
    offered: Option<Secret>,
}

impl Secrets {
    pub(crate) fn new(first: Secret) -> Self {
        Self { current: first, offered: None }
    }

    /// A client's proof, by the secret that it was given last.
    pub(crate) fn prove(&self, challenge: &Challenge, association: AssociationId, epoch: Epoch) -> Proof {
        self.current.prove(challenge, association, epoch)
    }

    pub(crate) fn verify(
        &self,
        proof: &Proof,
        challenge: &Challenge,
        association: AssociationId,
        epoch: Epoch,
    ) -> bool {
        // Both are always computed.
        let current = self.current.verifies(proof, challenge, association, epoch);
        let offered = self
            .offered
            .as_ref()
            .is_some_and(|offered| offered.verifies(proof, challenge, association, epoch));
        current | offered
    }

    /// The next one is on its way to the client that proved itself by `proof`.
    pub(crate) fn offer(
        &mut self,
        fresh: Secret,
        proof: &Proof,
        challenge: &Challenge,
        association: AssociationId,
        epoch: Epoch,
    ) {
        if let Some(offered) = self.offered.take()
            && offered.verifies(proof, challenge, association, epoch)
        {
            self.current = offered;
        }
        self.offered = Some(fresh);
    }

    /// The client has answered on the carrier where the last one was offered, so it has it.
    pub(crate) fn confirmed(&mut self) {
        if let Some(offered) = self.offered.take() {
            self.current = offered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: AssociationId = AssociationId([3; 16]);

    #[test]
    fn a_proof_is_good_for_one_secret_challenge_association_and_epoch() {
        let (secret, challenge) = (Secret::new([1; 32]), Challenge([2; 32]));
        let proof = secret.prove(&challenge, ID, Epoch(4));
        assert!(secret.verifies(&proof, &challenge, ID, Epoch(4)));
        assert!(!Secret::new([9; 32]).verifies(&proof, &challenge, ID, Epoch(4)));
        assert!(!secret.verifies(&proof, &Challenge([9; 32]), ID, Epoch(4)), "replayed on another carrier");
        assert!(!secret.verifies(&proof, &challenge, AssociationId([9; 16]), Epoch(4)));
        assert!(!secret.verifies(&proof, &challenge, ID, Epoch(5)));
        assert!(!secret.verifies(&Proof([0; 32]), &challenge, ID, Epoch(4)));
        assert_eq!(format!("{secret:?} {proof:?}"), "Secret Proof");
        assert_eq!(format!("{ID:?}"), "03".repeat(16));
    }

    /// RFC 4231 §4.2 is about the function; this is about what goes into it, so that another implementation
    /// can be checked.
    #[test]
    fn the_proof_of_the_protocol_s_example() {
        let proof = Secret::new([1; 32]).prove(&Challenge([2; 32]), ID, Epoch(4));
        let mut message = PURPOSE.to_vec();
        message.extend([2; 32]);
        message.extend([3; 16]);
        message.extend([0, 0, 0, 0, 0, 0, 0, 4]);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        assert_eq!(hmac::sign(&key, &message).as_ref(), proof.0);
    }

    #[test]
    fn an_old_secret_is_good_until_the_next_one_is_known_to_have_arrived() {
        let challenge = Challenge([2; 32]);
        let prove = |byte| Secret::new([byte; 32]).prove(&challenge, ID, Epoch(1));
        let good = |secrets: &Secrets, byte| secrets.verify(&prove(byte), &challenge, ID, Epoch(1));
        let mut secrets = Secrets::new(Secret::new([1; 32]));
        secrets.offer(Secret::new([2; 32]), &prove(1), &challenge, ID, Epoch(1));
        assert!(good(&secrets, 1) && good(&secrets, 2), "the answer may have been lost");
        secrets.offer(Secret::new([3; 32]), &prove(2), &challenge, ID, Epoch(1));
        assert!(!good(&secrets, 1) && good(&secrets, 2) && good(&secrets, 3), "it had arrived");
        secrets.confirmed();
        assert!(!good(&secrets, 2) && good(&secrets, 3));
        secrets.offer(Secret::new([3; 32]), &prove(3), &challenge, ID, Epoch(1));
        assert!(good(&secrets, 3), "by either of two that are the same");
    }
}
