//! Goal: clusters on many hosts, by every launcher. Method: programs named as the launchers, which start on this machine what
//! the real ones would start on others; "hosts" are names of this machine.

mod common;

use common::{Sandbox, said};
use std::fs;
use std::process::Command;

/// As ssh: the last argument is a script for a shell on the host.
const SSH: &str = "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n";

/// As srun: runs `--ntasks=N` copies of what follows the options, each with its rank.
const SRUN: &str = "#!/bin/sh\nwhile :; do case $1 in --ntasks=*) n=${1#--ntasks=};; --*) ;; *) break;; esac; shift; done\n\
    i=0; while [ $i -lt $n ]; do SLURM_PROCID=$i \"$@\" & i=$((i+1)); done; wait\n";

/// As Open MPI's mpirun: `-n N -host A,B PROGRAM ...`.
const MPIRUN: &str = "#!/bin/sh\nn=$2; shift 4\n\
    i=0; while [ $i -lt $n ]; do OMPI_COMM_WORLD_RANK=$i \"$@\" & i=$((i+1)); done; wait\n";

/// As pbsdsh: `-n INDEX -- PROGRAM ...`.
const PBSDSH: &str = "#!/bin/sh\nshift 3\nexec \"$@\"\n";

struct Many {
    sandbox: Sandbox,
    path: String,
}

impl Many {
    fn new(launcher: &str, script: &str) -> Many {
        let sandbox = Sandbox::new();
        let bin = sandbox.path("bin");
        fs::create_dir(&bin).unwrap();
        common::write_program(&bin.join(launcher), script);
        fs::create_dir(sandbox.path("shared")).unwrap();
        fs::write(sandbox.path("hosts"), "localhost\n127.0.0.1\n").unwrap();
        fs::write(sandbox.path("nodes"), "localhost\nlocalhost\n127.0.0.1\n").unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        Many { sandbox, path }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.hayate(args);
        command.env("PATH", &self.path).env("PBS_NODEFILE", self.sandbox.path("nodes"));
        command
    }

    fn up(&self, launcher: &str, more: &[&str]) -> common::Said {
        let [store, hosts, shared] = ["store", "hosts", "shared"].map(|name| self.sandbox.word(name));
        let mut args = vec![
            "up",
            "--store",
            &store,
            "--hostfile",
            &hosts,
            "--launcher",
            launcher,
            "--rendezvous",
            &shared,
        ];
        args.extend(more);
        said(self.command(&args).output().unwrap())
    }

    fn whole_life(&self, launcher: &str) {
        let up = self.up(launcher, &[]);
        assert_eq!(up.code, Some(0), "{launcher}: {up:?}");
        let status = self.sandbox.ok(&["status"]);
        assert_eq!(status.lines().filter(|line| line.contains(" up ")).count(), 2, "{status}");
        self.sandbox.ok(&["mkdir", "/d"]);
        assert_eq!(self.sandbox.ok(&["ls"]), "d\n");
        common::kill(self.sandbox.server_pids()[1], rustix::process::Signal::KILL);
        let restart = said(self.command(&["up", "--restart"]).output().unwrap());
        assert_eq!(restart.code, Some(0), "{launcher}: {restart:?}");
        assert_eq!(self.sandbox.ok(&["ls"]), "d\n");
        let down = said(self.command(&["down", "--discard"]).output().unwrap());
        assert_eq!(down.code, Some(0), "{launcher}: {down:?}");
        common::wait_until("launchers have ended", || self.sandbox.processes().is_empty());
        self.sandbox.assert_nothing_left();
        assert_eq!(fs::read_dir(self.sandbox.path("shared")).unwrap().count(), 0);
    }
}

#[test]
fn by_ssh() {
    Many::new("ssh", SSH).whole_life("ssh");
}

#[test]
fn by_srun() {
    Many::new("srun", SRUN).whole_life("srun");
}

#[test]
fn by_mpirun() {
    Many::new("mpirun", MPIRUN).whole_life("mpirun");
}

#[test]
fn by_pbsdsh() {
    Many::new("pbsdsh", PBSDSH).whole_life("pbsdsh");
}

/// What a host's shell says is shown, and what was started elsewhere is stopped.
#[test]
fn host_that_refuses() {
    let many = Many::new(
        "ssh",
        &SSH.replace(
            "exec sh",
            "case \"$*\" in *' 127.0.0.1 '*) echo Permission denied >&2; exit 255;; esac; exec sh",
        ),
    );
    let up = many.up("ssh", &[]);
    assert_eq!(up.code, Some(1), "{up:?}");
    assert!(up.err.contains("Permission denied"), "{up:?}");
    common::wait_until("servers have ended", || many.sandbox.processes().is_empty());
    many.sandbox.assert_nothing_left();
}

/// The program is not where it was on the other host.
#[test]
fn rendezvous_that_hosts_do_not_see() {
    let many = Many::new("mpirun", "#!/bin/sh\nexec sleep 600\n");
    let up = many.up("mpirun", &["--timeout", "1"]);
    assert_eq!(up.code, Some(1), "{up:?}");
    assert!(
        up.err.contains("no word from server 0 on localhost") && up.err.contains("all hosts see"),
        "{up:?}"
    );
    common::wait_until("the launcher has ended", || many.sandbox.processes().is_empty());
    many.sandbox.assert_nothing_left();
}

/// Both "hosts" are this machine, so the second finds the place taken: the launch fails as a whole, and says on which host.
#[test]
fn host_that_cannot_mount() {
    let many = Many::new("ssh", SSH);
    fs::create_dir(many.sandbox.path("m")).unwrap();
    let up = many.up("ssh", &["--mount", &many.sandbox.word("m")]);
    assert_eq!(up.code, Some(1), "{up:?}");
    let expected = if common::can_mount() { "host of server " } else { "fuse" };
    assert!(up.err.contains(expected), "{up:?}");
    common::wait_until("servers have ended", || many.sandbox.processes().is_empty());
    many.sandbox.assert_nothing_left();
}

/// Method: a hostfile with one host, so that each host's mount has a place of its own.
#[test]
fn hosts_mount_and_unmount() {
    let many = Many::new("ssh", SSH);
    if !common::can_mount() {
        return;
    }
    fs::write(many.sandbox.path("hosts"), "localhost\n").unwrap();
    fs::create_dir(many.sandbox.path("m")).unwrap();
    let up = many.up("ssh", &["--mount", &many.sandbox.word("m")]);
    assert_eq!(up.code, Some(0), "{up:?}");
    fs::write(many.sandbox.path("m/file"), "content").unwrap();
    assert_eq!(many.sandbox.ok(&["cat", "/file"]), "content");
    // The mount outlives its server, and the server that starts again leaves it alone.
    common::kill(many.sandbox.server_pids()[0], rustix::process::Signal::KILL);
    let restart = said(many.command(&["up", "--restart"]).output().unwrap());
    assert_eq!(restart.code, Some(0), "{restart:?}");
    assert_eq!(fs::read(many.sandbox.path("m/file")).unwrap(), b"content");
    let down = said(many.command(&["down", "--discard"]).output().unwrap());
    assert_eq!(down.code, Some(0), "{down:?}");
    common::wait_until("all processes have ended", || many.sandbox.processes().is_empty());
    many.sandbox.assert_nothing_left();
}
