//! Where a server listens: `tcp:host:port` or `unix:/path`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// An address, as text `tcp:host:port` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Address {
    /// Host name or number, and port: `node1:7000`, `[::1]:7000`.
    Tcp(String),
    /// Path of a socket on this node.
    Unix(PathBuf),
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an address: write tcp:HOST:PORT or unix:/PATH")]
pub struct AddressError(String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host_port) => write!(f, "tcp:{host_port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AddressError(text.to_owned());
        match text.split_once(':').ok_or_else(error)? {
            ("tcp", host_port) if is_host_port(host_port) => Ok(Address::Tcp(host_port.to_owned())),
            ("unix", path) if path.starts_with('/') => Ok(Address::Unix(PathBuf::from(path))),
            _ => Err(error()),
        }
    }
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_goes_there_and_back() {
        for text in ["tcp:node1:7000", "tcp:[::1]:0", "tcp:127.0.0.1:65535", "unix:/run/a b/s.sock"] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "tcp:", "tcp:host", "tcp::1", "tcp:host:70000", "unix:relative", "udp:host:1", "host:1"]
        {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().contains("unix:/PATH"), "{error}");
        }
    }
}
