//! What the command lines of several benchmarks have in common.

use clap::Args;

use crate::backend::Api;

/// What is measured, and by whom.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// API: POSIX (any path), HAYATE (native client), LIBIO (checkpoint library; `checkpoint` only) or NULL (what the harness itself costs)
    #[arg(short = 'a', value_name = "API", default_value = "POSIX", ignore_case = true)]
    pub api: Api,
    /// Ask the cluster's servers for their counters, though a mount is measured (default with -a HAYATE)
    #[arg(long)]
    pub servers: bool,
    /// Tasks are threads of one process
    #[arg(long)]
    pub threads: bool,
    /// Servers stand for nodes: tasks are dealt to them in blocks, and each is a client of its server only (HAYATE and LIBIO)
    #[arg(long, conflicts_with = "threads")]
    pub spread: bool,
}

impl Common {
    /// A path as the interface has it: the native client knows no working directory.
    pub fn rooted(&self, path: &str) -> String {
        if !matches!(self.api, Api::Hayate | Api::Libio) || path.starts_with('/') {
            return path.to_owned();
        }
        format!("/{}", path.trim_start_matches("./"))
    }
}

/// How many tasks. mdtest's `-N` is something else.
#[derive(Debug, Clone, Args)]
pub struct NumTasks {
    /// numTasks: how many tasks (-np N means the same)
    #[arg(short = 'N', long = "np", value_name = "N")]
    pub tasks: Option<u32>,
}

/// Where the results go besides. IOR says it by directives.
#[derive(Debug, Clone, Args)]
pub struct JsonFile {
    /// Write a JSON document into this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
}

/// Options of IOR's and mdtest's other interfaces, and of their builds for other hardware: known, so that they are refused with the reason.
#[derive(Debug, Clone, Args)]
pub struct Foreign {
    #[arg(
        long = "mpiio.showHints",
        aliases = [
            "mpiio.preallocate", "mpiio.useStridedDatatype", "mpiio.useFileView", "mpiio.hintsFileName", "mmap.madv_dont_need",
            "mmap.madv_pattern",
        ],
        hide = true, num_args = 0..=1, default_missing_value = "1", value_parser = no_interface,
    )]
    interface: Option<String>,
    #[arg(
        long = "dummy.delay-create",
        aliases = ["dummy.delay-close", "dummy.delay-sync", "dummy.delay-xfer", "dummy.delay-only-rank0"],
        hide = true, num_args = 0..=1, default_missing_value = "1", value_parser = no_delay,
    )]
    delay: Option<String>,
    #[arg(long = "posix.rangelocks", hide = true, num_args = 0..=1, default_missing_value = "1", value_parser = no_range_locks)]
    range_locks: Option<String>,
    #[arg(
        long = "allocateBufferOnGPU", aliases = ["GPUid", "gpuDirect"],
        hide = true, num_args = 0..=1, default_missing_value = "1", value_parser = no_gpu,
    )]
    gpu: Option<String>,
}

fn no_interface(_: &str) -> Result<String, String> {
    Err("this harness has no such interface: -a is POSIX, HAYATE or NULL".to_owned())
}

fn no_delay(_: &str) -> Result<String, String> {
    Err("-a NULL has no delays: it shows what the harness costs".to_owned())
}

fn no_range_locks(_: &str) -> Result<String, String> {
    Err("this harness takes no locks; leave the option out".to_owned())
}

fn no_gpu(_: &str) -> Result<String, String> {
    Err("buffers are in memory, not on a GPU; leave the option out".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        _foreign: Foreign,
    }

    /// Options of other interfaces are refused with the reason, with a value and without.
    #[test]
    fn foreign_options_are_refused_with_the_reason() {
        for (word, reason) in [
            ("--mpiio.useFileView", "no such interface"),
            ("--mmap.madv_pattern", "no such interface"),
            ("--dummy.delay-xfer=5", "no delays"),
            ("--posix.rangelocks", "no locks"),
            ("--gpuDirect", "not on a GPU"),
        ] {
            let error = Program::try_parse_from(["bench", word]).err().expect(word).to_string();
            assert!(error.contains(reason), "{word}: {error}");
        }
    }

    #[test]
    fn the_native_client_has_absolute_paths() {
        let rooted =
            |words: &[&str], path: &str| Program::try_parse_from(words).expect("options").common.rooted(path);
        assert_eq!(rooted(&["bench"], "./out"), "./out");
        assert_eq!(rooted(&["bench", "-a", "hayate"], "./out"), "/out");
        assert_eq!(rooted(&["bench", "-a", "libio"], "/out"), "/out");
    }
}
