//! Goal: the header says what the library is, and compilers of C and C++ take it without a word. Method: it is generated again and compared;
//! a file of one line that includes it is compiled with all warnings as errors.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Compiles `#include "hayate.h"` alone.
fn takes(compiler: &str, language: &str, standard: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("includes");
    std::fs::write(&source, "#include \"hayate.h\"\n").expect("written");
    let done = Command::new(compiler)
        .args([
            "-x",
            language,
            standard,
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
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
    takes("cc", "c", "-std=c11");
}

#[test]
fn cpp17_takes_it() {
    takes("c++", "c++", "-std=c++17");
}
