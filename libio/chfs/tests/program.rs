//! Goal: a program that was written, or built, for CHFS runs with this library. Method: C programs are compiled with all warnings as errors, linked with `libchfs.so` or with a
//! stand-in for CHFS's own, and run against a cluster; the header is compiled as C++, too.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use hayate_tests::mpi::Mpi;
use hayate_tests::{Cluster, ClusterOptions, skip, watched};
use tempfile::TempDir;

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

/// Compiles a program of `tests/c` with the library of this name in `libraries`, but without a word in it on where that is.
fn program(compiler: &str, name: &str, libraries: &Path, dir: &TempDir) -> PathBuf {
    let program = dir.path().join(name);
    compiles(
        Command::new(compiler)
            .args(["-std=gnu11", "-O1", "-g", "-o"])
            .arg(&program)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/c/{name}.c")))
            .arg("-L")
            .arg(libraries)
            .arg("-lchfs"),
    );
    program
}

/// Lets a command find Hayate's library, and nothing else of this user. Cargo's own list has directories before this one where an older library may lie.
fn with_hayate(mut command: Command, dir: &TempDir) -> Command {
    command
        .env_remove("HAYATE_CLUSTER")
        .env("LD_LIBRARY_PATH", library_dir())
        .env("XDG_RUNTIME_DIR", dir.path().join("nothing"));
    command
}

fn assert_succeeds(done: &Output) {
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
}

/// A cluster, its file in `dir`.
fn cluster_in(dir: &TempDir) -> (Cluster, PathBuf) {
    let cluster = Cluster::with(ClusterOptions { servers: 3, tier: true, ..ClusterOptions::default() });
    let file = dir.path().join("cluster.toml");
    cluster.file().store(&file).expect("written");
    (cluster, file)
}

/// What `program.c` needs.
fn runs_all(program: &Path, dir: &TempDir) -> Output {
    let (cluster, file) = cluster_in(dir);
    let arguments = [&file, &backend(dir.path()), &cluster.tier().expect("a tier").to_owned()];
    watched(with_hayate(Command::new(program), dir).args(arguments)).output().expect("it runs")
}

#[test]
fn every_function() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_succeeds(&runs_all(&program("cc", "program", &library_dir(), &dir), &dir));
}

/// Goal: a program that was linked with CHFS's own library, which libtool calls libchfs.so.0, runs unchanged. Method: a stand-in of that name inside that has the functions' names and
/// does nothing; the program needs it, and finds Hayate's.
#[test]
fn a_program_built_for_chfs_runs_unchanged() {
    let dir = tempfile::tempdir().expect("a directory");
    let theirs = dir.path().join("chfs");
    std::fs::create_dir(&theirs).expect("made");
    let source = dir.path().join("stand_in.c");
    std::fs::write(&source, stand_in()).expect("written");
    compiles(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-Wl,-soname,libchfs.so.0", "-o"])
            .arg(theirs.join("libchfs.so"))
            .arg(&source),
    );
    let program = program("cc", "program", &theirs, &dir);
    let alone = Command::new(&program).env_remove("LD_LIBRARY_PATH").output().expect("the loader runs");
    let said = String::from_utf8_lossy(&alone.stderr);
    assert!(said.contains("libchfs.so.0: cannot open"), "it does not need libchfs.so.0: {said}");
    assert_succeeds(&runs_all(&program, &dir));
}

/// A function that does nothing for each that the header declares.
fn stand_in() -> String {
    let header = std::fs::read_to_string(include().join("chfs.h")).expect("the header");
    let words = header.split(|c: char| !(c.is_ascii_alphanumeric() || "_(".contains(c)));
    let names: BTreeSet<_> = words
        .filter_map(|word| word.split_once('(').map(|(name, _)| name))
        .filter(|name| name.starts_with("chfs_"))
        .collect();
    assert!(names.len() > 35, "{names:?}");
    let functions = names.into_iter().chain(["hayate_last_error"]);
    let each: Vec<_> =
        functions.map(|name| format!("void {name}(void);\nvoid {name}(void) {{}}\n")).collect();
    each.concat()
}

/// Goal: IOR's calls, by ranks of each MPI that is here.
#[test]
fn what_ior_does_under_mpi() {
    for mpi in Mpi::installed() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = program(mpi.compiler, "ior_like", &library_dir(), &dir);
        let (_cluster, file) = cluster_in(&dir);
        for ranks in [2, 4] {
            let mut command = with_hayate(mpi.ranks(ranks), &dir);
            let done = watched(command.arg(&program).env("HAYATE_CLUSTER", &file)).output().expect("it runs");
            assert_succeeds(&done);
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(said.contains(&format!("{ranks} ranks")), "{}: not its ranks: {said}", mpi.compiler);
        }
    }
}

/// Goal: what may only be read is read by a program that passes IOR's flag for it. Method: as the superuser, who becomes another.
#[test]
fn what_may_only_be_read() {
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().expect("a directory");
    let (cluster, file) = cluster_in(&dir);
    let theirs = dir.path().join("theirs");
    std::fs::create_dir(&theirs).expect("made");
    let copy = theirs.join("cluster.toml");
    std::fs::copy(&file, &copy).expect("copied");
    if chown(&copy, Some(NOBODY), Some(NOBODY))
        .and_then(|()| chown(&theirs, Some(NOBODY), Some(NOBODY)))
        .is_err()
    {
        return skip::note("only the superuser can be another user");
    }
    for member in &cluster.file().members {
        std::fs::set_permissions(&member.unix, PermissionsExt::from_mode(0o777)).expect("set");
    }
    let sockets = cluster.file().members[0].unix.parent().expect("a directory").to_owned();
    for open in [dir.path(), &sockets] {
        std::fs::set_permissions(open, PermissionsExt::from_mode(0o755)).expect("set");
    }
    let program = program("cc", "permitted", &library_dir(), &dir);
    let mut command = with_hayate(Command::new(program), &dir);
    let done = watched(command.args([&file, &copy])).output().expect("it runs");
    assert_succeeds(&done);
}

#[test]
fn cpp_takes_the_header() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("includes");
    std::fs::write(&source, "#include \"chfs.h\"\n").expect("written");
    compiles(Command::new("c++").args(["-x", "c++", "-std=c++17", "-c", "-o", "/dev/null"]).arg(&source));
}
