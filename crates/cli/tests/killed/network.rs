//! A network of two ends, one in a namespace of its own, that can be cut without either end being told.

use std::process::Command;

/// Gone when dropped.
pub struct Network {
    name: String,
    /// Address of the end where the servers are.
    pub server: String,
}

impl Network {
    /// Needs root, ip(8), and a kernel with network namespaces and pairs of virtual devices.
    pub fn new() -> Result<Network, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        let pid = std::process::id();
        // Of the addresses for tests between networks (RFC 2544), so that no real one is hidden: 4 for each.
        let (third, fourth) = (pid / 64 % 256, pid % 64 * 4);
        let address = |end: u32| format!("198.18.{third}.{}", fourth + end);
        let network = Network { name: format!("hayate-t{pid}"), server: address(1) };
        let (name, here, there) = (&network.name, network.here(), network.there());
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", name])?;
        ip(&["addr", "add", &format!("{}/30", address(1)), "dev", &here])?;
        ip(&["link", "set", &here, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{}/30", address(2)), "dev", &there])?;
        ip(&["-n", name, "link", "set", &there, "up"])?;
        Ok(network)
    }

    fn here(&self) -> String {
        format!("hyt{}a", std::process::id())
    }

    fn there(&self) -> String {
        format!("hyt{}b", std::process::id())
    }

    /// A program that runs at the other end.
    pub fn program(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Nothing passes any more. The other end's device goes down, so that this end keeps its route, and both ends their connections.
    pub fn cut(&self) {
        ip(&["-n", &self.name, "link", "set", &self.there(), "down"]).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The pair of devices goes with the namespace of one.
        let _ = ip(&["link", "del", &self.here()]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
