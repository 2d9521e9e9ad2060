//! SIGKILL in the middle of creates: how long the next opening takes, and whether all is there that was acknowledged.

use crate::engine;
use crate::run::sync_until;
use crate::workload::{self, DIR_FILES, THREADS};
use fs_server::kv::KvError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug, Clone)]
pub struct CrashArgs {
    #[arg(long)]
    pub engine: String,
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    #[arg(long, default_value_t = 64)]
    pub cache_mib: u64,
    /// Seconds until the kill.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Set in the child that is killed: the store's directory.
    #[arg(long, hide = true)]
    pub child: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CrashOutcome {
    pub engine: String,
    pub acknowledged: u64,
    pub lost: u64,
    pub reopen_ms: f64,
}

/// The n-th file of a thread.
fn file_of(thread: u64, n: u64) -> u64 {
    (n / DIR_FILES * THREADS + thread) * DIR_FILES + n % DIR_FILES
}

/// Creates until killed; each thread notes how many were acknowledged.
pub fn child(args: &CrashArgs, dir: &Path) -> Result<(), KvError> {
    let kv = engine::open(&args.engine, &dir.join("store"), args.cache_mib << 20)?;
    let acks = File::create(dir.join("acks"))?;
    let never = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| sync_until(&*kv, &never));
        for thread in 0..THREADS {
            let (kv, acks) = (&*kv, &acks);
            scope.spawn(move || {
                for n in 0.. {
                    workload::create(kv, file_of(thread, n)).expect("create");
                    acks.write_all_at(&(n + 1).to_le_bytes(), thread * 8).expect("note");
                }
            });
        }
    });
    Ok(())
}

pub fn run(args: &CrashArgs) -> Result<CrashOutcome, KvError> {
    let dir = tempfile::Builder::new().prefix("kv-engines-").tempdir_in(&args.dir)?;
    std::fs::create_dir(dir.path().join("store"))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["crash", "--engine", &args.engine, "--cache-mib", &args.cache_mib.to_string(), "--child"])
        .arg(dir.path())
        .spawn()?;
    std::thread::sleep(Duration::from_secs(args.seconds));
    child.kill()?;
    child.wait()?;
    let acks = std::fs::read(dir.path().join("acks"))?;
    let began = Instant::now();
    let kv = engine::open(&args.engine, &dir.path().join("store"), args.cache_mib << 20)?;
    let reopen_ms = began.elapsed().as_secs_f64() * 1e3;
    let (mut acknowledged, mut lost) = (0, 0);
    for (thread, count) in acks.chunks_exact(8).enumerate() {
        let count = u64::from_le_bytes(count.try_into().expect("eight bytes"));
        acknowledged += count;
        for n in 0..count {
            lost += u64::from(!workload::lookup(&*kv, file_of(thread as u64, n))?);
        }
    }
    Ok(CrashOutcome { engine: args.engine.clone(), acknowledged, lost, reopen_ms })
}
