//! What a reader of figures must know: above all who may have answered a read without the storage under test.
//!
//! Two caches stand before a storage: that of the reader's node, which `-B`, `-M` and, with several nodes, `-C` go round; and those of the servers, which
//! nothing goes round that a client does. A mount of FUSE or of a network file system has both.

use crate::backend::Storage;
use crate::configuration::{Configuration, ServersSetup};
use crate::machine::Machine;
use crate::mount::Mount;
use crate::size::human;

/// What was read.
#[derive(Debug, Clone, Copy)]
pub struct Reads<'a> {
    /// What the note calls it: `reads`.
    pub what: &'a str,
    /// Where it lies.
    pub storage: Storage,
    /// How many bytes.
    pub bytes: u64,
    /// Memory of all nodes that read.
    pub memory_bytes: u64,
    /// O_DIRECT: past the page cache of the node.
    pub direct: bool,
    /// Everybody reads what another node wrote.
    pub moved: bool,
    /// What goes round the page cache of the node.
    pub advice: &'a str,
    /// The servers, if they were asked.
    pub servers: Option<&'a ServersSetup>,
}

impl Reads<'_> {
    /// Who may have answered instead of the storage.
    pub fn notes(&self) -> Vec<String> {
        if self.storage == Storage::Nothing {
            return vec!["nothing was stored: these are the costs of the harness itself".to_owned()];
        }
        self.of_node().into_iter().chain(self.of_servers()).collect()
    }

    fn of_node(&self) -> Option<String> {
        let beyond = self.bytes > self.memory_bytes.saturating_mul(2);
        if self.storage == Storage::Servers || self.direct || self.moved || beyond {
            return None;
        }
        let (data, room) = (human(self.bytes), human(self.memory_bytes));
        Some(format!(
            "{} may come from the page cache ({data}, memory {room}; see {})",
            self.what, self.advice
        ))
    }

    /// Of the servers' caches alone. How much memory servers have is not known here, so no size is beyond it.
    pub fn of_servers(&self) -> Option<String> {
        let (what, data) = (self.what, human(self.bytes));
        let whose = match self.storage {
            Storage::Local | Storage::Nothing => return None,
            Storage::Servers => "the servers' page cache".to_owned(),
            Storage::Fuse => "the page cache of whoever serves this mount (FUSE)".to_owned(),
            Storage::Network(name) => format!("the page cache of this mount's servers ({name})"),
        };
        match self.servers {
            Some(servers) if servers.reads_directly() => servers.keeps_hot_files().then(|| {
                format!("{what} of what three servers ask for may come from what servers keep of it ({data}; --hot-files off)")
            }),
            _ => {
                let known = matches!(self.storage, Storage::Network(_));
                let hayate = if known { "" } else { "; start servers with --io direct to be sure" };
                Some(format!("{what} may come from {whose} ({data}{hayate}), which no option of a client goes round"))
            }
        }
    }
}

/// Of stats and opens: names and attributes, which caches of the node hold (`how` says why they may), and of servers always.
pub fn of_names(storage: Storage, how: Option<&str>) -> Vec<String> {
    if storage == Storage::Nothing {
        return vec!["nothing was stored: these are the costs of the harness itself".to_owned()];
    }
    let node = how.map(|how| format!("stats and reads may be answered by a cache of the node: {how}"));
    let remote = matches!(storage, Storage::Servers | Storage::Fuse | Storage::Network(_));
    let servers = remote
        .then(|| "stats and reads may be answered from the servers' memory: of small files, too".to_owned());
    node.into_iter().chain(servers).collect()
}

/// Whose CPU time is missing to a FUSE mount's, or is there twice.
pub fn of_mount(mount: Option<&Mount>, servers_watched: bool, hosts: u32) -> Vec<String> {
    let mut all = Vec::new();
    match mount.filter(|mount| mount.is_found()) {
        None => all.push("CPU time of the mount's process is in no table: it was not found".to_owned()),
        Some(_) if hosts > 1 => {
            all.push(
                "CPU time of the mount is that of this host's process; other hosts have their own".to_owned(),
            );
        }
        Some(mount) if mount.is_by_server() && servers_watched => {
            all.push("the mount is served by a server: its CPU time is in the servers' cost, too".to_owned());
        }
        Some(_) => {}
    }
    if !servers_watched {
        all.push("CPU time of servers behind the mount is not counted (--servers)".to_owned());
    }
    all
}

/// What was synced may not be where its reader thinks.
pub fn of_durability(configuration: &Configuration) -> Option<String> {
    let servers = configuration.servers.as_ref()?;
    servers.is_of_processes().then(|| {
        "servers run with --durability process: what is synced survives killed processes, not a loss of power".to_owned()
    })
}

