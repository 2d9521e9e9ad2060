//! One run of one engine: phases, each with its rate, CPU and memory.

use crate::engine;
use crate::process::{anonymous_bytes, cpu_us, disk_bytes, watched};
use crate::workload::{self, DIR_FILES, THREADS, mix};
use fs_server::kv::{Kv, KvError};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug, Clone)]
pub struct RunArgs {
    /// Engine, as `engine/mod.rs` names it.
    #[arg(long)]
    pub engine: String,
    /// Files to create.
    #[arg(long, default_value_t = 1_000_000)]
    pub files: u64,
    /// Directory on the device in question; the store is made in a new one below it.
    #[arg(long, default_value = ".")]
    pub dir: std::path::PathBuf,
    /// Memory for caches and write buffers, in MiB.
    #[arg(long, default_value_t = 64)]
    pub cache_mib: u64,
    /// Creating ends after this many seconds, with fewer files.
    #[arg(long, default_value_t = 600)]
    pub seconds: u64,
    /// Look-ups, deletes and mixed operations, each.
    #[arg(long, default_value_t = 200_000)]
    pub operations: u64,
}

/// A phase: operations a second, CPU of all threads for one, and the highest anonymous memory meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub operations: u64,
    pub per_second: f64,
    pub cpu_us: f64,
    pub peak_mib: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub engine: String,
    pub files: u64,
    pub phases: Vec<Phase>,
    /// Anonymous memory in MiB after each tenth of the creates.
    pub growth_mib: Vec<f64>,
    pub disk_mib: f64,
    pub load: String,
}

pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Runs `operation` for 0..count on two threads, with a sync every 10 ms by a third.
fn phase(
    kv: &dyn Kv,
    name: &str,
    count: u64,
    operation: impl Fn(u64) -> Result<(), KvError> + Sync,
) -> Result<Phase, KvError> {
    let (began, cpu) = (Instant::now(), cpu_us());
    let (outcome, peak) = watched(|| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let syncer = scope.spawn(|| sync_until(kv, &done));
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let operation = &operation;
                    let mine = move |at: &u64| at / DIR_FILES % THREADS == thread;
                    scope.spawn(move || (0..count).filter(mine).try_for_each(operation))
                })
                .collect();
            let outcome: Result<(), KvError> =
                workers.into_iter().try_for_each(|w| w.join().expect("no panic"));
            done.store(true, Ordering::Relaxed);
            outcome.and(syncer.join().expect("no panic"))
        })
    });
    outcome?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Phase {
        name: name.to_owned(),
        operations: count,
        per_second: count as f64 / seconds,
        cpu_us: (cpu_us() - cpu) as f64 / count as f64,
        peak_mib: mib(peak),
    })
}

pub fn sync_until(kv: &dyn Kv, done: &AtomicBool) -> Result<(), KvError> {
    while !done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
        kv.sync()?;
    }
    Ok(())
}

struct Created {
    phase: Phase,
    growth_mib: Vec<f64>,
    /// All below this are there.
    files: u64,
}

/// Creates up to `files`; an engine that is too slow ends early, with what it came to.
fn creates(kv: &dyn Kv, args: &RunArgs) -> Result<Created, KvError> {
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let (made, growth) = (AtomicU64::new(0), std::sync::Mutex::new(Vec::new()));
    let reached: [AtomicU64; THREADS as usize] = Default::default();
    let began = Instant::now();
    let mut created = phase(kv, "create", args.files, |n| {
        if Instant::now() >= deadline {
            return Ok(());
        }
        workload::create(kv, n)?;
        reached[(n / DIR_FILES % THREADS) as usize].store(n, Ordering::Relaxed);
        let made = made.fetch_add(1, Ordering::Relaxed) + 1;
        if made.is_multiple_of((args.files / 10).max(1)) {
            growth.lock().expect("no panic").push(mib(anonymous_bytes()));
        }
        Ok(())
    })?;
    let made = made.into_inner();
    created.per_second = made as f64 / began.elapsed().as_secs_f64();
    created.cpu_us *= args.files as f64 / made as f64;
    created.operations = made;
    let least = reached.into_iter().map(AtomicU64::into_inner).min().unwrap_or(0);
    // Whole directories of both threads, below what the slower one has reached.
    let files = (least / (THREADS * DIR_FILES)).max(1) * THREADS * DIR_FILES;
    Ok(Created { phase: created, growth_mib: growth.into_inner().expect("no panic"), files })
}

pub fn run(args: &RunArgs) -> Result<Outcome, KvError> {
    let load = load();
    let dir = tempfile::Builder::new().prefix("kv-engines-").tempdir_in(&args.dir)?;
    let kv = engine::open(&args.engine, dir.path(), args.cache_mib << 20)?;
    let Created { phase: created, growth_mib, files } = creates(&*kv, args)?;
    let mut phases = vec![created];
    phases.extend(reads(&*kv, files, args.operations)?);
    phases.extend(changes(&*kv, files, args)?);
    let disk_mib = mib(disk_bytes(dir.path()));
    Ok(Outcome {
        engine: args.engine.clone(),
        files: phases[0].operations,
        phases,
        growth_mib,
        disk_mib,
        load,
    })
}

fn reads(kv: &dyn Kv, files: u64, operations: u64) -> Result<Vec<Phase>, KvError> {
    let lookups = phase(kv, "lookup", operations, |n| {
        assert!(workload::lookup(kv, mix(n) % files)?, "a file is missing");
        Ok(())
    })?;
    let lists = 20;
    let listed = AtomicU64::new(0);
    let mut scans = phase(kv, "list", lists * DIR_FILES, |n| {
        if n.is_multiple_of(DIR_FILES) {
            listed.fetch_add(workload::list(kv, mix(n) % files)?, Ordering::Relaxed);
        }
        Ok(())
    })?;
    assert_eq!(listed.into_inner(), lists * DIR_FILES, "entries are missing");
    scans.operations = lists;
    Ok(vec![lookups, scans])
}

fn changes(kv: &dyn Kv, files: u64, args: &RunArgs) -> Result<Vec<Phase>, KvError> {
    let operations = args.operations;
    let mixed = phase(kv, "mixed", operations, |n| {
        if n % 10 < 7 {
            return workload::lookup(kv, mix(n) % files).map(drop);
        }
        workload::create(kv, args.files.next_multiple_of(2 * DIR_FILES) + n)
    })?;
    let deletes = phase(kv, "delete", operations.min(files), |n| workload::delete(kv, n))?;
    assert!(!workload::lookup(kv, 0)?, "a deleted file is there");
    Ok(vec![mixed, deletes])
}
