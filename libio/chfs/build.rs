//! CHFS's library is made by libtool, so programs that were built for it ask the loader for `libchfs.so.0`. This one has that name inside, and a link of that name lies beside
//! it, where cargo puts it for programs and for tests.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const NAME: &str = "libchfs.so.0";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{NAME}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where"));
    // PROFILE/build/NAME-HASH/out: a cargo that lays its folders otherwise does not get the link.
    let build = out.ancestors().nth(2).filter(|dir| dir.ends_with("build"));
    let Some(profile) = build.and_then(Path::parent) else {
        println!("cargo::warning=lay a link {NAME} beside libchfs.so: ln -s libchfs.so {NAME}");
        return;
    };
    for link in [profile.join(NAME), profile.join("deps").join(NAME)] {
        if let Err(e) = symlink("libchfs.so", &link)
            && e.kind() != ErrorKind::AlreadyExists
        {
            println!("cargo::warning={}: {e}: programs built for CHFS need it", link.display());
        }
    }
}