/// What holds for all figures of a run.
pub fn of_run(tasks_are: &str, machine: &Machine) -> Vec<String> {
    let mut all = Vec::new();
    if tasks_are == "threads" {
        all.push("CPU time leaves out the threads of the client itself, messages are not counted".to_owned());
    }
    if !machine.optimised {
        all.push("this program was built without optimisation".to_owned());
    }
    all
}

/// Writes them as the last lines of a text.
///
/// # Errors
/// Of writing.
pub fn write(out: &mut dyn std::io::Write, notes: &[String]) -> std::io::Result<()> {
    notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
}

#[cfg(test)]
mod tests {
    //! Goal: no cache that may have answered goes unnamed, and none is named that cannot. Method: every storage with every way round its caches.
    use super::*;
    use crate::configuration::ServerSetup;

    const NODE: &str = "may come from the page cache (1 GiB, memory 4 GiB; see -B)";

    fn reads(storage: Storage) -> Reads<'static> {
        Reads {
            what: "reads",
            storage,
            bytes: 1 << 30,
            memory_bytes: 4 << 30,
            direct: false,
            moved: false,
            advice: "-B",
            servers: None,
        }
    }

    fn servers(io: &str, count: u32, hot: bool) -> ServersSetup {
        let setup = |server| ServerSetup {
            server,
            io: vec![io.to_owned()],
            hot_files: Some(hot),
            ..Default::default()
        };
        ServersSetup { each: (0..count).map(setup).collect(), ..ServersSetup::default() }
    }

    fn has(reads: &Reads<'_>, part: &str) -> bool {
        reads.notes().iter().any(|note| note.contains(part))
    }

    #[test]
    fn what_goes_round_the_node_is_not_named() {
        let ways = [
            reads(Storage::Local),
            Reads { direct: true, ..reads(Storage::Local) },
            Reads { moved: true, ..reads(Storage::Local) },
            Reads { bytes: 9 << 30, ..reads(Storage::Local) },
        ];
        assert_eq!(ways.map(|way| way.notes().len()), [1, 0, 0, 0]);
        assert!(has(&reads(Storage::Local), NODE));
    }

    /// A mount has the servers' page cache behind it whatever the client does: O_DIRECT, other nodes, more data than its node has memory.
    #[test]
    fn nothing_goes_round_the_servers() {
        for storage in [Storage::Fuse, Storage::Network("NFS"), Storage::Servers] {
            for way in [
                reads(storage),
                Reads { direct: true, ..reads(storage) },
                Reads { moved: true, ..reads(storage) },
                Reads { bytes: 9 << 30, ..reads(storage) },
            ] {
                assert!(has(&way, "which no option of a client goes round"), "{way:?}");
            }
            assert_eq!(has(&reads(storage), NODE), storage != Storage::Servers, "{storage:?}");
            assert!(!has(&Reads { direct: true, ..reads(storage) }, NODE));
        }
        assert!(has(&reads(Storage::Network("NFS")), "(NFS)"));
        assert_eq!(reads(Storage::Nothing).notes().len(), 1);
    }

    /// Servers that say that they read past their page cache are believed; then what they keep of hot files is left.
    #[test]
    fn servers_are_asked_where_they_can_be() {
        let of = |setup: &ServersSetup| Reads { servers: Some(setup), ..reads(Storage::Servers) }.notes();
        assert!(of(&servers("buffered", 4, true))[0].contains("--io direct"));
        assert!(of(&servers("direct", 4, true))[0].contains("--hot-files off"));
        assert!(of(&servers("direct", 2, true)).is_empty() && of(&servers("direct", 4, false)).is_empty());
        let silent = ServersSetup { silent: 1, ..servers("direct", 4, false) };
        assert!(of(&silent)[0].contains("--io direct"), "one that does not answer may read through it");
    }

    #[test]
    fn names_are_cached_too() {
        assert!(of_names(Storage::Local, None).is_empty());
        assert_eq!(of_names(Storage::Local, Some("they share it")).len(), 1);
        assert_eq!(of_names(Storage::Fuse, Some("they share it")).len(), 2);
        assert!(of_names(Storage::Servers, None)[0].contains("servers' memory"));
    }

    #[test]
    fn cpu_time_that_is_missing_to_a_mount_is_named() {
        let not_found = of_mount(None, false, 1);
        assert!(not_found[0].contains("not found") && not_found[1].contains("--servers"), "{not_found:?}");
        assert_eq!(of_mount(None, true, 1).len(), 1);
    }

    #[test]
    fn a_sync_that_power_undoes_is_named() {
        let with = |durability: &str| {
            let each = vec![ServerSetup { durability: Some(durability.to_owned()), ..Default::default() }];
            Configuration { servers: Some(ServersSetup { each, ..Default::default() }), ..Default::default() }
        };
        assert!(of_durability(&with("process")).is_some_and(|note| note.contains("loss of power")));
        assert_eq!(of_durability(&with("device")), None);
        assert_eq!(of_durability(&Configuration::default()), None);
    }
}
