//! The job's secret: who knows it belongs to the job.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::str::FromStr;
use thiserror::Error;

/// Length of a secret, in bytes.
pub const SECRET_BYTES: usize = 32;

/// 32 secret bytes; 64 hexadecimal digits in files, never shown in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Secret([u8; SECRET_BYTES]);

/// Why a text is not a secret. Does not repeat the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a secret is 64 hexadecimal digits")]
pub struct SecretError;

impl Secret {
    /// A secret of the system's random numbers.
    ///
    /// # Panics
    /// Panics if the system has no random numbers to give: nothing secure can be done then.
    pub fn random() -> Secret {
        Secret(random_bytes().expect("the system gives random numbers"))
    }

    /// A secret of known bytes, for tests and for secrets that a launcher hands down.
    pub fn from_raw(raw: [u8; SECRET_BYTES]) -> Secret {
        Secret(raw)
    }

    /// The 64 hexadecimal digits, for files of mode 0600 only.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    pub(crate) fn raw(&self) -> &[u8] {
        &self.0
    }
}

/// Random bytes for nonces and secrets.
pub(crate) fn random_bytes() -> io::Result<[u8; SECRET_BYTES]> {
    let mut raw = [0; SECRET_BYTES];
    getrandom::fill(&mut raw).map_err(io::Error::other)?;
    Ok(raw)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl FromStr for Secret {
    type Err = SecretError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut raw = [0; SECRET_BYTES];
        hex::decode_to_slice(text, &mut raw).map_err(|_| SecretError)?;
        Ok(Secret(raw))
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> String {
        secret.to_hex()
    }
}

impl TryFrom<String> for Secret {
    type Error = SecretError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_form_goes_there_and_back_and_debug_hides_it() {
        let secret = Secret::random();
        assert_eq!(secret.to_hex().parse::<Secret>().as_ref(), Ok(&secret));
        assert_ne!(secret, Secret::random());
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!("12".parse::<Secret>(), Err(SecretError));
        assert_eq!("zz".repeat(32).parse::<Secret>(), Err(SecretError));
    }
}
