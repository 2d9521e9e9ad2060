//! The phases of IO500 in their order, and which IOR, mdtest or find each is.

use super::options::Io500Spec;
use crate::backend::Api;
use crate::ior::plan::Test;
use crate::ior::spec::{IorSpec, Reorder};
use crate::mdtest::Setup;
use crate::mdtest::spec::MdtestSpec;
use crate::phase::Phase;

/// Seconds that phases that write must take in a valid run.
pub const OFFICIAL_STONEWALL_S: u64 = 300;
/// Transfer size of ior-easy.
pub const EASY_TRANSFER_BYTES: u64 = 2 << 20;
/// Block size of ior-easy: more than any deadline allows.
pub const EASY_BLOCK_BYTES: u64 = 9_920_000 << 20;
/// Transfer and block size of ior-hard.
pub const HARD_TRANSFER_BYTES: u64 = 47_008;
/// Segments of ior-hard: more than any deadline allows.
pub const HARD_SEGMENTS: u64 = 10_000_000;
/// Size of the files of mdtest-hard.
pub const HARD_FILE_BYTES: u64 = 3901;
/// Files of each task: more than any deadline allows.
pub const ITEMS: u64 = 1_000_000;
/// Transfer size of the random reads.
pub const RANDOM_TRANSFER_BYTES: u64 = 4096;

/// Which mean a phase counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// None.
    Unscored,
    /// Metadata, in thousands of operations a second.
    Metadata,
    /// Bandwidth, in GiB/s.
    Bandwidth,
}

/// What a phase does, made from options, data directory and number of tasks.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// An IOR test.
    Ior(fn(&Io500Spec, &str, u32) -> Test),
    /// An mdtest.
    Mdtest(fn(&Io500Spec, &str, u32) -> Setup),
    /// The walk.
    Find,
    /// The file that `find` compares with.
    Timestamp,
}

/// One phase.
#[derive(Debug)]
pub struct Step {
    /// IO500's name.
    pub name: &'static str,
    /// Where it counts.
    pub group: Group,
    /// Whether a deadline ends it, so that it must last as long.
    pub writes: bool,
    /// The phase of the benchmark below whose result it is.
    pub phase: Phase,
    /// What it does.
    pub work: Work,
}

const fn step(name: &'static str, group: Group, writes: bool, phase: Phase, work: Work) -> Step {
    Step { name, group, writes, phase, work }
}

/// All phases in IO500's order.
pub const PHASES: &[Step] = &[
    step("ior-easy-write", Group::Bandwidth, true, Phase::Write, Work::Ior(easy_write)),
    step("mdtest-easy-write", Group::Metadata, true, Phase::FileCreate, Work::Mdtest(md_easy_write)),
    step("timestamp", Group::Unscored, false, Phase::Write, Work::Timestamp),
    step("ior-hard-write", Group::Bandwidth, true, Phase::Write, Work::Ior(hard_write)),
    step("mdtest-hard-write", Group::Metadata, true, Phase::FileCreate, Work::Mdtest(md_hard_write)),
    step("find", Group::Metadata, false, Phase::Find, Work::Find),
    step("ior-easy-read", Group::Bandwidth, false, Phase::Read, Work::Ior(easy_read)),
    step("mdtest-easy-stat", Group::Metadata, false, Phase::FileStat, Work::Mdtest(md_easy_stat)),
    step("ior-hard-read", Group::Bandwidth, false, Phase::Read, Work::Ior(hard_read)),
    step("mdtest-hard-stat", Group::Metadata, false, Phase::FileStat, Work::Mdtest(md_hard_stat)),
    step("mdtest-easy-delete", Group::Metadata, false, Phase::FileRemove, Work::Mdtest(md_easy_delete)),
    step("mdtest-hard-read", Group::Metadata, false, Phase::FileRead, Work::Mdtest(md_hard_read)),
    step("mdtest-hard-delete", Group::Metadata, false, Phase::FileRemove, Work::Mdtest(md_hard_delete)),
    step("ior-rnd4K-easy-read", Group::Unscored, false, Phase::Read, Work::Ior(random_read)),
];

fn ior(api: Api, file: String, tasks: u32, seed: u64) -> IorSpec {
    IorSpec {
        tasks,
        reorder: Reorder::Constant { offset: 1 },
        intra_barriers: true,
        seeds: vec![seed],
        keep: true,
        fsync: true,
        write: false,
        read: false,
        ..IorSpec::new(api, file)
    }
}

fn easy(spec: &Io500Spec, data: &str, tasks: u32) -> IorSpec {
    IorSpec {
        transfer_size: EASY_TRANSFER_BYTES,
        block_size: spec.easy_block / EASY_TRANSFER_BYTES * EASY_TRANSFER_BYTES,
        file_per_process: true,
        ..ior(spec.api, format!("{data}/ior-easy/ior_file_easy"), tasks, 271)
    }
}

fn hard(spec: &Io500Spec, data: &str, tasks: u32) -> IorSpec {
    IorSpec {
        transfer_size: HARD_TRANSFER_BYTES,
        block_size: HARD_TRANSFER_BYTES,
        segments: spec.hard_segments,
        ..ior(spec.api, format!("{data}/ior-hard/file"), tasks, 27)
    }
}

fn writing(of: &Io500Spec, spec: IorSpec) -> Test {
    Test::new(IorSpec { write: true, deadline_s: of.stonewall_s, wear_out: true, ..spec })
}

fn easy_write(spec: &Io500Spec, data: &str, tasks: u32) -> Test {
    writing(spec, easy(spec, data, tasks))
}

