//! The options of mdtest are understood as mdtest understands them.

use clap::{CommandFactory, Parser};

use super::*;
use crate::ior::options::accept_np;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    mdtest: MdtestArgs,
}

fn parse(line: &str) -> std::result::Result<MdtestArgs, String> {
    let words = line.split_whitespace().map(Into::into);
    Program::try_parse_from(accept_np(words)).map(|program| program.mdtest).map_err(|error| error.to_string())
}

fn setup(line: &str) -> Setup {
    let args = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    args.setup(4, String::new()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refused(line: &str, about: &str) {
    let message = match parse(line) {
        Ok(args) => args.setup(4, String::new()).expect_err(line).to_string(),
        Err(message) => message,
    };
    assert!(message.contains(about), "{line}: {message}");
}

/// Every option in the help of mdtest 4.1 (built with POSIX, DUMMY, MPIIO and MMAP) is known.
#[test]
fn every_option_of_mdtest_is_known() {
    let letters = "CTErUDFkLPRScuvXyYZtabdBefGiIlnNpsVwWxzg";
    let words = "print-all-procs verify-read verify-write warningAsErrors showRankStatistics random-seed dataPacketType run-cmd-before-phase \
                 run-cmd-after-phase saveRankPerformanceDetails savePerOpDataCSV posix.odirect posix.rangelocks dummy.delay-create \
                 dummy.delay-close dummy.delay-sync dummy.delay-xfer dummy.delay-only-rank0 mpiio.showHints mpiio.preallocate \
                 mpiio.useStridedDatatype mpiio.useFileView mpiio.hintsFileName mmap.madv_dont_need mmap.madv_pattern";
    let command = Program::command();
    let short = |letter: char| command.get_arguments().any(|arg| arg.get_short() == Some(letter));
    let long = |word: &str| {
        command.get_arguments().any(|arg| {
            arg.get_long() == Some(word) || arg.get_all_aliases().is_some_and(|all| all.contains(&word))
        })
    };
    let missing: Vec<String> = letters.chars().filter(|letter| !short(*letter)).map(String::from).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(words.split_whitespace().filter(|word| !long(word)).collect::<Vec<_>>(), [""; 0]);
}

/// Command lines of mdtest's documentation and of IO500.
#[test]
fn published_command_lines_are_understood() {
    let spec = setup("mdtest -n=10 -u -L -F -P -N 1 -d /a -x f -C -Y -W 300 -a POSIX").spec;
    assert!(spec.create && !spec.stat && spec.unique_dir && spec.sync_host && spec.deadline_s == 300);
    let spec = setup("mdtest -t -n 10 -w 3901 -e 3901 -F -N 1 -d /a -E -X -G 27").spec;
    assert!(spec.read && spec.verify && !spec.create && spec.seed == 27 && !spec.rename);
    let spec = setup("mdtest -D -n 4 -C -U -r").spec;
    assert!(spec.rename && !spec.stat && !spec.files);
    assert!(setup("mdtest -n 4").spec.rename);
    let spec = setup("mdtest -S -n 4").spec;
    assert!(spec.shared_files && spec.files && !spec.dirs);
    let spec = setup("mdtest -u -n 4 -d a@b -a HAYATE --dataPacketType=o --random-seed=7 -np 2").spec;
    assert_eq!((spec.directories, spec.tasks), (vec!["/a".to_owned(), "/b".to_owned()], 2));
    assert_eq!((spec.packet, spec.random, spec.random_seed), (Packet::Offset, true, 7));
}

#[test]
fn what_is_printed_is_as_asked() {
    let show = |line: &str| (setup(line).show.rate, setup(line).show.time, setup(line).show.verbose);
    assert_eq!(show("mdtest -n 1"), (true, false, 0));
    assert_eq!(show("mdtest -n 1 -Z -vv"), (false, true, 2));
    assert_eq!(show("mdtest -n 1 -P -V 1"), (true, true, 1));
}

#[test]
fn numbers_of_tasks_go_from_first_to_last() {
    assert_eq!(setup("mdtest -n 1").counts, [4]);
    assert_eq!(setup("mdtest -n 1 -l 3").counts, [1, 2, 3]);
    assert_eq!(setup("mdtest -n 1 -l 9 -s 2").counts, [1, 2, 4]);
    assert_eq!(setup("mdtest -n 1 -f 2 -l 4 -s 2").counts, [2, 4]);
    refused("mdtest -n 1 -f 5 -l 9", "-f");
    refused("mdtest -n 1 -l 4 -s 0", "-s");
}

#[test]
fn what_has_no_meaning_here_is_refused_with_the_reason() {
    refused("mdtest -n 1 -B 1", "barriers");
    refused("mdtest -n 1 -g", "hayate mkdir --layout");
    refused("mdtest -n 1 -Y -a HAYATE", "-y");
    refused("mdtest -n 1 --posix.odirect -a NULL", "POSIX");
    refused("mdtest -n 1 --warningAsErrors", "-e");
    refused("mdtest -n 1 --dataPacketType=x", "timestamp");
}
