//! Goal: the header says what the library is, and compilers of C and C++ take it without a word. Method: it is generated again and compared;
//! a file of one line that includes it is compiled with all warnings as errors.

use std::path::{Path, PathBuf};
use std::process::Command;

use hayate_tests::mpi::Mpi;

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn header() -> PathBuf {
    crate_dir().join("include/hayate.h")
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(crate_dir().join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::generate_with_config(crate_dir(), config).expect("a header");
    let mut text = Vec::new();
    bindings.write(&mut text);
    without_safety(&String::from_utf8(text).expect("text"))
}

/// What a comment says under `# Safety` binds Rust's callers; every C programmer knows it.
fn without_safety(text: &str) -> String {
    let mut kept = String::new();
    let mut skipping = false;
    for line in text.lines() {
        let comment = line.trim_start().strip_prefix("//").map(str::trim);
        match comment {
            Some("# Safety") => {
                skipping = true;
                // The empty comment line before it goes, too.
                kept.truncate(kept.trim_end().trim_end_matches("//").trim_end().len());
                kept.push('\n');
            }
            Some(_) if skipping => {}
            _ => {
                skipping = false;
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    kept
}

#[test]
fn it_is_up_to_date() {
    let now = generated();
    if std::env::var_os("HAYATE_WRITE_HEADER").is_some() {
        std::fs::write(header(), &now).expect("written");
    }
    let there = std::fs::read_to_string(header()).expect("a header");
    assert!(
        there == now,
        "include/hayate.h is out of date: HAYATE_WRITE_HEADER=1 cargo test -p hayate-c --test header"
    );
}

/// Compiles a file that includes one header alone.
fn takes(compiler: &str, language: &str, standard: &str, header: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("includes");
    std::fs::write(&source, format!("#include \"{header}\"\n")).expect("written");
    let done = Command::new(compiler)
        .args([
            "-x",
            language,
            standard,
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            // What Open MPI's own headers have for C++ warns.
            "-DOMPI_SKIP_MPICXX",
            "-c",
            "-o",
            "/dev/null",
            "-I",
        ])
        .arg(crate_dir().join("include"))
        .arg(&source)
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}: install gcc and g++"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn c11_takes_it() {
    takes("cc", "c", "-std=c11", "hayate.h");
}

#[test]
fn cpp17_takes_it() {
    takes("c++", "c++", "-std=c++17", "hayate.h");
}

/// That for MPI, too, with the headers of each MPI that is here.
#[test]
fn the_one_for_mpi_is_taken() {
    for mpi in Mpi::installed() {
        takes(mpi.compiler, "c", "-std=gnu11", "hayate_ckpt_mpi.h");
        takes(&mpi.cpp(), "c++", "-std=c++17", "hayate_ckpt_mpi.h");
    }
}
