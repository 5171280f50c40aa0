//! Signs a login with our own key where russh by itself would announce a weak name: for the certificate of an RSA key it
//! says `ssh-rsa`, which is SHA-1 (RFC 8332 section 3), and servers refuse that.

use std::sync::Arc;

use russh::keys::{HashAlg, PrivateKey, agent::AgentIdentity, signature::Signer};

/// A key, as russh asks for signatures of others' keys.
pub(super) struct OwnKey(pub(super) Arc<PrivateKey>);

/// Why there is no signature.
#[derive(Debug)]
pub(super) struct Unsigned;

impl From<russh::SendError> for Unsigned {
    fn from(_: russh::SendError) -> Self {
        Self
    }
}

impl russh::Signer for OwnKey {
    type Error = Unsigned;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        _: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Unsigned> {
        // An RSA key of this library signs with SHA-512 unless told otherwise.
        let signature = self.0.try_sign(&to_sign).map_err(|_| Unsigned)?;
        let signature = Vec::<u8>::try_from(signature).map_err(|_| Unsigned)?;
        let length = u32::try_from(signature.len()).map_err(|_| Unsigned)?;
        to_sign.extend_from_slice(&length.to_be_bytes());
        to_sign.extend_from_slice(&signature);
        Ok(to_sign)
    }
}
