//! Hostfiles: a host a line, as batch systems and MPI write them. Repeated hosts count once, further words are ignored.

use crate::error::{CliError, Result, cannot};
use std::net::ToSocketAddrs;
use std::path::Path;

/// The hosts in `path`, each of which resolves to an address.
pub fn load(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(cannot("read the hostfile", path))?;
    let hosts = parse(&text);
    if hosts.is_empty() {
        return Err(CliError::Usage(format!(
            "hostfile {} names no host: write one host a line",
            path.display()
        )));
    }
    for host in &hosts {
        check_known(path, host)?;
    }
    Ok(hosts)
}

fn check_known(path: &Path, host: &str) -> Result<()> {
    let reason = match (host, 0u16).to_socket_addrs().map(|mut addresses| addresses.next()) {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(CliError::Usage(format!(
        "hostfile {}: unknown host '{host}' ({reason}): correct the name, or remove the line",
        path.display()
    )))
}

/// First words of the lines, without comments (`#`), in order and each once. MPI's `host:slots` is understood.
fn parse(text: &str) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for line in text.lines() {
        let content = line.split('#').next().unwrap_or_default();
        let Some(word) = content.split_whitespace().next() else { continue };
        let host = match word.split_once(':') {
            Some((host, slots)) if slots.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => word,
        };
        if !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_forms() {
        let text = "# nodes\nn1\nn1\n  n2 slots=4 # fast\n\nn3:8\nfe80::1\n";
        assert_eq!(parse(text), ["n1", "n2", "n3", "fe80::1"]);
    }

    #[test]
    fn unknown_host_and_empty_file_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, "no-such-host.invalid\n").unwrap();
        let message = load(&path).unwrap_err().to_string();
        assert!(message.contains("no-such-host.invalid") && message.contains("unknown host"), "{message}");
        std::fs::write(&path, "# none\n").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("names no host"));
    }
}