fn hard_write(spec: &Io500Spec, data: &str, tasks: u32) -> Test {
    writing(spec, hard(spec, data, tasks))
}

fn easy_read(spec: &Io500Spec, data: &str, tasks: u32) -> Test {
    Test::new(IorSpec { read: true, check_read: true, ..easy(spec, data, tasks) })
}

fn hard_read(spec: &Io500Spec, data: &str, tasks: u32) -> Test {
    Test::new(IorSpec { read: true, check_read: true, ..hard(spec, data, tasks) })
}

fn random_read(spec: &Io500Spec, data: &str, tasks: u32) -> Test {
    Test::new(IorSpec {
        read: true,
        transfer_size: RANDOM_TRANSFER_BYTES,
        random_offset: true,
        reorder: Reorder::Constant { offset: 2 },
        deadline_s: spec.stonewall_s,
        wear_out: true,
        ..easy(spec, data, tasks)
    })
}

fn mdtest(api: Api, directory: String, tasks: u32, items: u64, seed: u64) -> MdtestSpec {
    MdtestSpec {
        tasks,
        stride: 1,
        create: false,
        stat: false,
        read: false,
        remove: false,
        seed,
        ..MdtestSpec::new(api, directory, items)
    }
}

fn md_easy(spec: &Io500Spec, data: &str, tasks: u32) -> MdtestSpec {
    let base = mdtest(spec.api, format!("{data}/mdtest-easy"), tasks, spec.easy_files, 271);
    MdtestSpec { unique_dir: true, leaf_only: true, ..base }
}

fn md_hard(spec: &Io500Spec, data: &str, tasks: u32) -> MdtestSpec {
    let base = mdtest(spec.api, format!("{data}/mdtest-hard"), tasks, spec.hard_files, 27);
    MdtestSpec { time_unique: true, write_bytes: HARD_FILE_BYTES, read_bytes: HARD_FILE_BYTES, ..base }
}

/// With a sync at the end of the phase, where there is such a call (`Io500Spec::faults` tells where not).
fn md_writing(of: &Io500Spec, spec: MdtestSpec) -> Setup {
    let sync_host = spec.api == Api::Posix;
    Setup::new(MdtestSpec { create: true, deadline_s: of.stonewall_s, sync_host, ..spec })
}

fn md_easy_write(spec: &Io500Spec, data: &str, tasks: u32) -> Setup {
    md_writing(spec, md_easy(spec, data, tasks))
}

fn md_hard_write(spec: &Io500Spec, data: &str, tasks: u32) -> Setup {
    md_writing(spec, md_hard(spec, data, tasks))
}

fn md_easy_stat(spec: &Io500Spec, data: &str, tasks: u32) -> Setup {
    Setup::new(MdtestSpec { stat: true, ..md_easy(spec, data, tasks) })
}

fn md_hard_stat(spec: &Io500Spec, data: &str, tasks: u32) -> Setup {
    Setup::new(MdtestSpec { stat: true, ..md_hard(spec, data, tasks) })
}

fn md_hard_read(spec: &Io500Spec, data: &str, tasks: u32) -> Setup {
    Setup::new(MdtestSpec { read: true, verify: true, ..md_hard(spec, data, tasks) })
}

fn md_easy_delete(spec: &Io500Spec, data: &str, tasks: u32) -> Setup {
    Setup::new(MdtestSpec { remove: true, ..md_easy(spec, data, tasks) })
}

fn md_hard_delete(spec: &Io500Spec, data: &str, tasks: u32) -> Setup {
    Setup::new(MdtestSpec { remove: true, ..md_hard(spec, data, tasks) })
}

impl Step {
    /// `ior-easy`, `mdtest-hard` and so on: what phases on the same files have in common.
    pub fn group_name(&self) -> &'static str {
        self.name.rsplit_once('-').map_or(self.name, |(group, _)| group)
    }

    /// The command that does the same alone.
    pub fn command(&self, spec: &IorSpec) -> String {
        let way = match (spec.write, spec.check_read) {
            (true, _) => format!(" -w -D {} -O stoneWallingWearOut=1", spec.deadline_s),
            (false, true) => " -r -R".to_owned(),
            (false, false) => format!(" -r -z -D {} -O stoneWallingWearOut=1", spec.deadline_s),
        };
        let Reorder::Constant { offset } = spec.reorder else { return String::new() };
        let shape = if spec.file_per_process { " -F" } else { "" };
        format!(
            "hayate bench ior -C -Q {offset} -g -G {} -k -e -o {} -t {} -b {} -s {}{shape}{way} -a {}",
            spec.seeds.first().unwrap_or(&0),
            spec.test_file,
            spec.transfer_size,
            spec.block_size,
            spec.segments,
            spec.api
        )
    }

    /// The command that does the same alone.
    pub fn mdtest_command(&self, spec: &MdtestSpec) -> String {
        let kind =
            if spec.unique_dir { "-u -L".to_owned() } else { format!("-t -w {0} -e {0}", spec.write_bytes) };
        let way = match (spec.create, spec.stat, spec.read) {
            (true, ..) if spec.sync_host => format!("-C -Y -W {}", spec.deadline_s),
            (true, ..) => format!("-C -W {}", spec.deadline_s),
            (_, true, _) => "-T".to_owned(),
            (_, _, true) => "-E -X".to_owned(),
            _ => "-r".to_owned(),
        };
        format!(
            "hayate bench mdtest -n {} {kind} -F -N {} -G {} -d {} {way} -a {}",
            spec.items,
            spec.stride,
            spec.seed,
            spec.directory(0),
            spec.api
        )
    }
}
