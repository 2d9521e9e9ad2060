//! `libchfs.so`: the functions that CHFS's public header declares, over Hayate. A program that was built for CHFS runs with this library in
//! place of that one.
//!
//! Every function answers -1 and sets `errno` when it fails; `hayate_last_error()` has words for it.
//!
//! What differs from CHFS, so that programs get what POSIX promises: a second creation does not cut what is there (unless `O_TRUNC` asks
//! for it), `O_CREAT` with `O_EXCL` fails if the file exists, what is opened for reading only is not written to, directories that are not empty
//! stay, and files keep the permissions of their owners. Names, holes, sizes and depths are those of Hayate.
//!
//! | module | what |
//! |---|---|
//! | `errors` | how a call ends: -1 and errno |
//! | `session` | beginning and ending, settings |
//! | `paths` | relative paths, and the directory that they begin at |
//! | `files` | open files with their positions |
//! | `flags` | what flags of opening mean, IOR's among them |
//! | `names`, `attributes`, `listing` | the namespace |
//! | `staging` | to and from the file system behind |
//!
//! # Invariants
//! - The header `include/chfs.h` is what the functions are (`tests/program.rs`: a C program that calls all of them).

mod attributes;
mod errors;
mod files;
mod flags;
mod listing;
mod names;
mod paths;
mod session;
mod staging;
