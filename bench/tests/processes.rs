//! Goal: tasks that are processes do the work, and one that dies or fails ends the run with its name, never a hang.
//! Method: this program is its own task (so it has no test harness): started as a task it serves, else it checks.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use bench::backend::{Api, Connection};
use bench::cli::{self, BenchArgs};
use bench::ior::spec::IorSpec;
use bench::phase::PhaseRecord;
use bench::tasks::coordinator::{self, Observer};
use bench::tasks::{Job, launch::Launch};
use bench::{BenchError, Result};
use clap::Parser;

/// As the `hayate` command mounts it.
#[derive(Parser)]
struct Program {
    #[command(subcommand)]
    command: Mounted,
}

#[derive(clap::Subcommand)]
enum Mounted {
    Bench(BenchArgs),
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("bench") {
        let Mounted::Bench(args) = Program::parse_from(cli::accept_np(std::env::args_os())).command;
        return match cli::run(args, &|_| Err("no cluster in this test".to_owned())) {
            Ok(errors) => ExitCode::from(cli::exit_status(errors)),
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(2)
            }
        };
    }
    let dir = tempfile::tempdir().expect("a directory");
    commands_measure_verify_and_fail(dir.path());
    ranks_are_known_by_their_variables(dir.path());
    killed_tasks_end_the_run();
    tasks_that_never_serve_end_the_run();
    println!("test result: ok. 4 scenarios of processes");
    ExitCode::SUCCESS
}

