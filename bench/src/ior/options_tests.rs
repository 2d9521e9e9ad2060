//! The options of IOR are understood as IOR understands them.

use clap::Parser;

use super::*;
use crate::backend::Api;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    ior: IorArgs,
}

fn parse(line: &str) -> IorArgs {
    let words = line.split_whitespace().map(OsString::from);
    Program::try_parse_from(accept_np(words)).unwrap_or_else(|e| panic!("{line}: {e}")).ior
}

fn refused(line: &str, about: &str) {
    let message = parse(line).spec(1).expect_err(line).to_string();
    assert!(message.contains(about), "{line}: {message}");
}

/// Without options: IOR's defaults.
#[test]
fn defaults_are_those_of_ior() {
    let spec = parse("ior").spec(1).expect("defaults");
    assert_eq!(IorSpec { seeds: vec![1], ..spec }, IorSpec::new(Api::Posix, "testFile"));
}

/// A command line from a published run, and the spellings that IOR accepts.
#[test]
fn a_published_command_line_is_understood() {
    let spec = parse("ior -C -F -e -r -w -a POSIX -b 16777216 -t 1048576 -s 321 -o /mnt/x -N 64");
    assert_eq!(spec.num.tasks, Some(64));
    let spec = spec.spec(64);
    let spec = spec.expect("valid");
    assert_eq!(
        (spec.block_size, spec.transfer_size, spec.segments, spec.tasks),
        (16 << 20, 1 << 20, 321, 64)
    );
    assert!(spec.file_per_process && spec.fsync && spec.read && spec.write);
    assert_eq!(spec.reorder, Reorder::Constant { offset: 1 });
    let spec = parse("ior -i=10 -t=1M -b 2m -s3 -np 8 -wWkz -vv").spec(8).expect("valid");
    assert_eq!(
        (spec.repetitions, spec.transfer_size, spec.block_size, spec.segments),
        (10, 1 << 20, 2 << 20, 3)
    );
    assert!(
        spec.tasks == 8 && spec.write && spec.check_write && !spec.read && spec.keep && spec.random_offset
    );
    assert_eq!(spec.seeds.len(), 10);
    let spec = parse("ior -a hayate -o f -Z -X -3 -Q 2 -G 17 -R").spec(4).expect("valid");
    assert_eq!((spec.test_file.as_str(), spec.seeds), ("/f", vec![17]));
    let several = parse("ior -a hayate -o f@/g@d/h -F -w").spec(4).expect("valid");
    assert_eq!(several.test_file, "/f@/g@/d/h");
    assert_eq!(spec.reorder, Reorder::Random { seed: -3, offset: 2 });
}

#[test]
fn contradictions_are_refused() {
    refused("ior -C -Z", "-C or -Z");
    refused("ior -b 5k -t 2k", "multiple");
    refused("ior -c --warningAsErrors", "collective");
    refused("ior -r -R", "-G");
    refused("ior -W", "-G");
    assert!(Program::try_parse_from(["ior", "-t", "1q"]).is_err());
    assert!(Program::try_parse_from(["ior", "-a", "TAPE"]).is_err());
    refused("ior -u", "-F");
    refused("ior -F -u -o a@b", "-o A@B");
    refused("ior -F -a hayate -o a@", "-o");
}

/// Formats and files of results; directives by their long names; what they contradict.
#[test]
fn directives_say_where_results_go() {
    let plan = |line: &str| parse(line).plan(1, String::new());
    let plain = plan("ior").expect("plain").output;
    assert!(plain.shows_text() && plain.format == Format::Text);
    let stdout = plan("ior -O summaryFormat=JSON").expect("JSON").output;
    assert!(!stdout.shows_text() && stdout.format == Format::Json);
    let file = plan("ior -O summaryFile=out.csv,summaryFormat=CSV -O saveRankPerformanceDetailsCSV=r.csv");
    let file = file.expect("CSV file").output;
    assert_eq!((file.shows_text(), file.format, file.file.as_deref()), (true, Format::Csv, Some("out.csv")));
    assert_eq!(file.rank_csv.as_deref(), Some("r.csv"));
    let spec = |line: &str| plan(line).expect(line).tests[0].spec.clone();
    let walled =
        spec("ior -G 5 -D 3 -O stoneWallingWearOut=1,blockSize=2m,transferSize=1M,checkRead=1,fsync=1");
    assert_eq!((walled.deadline_s, walled.wear_out, walled.block_size), (3, true, 2 << 20));
    assert!(walled.check_read && walled.fsync && !walled.write);
    for wrong in
        ["ior -O lustreStripeCount=3", "ior -O stoneWallingWearOut=1", "ior -O fsync", "ior -f /nonexistent"]
    {
        assert!(plan(wrong).is_err(), "{wrong}");
    }
}

/// The options that came later: each reaches the test.
#[test]
fn all_options_reach_the_test() {
    let plan = parse("ior -T 5 -j 2 -m -i 3 -x -l o -M 64m -c -d 1 -E -K -g -Y -B -t 4k -b 8k -N 2")
        .plan(1, String::new());
    let test = plan.expect("valid").tests.remove(0);
    let spec = &test.spec;
    assert_eq!((spec.max_minutes, spec.outlier_s, spec.packet), (5, 2, Packet::Offset));
    assert!(
        spec.multi_file && spec.single_attempt && spec.use_existing && spec.direct && spec.fsync_per_write
    );
    assert!(test.collective && test.hog_per_node == 64 << 20 && spec.tasks == 2);
    assert!(Program::try_parse_from(["ior", "-l", "zeros"]).is_err());
    assert!(parse("ior -M 50%").hog_per_node > Some(1 << 20));
}

/// Every option in the help of IOR 4 (built with POSIX, DUMMY, MPIIO and MMAP) is known; what has no meaning here is refused with the reason.
#[test]
fn every_option_of_ior_is_known() {
    let letters = "cCeEFgkKmrRuvwWxyYzZaAbdDfGijlMNoOQstTX";
    let words = "collective warningAsErrors dryRun dataPacketType randomPrefill random-offset-seed posix.odirect posix.rangelocks \
                 dummy.delay-create mpiio.showHints mpiio.hintsFileName mmap.madv_pattern";
    let command = <Program as clap::CommandFactory>::command();
    let short = |letter: char| command.get_arguments().any(|arg| arg.get_short() == Some(letter));
    let long = |word: &str| {
        command.get_arguments().any(|arg| {
            arg.get_long() == Some(word) || arg.get_all_aliases().is_some_and(|all| all.contains(&word))
        })
    };
    assert_eq!(letters.chars().filter(|letter| !short(*letter)).collect::<String>(), "");
    assert_eq!(words.split_whitespace().filter(|word| !long(word)).collect::<Vec<_>>(), [""; 0]);
    for (line, reason) in [
        ("ior -y", "two mounts"),
        ("ior --dryRun", "-a NULL"),
        ("ior --randomPrefill=2m", "nothing to fill"),
        ("ior --mpiio.showHints", "no such interface"),
    ] {
        let error = Program::try_parse_from(line.split_whitespace()).err().expect(line).to_string();
        assert!(error.contains(reason), "{line}: {error}");
    }
    assert_eq!(parse("ior --random-offset-seed=-1 --collective --dataPacketType=o").random_offset_seed, -1);
}
