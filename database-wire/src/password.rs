//! Holds a password: it does not print, is not serialized, and is wiped.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretString};

/// The longest password that is taken. Tokens of cloud providers that serve as passwords are some 2 KiB.
const LONGEST: usize = 8 * 1024;

/// A password as every protocol here can send it.
#[derive(Clone, Debug)]
pub struct Password(SecretString);

/// Why a text cannot be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusablePassword {
    /// PostgreSQL and MySQL end a password with a zero byte.
    #[error("the password holds a zero byte, which databases cannot be sent")]
    ZeroByte,
    /// It is longer than any database takes.
    #[error("the password is longer than {LONGEST} bytes")]
    TooLong,
}

impl Password {
    /// Takes a text as a password; the empty one is none.
    ///
    /// # Errors
    /// When it holds a zero byte, or more than 8 KiB.
    pub fn new(text: SecretString) -> Result<Self, UnusablePassword> {
        let exposed = text.expose_secret();
        if exposed.contains('\0') {
            return Err(UnusablePassword::ZeroByte);
        }
        if exposed.len() > LONGEST {
            return Err(UnusablePassword::TooLong);
        }
        Ok(Self(text))
    }

    /// A hash that is sent in place of a password.
    pub(crate) fn from_hash(hash: String) -> Self {
        Self(hash.into())
    }

    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Compares without telling, by the time that it takes, where a guess is wrong.
    pub(crate) fn is(&self, guess: &[u8]) -> bool {
        verify_slices_are_equal(self.expose().as_bytes(), guess).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_does_not_print_and_is_what_can_be_sent() {
        let password = Password::new("canary".into()).unwrap();
        assert!(!format!("{password:?}").contains("canary"));
        assert!(password.is(b"canary") && !password.is(b"canarY") && !password.is(b"canary "));
        assert_eq!(Password::new("a\0b".into()).unwrap_err(), UnusablePassword::ZeroByte);
        assert_eq!(Password::new("a".repeat(LONGEST + 1).into()).unwrap_err(), UnusablePassword::TooLong);
    }
}
