//! What the servers did during a phase: their CPU time, messages and bytes, and how evenly.
//!
//! The coordinator asks every server for its counters before a phase begins and after it ended, and a few times a second
//! meanwhile for the course of time. That costs a server some 100 microseconds of CPU time each.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use fs_client::{Client, ServerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock;
use crate::configuration::ServersSetup;

/// Between two looks at the servers during a phase.
const EVERY: Duration = Duration::from_millis(250);

/// Counters of one server: totals, or what was added during a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServerCounters {
    /// Its number.
    pub server: u32,
    /// CPU time, user and system, in microseconds.
    pub cpu_us: u64,
    /// Messages received, from clients and from other servers.
    pub messages_received: u64,
    /// Messages sent, to clients and to other servers.
    pub messages_sent: u64,
    /// Bytes of content written into its chunks.
    pub bytes_written: u64,
    /// Bytes of content read from its chunks.
    pub bytes_read: u64,
    /// Bytes that it copied to the shared tier.
    pub bytes_flushed: u64,
}

impl ServerCounters {
    fn of_status(server: u32, status: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        ServerCounters {
            server,
            cpu_us: number(&status["cpu_us"]),
            messages_received: number(&status["messages_received"]),
            messages_sent: number(&status["messages_sent"]),
            bytes_written: number(&status["bytes_written"]),
            bytes_read: number(&status["bytes_read"]),
            bytes_flushed: number(&status["flush"]["copied_bytes"]),
        }
    }

    /// What was added since `before`. A server that was started again began at zero.
    fn since(&self, before: &ServerCounters) -> Self {
        let less = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now);
        ServerCounters {
            server: self.server,
            cpu_us: less(self.cpu_us, before.cpu_us),
            messages_received: less(self.messages_received, before.messages_received),
            messages_sent: less(self.messages_sent, before.messages_sent),
            bytes_written: less(self.bytes_written, before.bytes_written),
            bytes_read: less(self.bytes_read, before.bytes_read),
            bytes_flushed: less(self.bytes_flushed, before.bytes_flushed),
        }
    }
}

/// Bytes of all servers at one moment of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds since the phase began.
    pub seconds: f64,
    /// Bytes written into chunks since then.
    pub written: u64,
    /// Bytes read from chunks since then.
    pub read: u64,
    /// Bytes copied to the shared tier since then.
    pub flushed: u64,
}

/// What the servers did during a phase.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServersUse {
    /// Each server.
    pub servers: Vec<ServerCounters>,
    /// All servers in the course of time.
    pub course: Vec<Moment>,
}

impl ServersUse {
    /// CPU time of all servers in seconds.
    pub fn cpu_s(&self) -> f64 {
        self.servers.iter().map(|s| s.cpu_us).sum::<u64>() as f64 / 1e6
    }

    /// Messages that servers received, those among themselves included.
    pub fn messages(&self) -> u64 {
        self.servers.iter().map(|s| s.messages_received).sum()
    }

    /// How evenly servers were used: largest over mean, by bytes if a server moved any, else by messages; none without work.
    pub fn balance(&self) -> Option<f64> {
        let bytes: Vec<u64> = self.servers.iter().map(|s| s.bytes_written + s.bytes_read).collect();
        let messages: Vec<u64> = self.servers.iter().map(|s| s.messages_received).collect();
        let work = if bytes.iter().sum::<u64>() > 0 { bytes } else { messages };
        let (sum, largest) = (work.iter().sum::<u64>(), work.iter().max().copied()?);
        (sum > 0).then(|| largest as f64 * work.len() as f64 / sum as f64)
    }
}

/// Looks at the servers.
pub struct Monitor {
    client: Client,
    servers: Vec<ServerId>,
    setup: ServersSetup,
    watch: Option<Watch>,
}

/// A phase that is being watched.
struct Watch {
    before: Vec<ServerCounters>,
    stop: Sender<()>,
    course: JoinHandle<Vec<Moment>>,
}

fn ask(client: &Client, servers: &[ServerId]) -> Vec<ServerCounters> {
    let counters = servers.iter().filter_map(|server| {
        // A server that does not answer is missing from the figures; the run itself tells that it is gone.
        let text = client.server_status(*server).ok()?;
        Some(ServerCounters::of_status(u32::from(server.0), &serde_json::from_str(&text).ok()?))
    });
    counters.collect()
}

fn difference(now: &[ServerCounters], before: &[ServerCounters]) -> Vec<ServerCounters> {
    let earlier = |server| before.iter().find(|b| b.server == server).copied().unwrap_or_default();
    now.iter().map(|counters| counters.since(&earlier(counters.server))).collect()
}

impl Monitor {
    /// Of the servers of a client's cluster.
    pub fn new(client: Client) -> Self {
        let servers = client.cluster().members.iter().map(|member| member.id).collect();
        let setup = ServersSetup::ask(&client);
        Monitor { client, servers, setup, watch: None }
    }

    /// How the servers are configured.
    pub fn setup(&self) -> &ServersSetup {
        &self.setup
    }

    /// How many servers there are.
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// A phase is about to begin.
    pub fn begin(&mut self) {
        let before = ask(&self.client, &self.servers);
        let (client, servers, first) = (self.client.clone(), self.servers.clone(), before.clone());
        let (stop, stopped) = channel();
        let start = clock::now_ns();
        let course = std::thread::spawn(move || {
            let mut course = Vec::new();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let since = difference(&ask(&client, &servers), &first);
                let sum = |of: fn(&ServerCounters) -> u64| since.iter().map(of).sum();
                course.push(Moment {
                    seconds: (clock::now_ns() - start) as f64 / 1e9,
                    written: sum(|s| s.bytes_written),
                    read: sum(|s| s.bytes_read),
                    flushed: sum(|s| s.bytes_flushed),
                });
            }
            course
        });
        self.watch = Some(Watch { before, stop, course });
    }

    /// It ended: what the servers did.
    pub fn end(&mut self) -> Option<ServersUse> {
        let watch = self.watch.take()?;
        let servers = difference(&ask(&self.client, &self.servers), &watch.before);
        drop(watch.stop);
        Some(ServersUse { servers, course: watch.course.join().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: figures of a phase are differences, and a server that was started again does not make them wrong by 2^64.
    #[test]
    fn differences_survive_a_restart() {
        let status = |cpu: u64, bytes: u64| {
            let text = format!(r#"{{"cpu_us":{cpu},"bytes_written":{bytes},"flush":{{"copied_bytes":7}}}}"#);
            ServerCounters::of_status(3, &serde_json::from_str(&text).expect("JSON"))
        };
        let since = difference(&[status(50, 10)], &[status(20, 100)]);
        assert_eq!((since[0].cpu_us, since[0].bytes_written, since[0].bytes_flushed), (30, 10, 0));
    }

    #[test]
    fn balance_is_largest_over_mean() {
        let server = |bytes_written, messages_received| ServerCounters {
            messages_received,
            bytes_written,
            ..ServerCounters::default()
        };
        let of = |servers: &[ServerCounters]| {
            ServersUse { servers: servers.to_vec(), course: Vec::new() }.balance()
        };
        assert_eq!(of(&[server(30, 1), server(10, 9)]), Some(1.5));
        assert_eq!(of(&[server(0, 1), server(0, 3)]), Some(1.5));
        assert_eq!(of(&[server(0, 0)]), None);
        assert_eq!(of(&[]), None);
    }
}
