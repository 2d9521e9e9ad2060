//! Goal: whatever is wrong with what `hayate` is given, it says what happened, to which path, and what to do; it ends with a
//! code other than 0; and nothing stays running, mounted or lying about. Method: the real program, one wrong thing a test.

mod common;

use common::{Sandbox, can_mount, in_own_namespace, said};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

#[test]
fn tier_that_does_not_exist() {
    let sandbox = Sandbox::new();
    let tier = sandbox.word("none");
    sandbox.up_fails(2, &["--tier", &tier], &[&tier, "make it first"]);
}

#[test]
fn tier_that_is_a_file() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("file"), "").unwrap();
    sandbox.up_fails(2, &["--tier", &sandbox.word("file")], &["not a directory"]);
}

/// Root may write to directories of any mode, but not make files in sysfs.
#[test]
fn tier_that_is_read_only() {
    let sandbox = Sandbox::new();
    let tier =
        if rustix::process::geteuid().is_root() { "/sys/kernel".to_owned() } else { sandbox.word("tier") };
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(&tier, fs::Permissions::from_mode(0o555)).unwrap();
    }
    sandbox.up_fails(2, &["--nodes", "2", "--tier", &tier], &[&tier, "cannot be written to"]);
}

#[test]
fn port_in_use() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    sandbox.up_fails(1, &["--nodes", "1", "--port", &port], &[&port, "server 0"]);
}

#[test]
fn mount_point_not_empty() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    fs::write(sandbox.path("m/file"), "").unwrap();
    let expected = if can_mount() { "not empty" } else { "/dev/fuse" };
    sandbox.up_fails(1, &["--mount", &sandbox.word("m")], &[expected]);
}

#[test]
fn mount_point_missing() {
    let sandbox = Sandbox::new();
    let expected = if can_mount() { "make it first" } else { "/dev/fuse" };
    sandbox.up_fails(1, &["--mount", &sandbox.word("none")], &[expected]);
}

#[test]
fn no_fuse_device() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    let script = "mount -t tmpfs none /dev && exec \"$HAYATE\" up --store \"$BOX/store\" --mount \"$BOX/m\" </proc/self/mounts";
    let Some(said) = in_own_namespace(&sandbox, script) else { return };
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("/dev/fuse is missing"), "{said:?}");
    sandbox.assert_nothing_left();
}

#[test]
fn wrong_secret() {
    let sandbox = Sandbox::new();
    sandbox.up(&[]);
    let path = sandbox.path("c.toml");
    let right = fs::read_to_string(&path).unwrap();
    let secret = sandbox.cluster()["secret"].as_str().unwrap().to_owned();
    fs::write(&path, right.replace(&secret, &"5a".repeat(32))).unwrap();
    for command in [&["status"][..], &["ls"], &["df"], &["up"], &["down", "--discard"]] {
        sandbox.fails(1, command, &["secret"]);
    }
    fs::write(&path, right).unwrap();
    sandbox.ok(&["status"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn wrong_version() {
    let sandbox = Sandbox::new();
    sandbox.up(&[]);
    let port = answer_with_version_99();
    let right = fs::read_to_string(sandbox.path("c.toml")).unwrap();
    let tcp = sandbox.members("tcp")[0].as_str().unwrap().to_owned();
    let unix = sandbox.members("unix")[0].as_str().unwrap().to_owned();
    let wrong = right.replace(&tcp, &format!("127.0.0.1:{port}")).replace(&unix, "/nowhere.sock");
    fs::write(sandbox.path("c.toml"), wrong).unwrap();
    sandbox.fails(1, &["status"], &["version", "same release"]);
    sandbox.fails(1, &["ls"], &["version"]);
    fs::write(sandbox.path("c.toml"), right).unwrap();
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

/// Answers every connection with the header of a reply of protocol version 99. Answers its port.
fn answer_with_version_99() -> u16 {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { continue };
            let mut request = [0; 64];
            if connection.read_exact(&mut request).is_ok() {
                request[4] = 99;
                request[12] |= 1;
                let sum = fs_proto::checksum::crc(&request[..60]);
                request[60..].copy_from_slice(&sum.to_le_bytes());
                // The other side may hang up at once.
                let _ = connection.write_all(&request);
                let _ = connection.read_to_end(&mut Vec::new());
            }
        }
    });
    port
}

#[test]
fn store_of_another_cluster() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2"]);
    sandbox.ok(&["down", "--keep"]);
    let (file, away) = (sandbox.path("c.toml"), sandbox.path("away.toml"));
    fs::rename(&file, &away).unwrap();
    let store = sandbox.word("store");
    sandbox.fails(1, &["up", "--nodes", "2", "--store", &store], &["another", &store]);
    assert_eq!(sandbox.processes(), []);
    assert!(!file.exists());
    // The first cluster's data was not touched.
    fs::rename(&away, &file).unwrap();
    sandbox.ok(&["up", "--restart"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

/// Method: a store on a file system of 96 MiB, and a file of 128.
#[test]
fn store_full() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("small")).unwrap();
    fs::File::create(sandbox.path("big")).unwrap().set_len(128 << 20).unwrap();
    let script = "mount -t tmpfs -o size=96m none \"$BOX/small\" && \"$HAYATE\" up --store \"$BOX/small\" >/dev/null || exit 99\n\
        \"$HAYATE\" cp \"$BOX/big\" h:/big; code=$?\n\"$HAYATE\" ls -l; \"$HAYATE\" down --discard >&2 || exit 98\nexit $code";
    let Some(said) = in_own_namespace(&sandbox, script) else { return };
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.to_lowercase().contains("space") || said.err.contains("full"), "{said:?}");
    assert!(said.out.contains("big"), "the file system still answers: {said:?}");
    sandbox.assert_nothing_left();
}