/// The command line from end to end: results, wrong content as exit status, an error as text, no file left.
fn commands_measure_verify_and_fail(dir: &Path) {
    let file = dir.join("f").to_string_lossy().into_owned();
    let bench = |words: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("bench").args(words.split_whitespace()).args(["-np", "3"]);
        let output = command.output().expect("a run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (status, _, errors) = bench(&format!("ior -a LIBIO -o {file}"));
    assert!(status == Some(2) && errors.contains("for checkpoints"), "{errors}");
    let (status, _, errors) = bench(&format!("ior --spread -o {file}"));
    assert!(status == Some(2) && errors.contains("a mount has its server"), "{errors}");
    let (status, _, errors) = bench("checkpoint --redundancy copies:1");
    assert!(status == Some(2) && errors.contains("-a LIBIO"), "{errors}");
    let sizes = format!("-t 1k -b 4k -s 2 -C -o {file}");
    let (status, text, errors) = bench(&format!("ior {sizes} -w -r -W -R -F -i 2"));
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{text}");
    assert!(text.contains("Max Write: ") && text.contains("processes, ready after"), "{text}");
    let (status, text, errors) = bench(&format!("ior {sizes} -w -k -G 3"));
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{text}");
    let mut data = std::fs::read(&file).expect("the kept file");
    assert_eq!(data.len(), 3 * 8192);
    (data[100], data[20_000]) = (!data[100], !data[20_000]);
    std::fs::write(&file, data).expect("the kept file");
    let (status, text, _) = bench(&format!("ior {sizes} -r -R -G 3"));
    assert_eq!(status, Some(2), "two wrong words: {text}");
    let (status, _, errors) = bench(&format!("ior {sizes} -r"));
    assert!(status == Some(2) && errors.contains("cannot open") && errors.contains("task "), "{errors}");
    let (status, _, errors) = bench("ior -a HAYATE");
    assert!(status == Some(2) && errors.contains("no cluster in this test"), "{errors}");
    let (status, text, errors) = bench(&format!("mdtest -n 5 -u -w 10 -e 10 -X -d {}", dir.display()));
    assert!(status == Some(0) && text.contains("File creation") && errors.is_empty(), "{text}{errors}");
    assert_eq!(std::fs::read_dir(dir).expect("the directory").count(), 0, "nothing is left");
}

/// As MPICH, Open MPI and Slurm start ranks: three processes that know of each other by variables and the current directory only. Rank 0 speaks.
/// `tests/e2e/bench.sh` has the launchers themselves.
fn ranks_are_known_by_their_variables(dir: &Path) {
    for (rank, size) in [
        ("PMI_RANK", "PMI_SIZE"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ] {
        let start = |number: u32| {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args(["bench", "ior", "-o", "shared", "-w", "-r", "-R", "-C", "-t", "1k", "-b", "8k"]);
            command.env(rank, number.to_string()).env(size, "3").current_dir(dir);
            command.stdout(std::process::Stdio::piped()).spawn().expect("a process")
        };
        let outputs = [2, 0, 1].map(start).map(|child| child.wait_with_output().expect("its end"));
        assert!(outputs.iter().all(|output| output.status.success()), "{rank}");
        let texts = outputs.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        assert!(texts[0].is_empty() && texts[2].is_empty(), "only rank 0 speaks");
        let speaks = |what: &str| assert!(texts[1].contains(what), "{rank}: {what:?} in {}", texts[1]);
        speaks("tasks               : 3\n");
        speaks("wrong words         : 0\n");
        assert_eq!(std::fs::read_dir(dir).expect("the directory").count(), 0, "{rank}: nothing is left");
    }
}

/// Kills one task as soon as all are started.
struct Killer {
    pids: Vec<u32>,
}

impl Observer for Killer {
    fn started(&mut self, pids: &[u32]) {
        self.pids = pids.to_vec();
        kill(pids[1], rustix::process::Signal::KILL);
    }

    fn phase(&mut self, _records: Vec<PhaseRecord>) -> Result<()> {
        Ok(())
    }
}

fn pid(id: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(id.cast_signed()).expect("a process id")
}

fn kill(id: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(pid(id), signal).expect("a living process");
}

/// One of four tasks of an endless run is killed.
fn killed_tasks_end_the_run() {
    let program = std::env::current_exe().expect("this program");
    let args = ["bench", "ior"].map(Into::into).to_vec();
    let spec = IorSpec { tasks: 4, repetitions: u32::MAX, ..IorSpec::new(Api::Null, "f") };
    let mut killer = Killer { pids: Vec::new() };
    let launch = Launch::Processes { program, args };
    let outcome = coordinator::run(&Job::Ior(Box::new(spec)), 4, &launch, &Connection::Null, &mut killer);
    let message = outcome.expect_err("a task was killed").to_string();
    assert!(message.contains("task 1 died") && message.contains("killed by signal 9"), "{message}");
    for id in killer.pids {
        assert!(rustix::process::test_kill_process(pid(id)).is_err(), "process {id} is left");
    }
}

/// Programs that end without serving, with a status or by a signal, or that cannot be started.
fn tasks_that_never_serve_end_the_run() {
    let attempt = |program: &str, args: &[&str]| {
        let launch =
            Launch::Processes { program: program.into(), args: args.iter().map(Into::into).collect() };
        let job = Job::Ior(Box::new(IorSpec { tasks: 2, ..IorSpec::new(Api::Null, "f") }));
        coordinator::run(&job, 2, &launch, &Connection::Null, &mut Killed)
    };
    let message = attempt("/bin/sh", &["-c", "exit 7"]).expect_err("no task").to_string();
    assert!(message.contains("exited with status 7"), "{message}");
    let garbage = attempt("/bin/sh", &["-c", "echo nonsense >&0; read line"]);
    assert!(
        matches!(&garbage, Err(BenchError::Task { why, .. }) if why.contains("cannot understand")),
        "{garbage:?}"
    );
    let missing = attempt("/nonexistent/program", &[]);
    assert!(matches!(missing, Err(BenchError::Start { rank: 0, .. })), "{missing:?}");
    let status = Command::new("/bin/sh").args(["-c", "kill -TERM $$"]).status().expect("a shell");
    assert_eq!(status.signal(), Some(15), "what the messages above rely on");
}

/// Expects nothing.
struct Killed;

impl Observer for Killed {
    fn phase(&mut self, _records: Vec<PhaseRecord>) -> Result<()> {
        Ok(())
    }
}
