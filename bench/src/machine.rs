//! The machine and the program that figures belong to.

use serde_json::{Value, json};

use crate::size;

/// Commit that this program was built from, with `+` if the sources had changes.
pub const COMMIT: &str = env!("HAYATE_COMMIT");

/// What a reader must know to compare figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Host name.
    pub host: String,
    /// Version of this program.
    pub version: &'static str,
    /// Commit that it was built from, with `+` if the sources had changes.
    pub commit: &'static str,
    /// With optimisation, or not.
    pub optimised: bool,
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes of memory of this host.
pub fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&text, "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Reads a size, or a share of this host's memory: `2g`, `75%`.
///
/// # Errors
/// What is wrong with the text.
pub fn memory_share(text: &str) -> Result<u64, String> {
    match text.strip_suffix('%') {
        None => size::parse(text),
        Some(percent) => match percent.parse::<u64>() {
            Ok(percent) if percent <= 100 => Ok(memory_bytes() / 100 * percent),
            _ => Err(format!("'{text}' is no share of memory: give 0% to 100%")),
        },
    }
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Machine {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| text(uname.machine())),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory_bytes(),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            host: text(uname.nodename()),
            version: env!("CARGO_PKG_VERSION"),
            commit: COMMIT,
            optimised: !cfg!(debug_assertions),
        }
    }

    /// In one line of a report.
    pub fn line(&self) -> String {
        let slow = if self.optimised { "" } else { ", built WITHOUT optimisation" };
        format!(
            "{} x {}, {} memory, {}, hayate {} (commit {}){slow}",
            self.cpus,
            self.cpu,
            size::human(self.memory_bytes),
            self.kernel,
            self.version,
            self.commit
        )
    }

    /// For a JSON document.
    pub fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cpus": self.cpus,
            "memoryBytes": self.memory_bytes,
            "kernel": self.kernel,
            "host": self.host,
            "version": self.version,
            "commit": self.commit,
            "optimised": self.optimised,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_memory_are_read() {
        assert_eq!(memory_share("2m"), Ok(2 << 20));
        assert!(memory_share("50%").is_ok_and(|half| half > memory_bytes() / 3 && half < memory_bytes()));
        assert!(memory_share("101%").is_err() && memory_share("x%").is_err());
    }

    #[test]
    fn the_machine_is_described() {
        let machine = Machine::this();
        assert!(machine.cpus > 0 && machine.memory_bytes > 1 << 20 && !machine.commit.is_empty());
        assert!(machine.line().contains("Linux") && machine.line().contains("commit"));
    }
}