#[test]
fn hostfile_with_an_unknown_host() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("hosts"), "localhost\nno-such-host.invalid\n").unwrap();
    let hosts = sandbox.word("hosts");
    sandbox.up_fails(2, &["--hostfile", &hosts], &["no-such-host.invalid", "unknown host", &hosts]);
    sandbox.up_fails(1, &["--hostfile", "/nowhere/hosts"], &["/nowhere/hosts"]);
    fs::write(sandbox.path("hosts"), "").unwrap();
    sandbox.up_fails(2, &["--hostfile", &hosts], &["names no host"]);
}

#[test]
fn launcher_that_is_not_installed() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("hosts"), "localhost\n").unwrap();
    let (store, hosts) = (sandbox.word("store"), sandbox.word("hosts"));
    let mut command =
        sandbox.hayate(&["up", "--store", &store, "--hostfile", &hosts, "--launcher", "mpirun"]);
    let said = said(command.env("PATH", sandbox.path("nothing")).output().unwrap());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("mpirun") && said.err.contains("installed"), "{said:?}");
    sandbox.assert_nothing_left();
}

#[test]
fn cluster_file_missing_open_to_others_or_garbage() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("c.toml");
    let commands: [&[&str]; 7] =
        [&["status"], &["ls"], &["cat", "/x"], &["df"], &["down"], &["flush"], &["up", "--restart"]];
    for command in commands {
        sandbox.fails(1, command, &["no cluster file", path.to_str().unwrap(), "hayate up"]);
    }
    fs::write(&path, "secret = 7 [").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for command in commands.iter().chain([&&["up"][..]]) {
        sandbox.fails(1, command, &["not safe", "0600"]);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for command in commands.iter().chain([&&["up"][..]]) {
        sandbox.fails(1, command, &["cannot be understood"]);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn options_that_make_no_sense() {
    let sandbox = Sandbox::new();
    let cases: [(&[&str], &str); 9] = [
        (&["--memory", "lots"], "not a size"),
        (&["--nodes", "0"], "--nodes"),
        (&["--kv", "bdb"], "--kv"),
        (&["--durability", "maybe"], "--durability"),
        (&["--port", "70000"], "--port"),
        (&["--launcher", "ssh"], "--hostfile"),
        (&["--launcher", "teleport"], "teleport"),
        (&["--restart", "--nodes", "2"], "--nodes"),
        (&["--no-such-option"], "--no-such-option"),
    ];
    for (words, named) in cases {
        sandbox.up_fails(2, words, &[named]);
    }
    sandbox.fails(2, &["--log", "=,=", "status"], &["--log"]);
    sandbox.fails(2, &["cp", "a", "b"], &["h:/PATH"]);
    sandbox.fails(2, &["umount", &sandbox.word("tier")], &["nothing is mounted"]);
    sandbox.fails(2, &["server", "--id", "auto"], &["rank"]);
}

/// A budget that is too small is found by the server, not by `up`.
#[test]
fn too_little_memory() {
    let sandbox = Sandbox::new();
    sandbox.up_fails(1, &["--memory", "1M"], &["memory", "server 0"]);
}
