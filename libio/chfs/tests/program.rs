//! Goal: a program that was written for CHFS runs with this library. Method: a C program that calls all functions is compiled with all warnings as errors,
//! linked with `libchfs.so`, and run against a cluster with a second tier; the header is compiled as C++, too.

use std::fs::{File, FileTimes};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use hayate_tests::{Cluster, ClusterOptions};

/// Where cargo put the library: beside this test.
fn library_dir() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    test.parent().expect("its directory").to_owned()
}

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

fn compiles(compiler: &mut Command) {
    let done = compiler
        .args(["-Wall", "-Wextra", "-Werror", "-I"])
        .arg(include())
        .output()
        .expect("a compiler: install gcc and g++");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What the program stages in.
fn backend(dir: &Path) -> PathBuf {
    let backend = dir.join("backend");
    std::fs::create_dir_all(backend.join("in")).expect("made");
    let path = backend.join("in/file");
    std::fs::write(&path, "staged in").expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("set");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    let times = FileTimes::new().set_modified(time);
    File::options().write(true).open(&path).and_then(|file| file.set_times(times)).expect("set");
    symlink("file", backend.join("in/link")).expect("made");
    backend
}

#[test]
fn every_function() {
    let dir = tempfile::tempdir().expect("a directory");
    let (libraries, program) = (library_dir(), dir.path().join("program"));
    compiles(
        Command::new("cc")
            .args(["-std=gnu11", "-O1", "-g", "-o"])
            .arg(&program)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/program.c"))
            .arg("-L")
            .arg(&libraries)
            .arg(format!("-Wl,-rpath,{}", libraries.display()))
            .arg("-lchfs"),
    );
    let cluster = Cluster::with(ClusterOptions { servers: 3, tier: true, ..ClusterOptions::default() });
    let file = dir.path().join("cluster.toml");
    cluster.file().store(&file).expect("written");
    let done = Command::new(&program)
        .args([&file, &backend(dir.path()), cluster.tier().expect("a tier")])
        .env_remove("HAYATE_CLUSTER")
        // Cargo's own has directories before this one where an older library may lie.
        .env("LD_LIBRARY_PATH", &libraries)
        .env("XDG_RUNTIME_DIR", dir.path().join("nothing"))
        .output()
        .expect("it runs");
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
}

#[test]
fn cpp_takes_the_header() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("includes");
    std::fs::write(&source, "#include \"chfs.h\"\n").expect("written");
    compiles(Command::new("c++").args(["-x", "c++", "-std=c++17", "-c", "-o", "/dev/null"]).arg(&source));
}
