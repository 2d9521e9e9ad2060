//! The C interface of Hayate: `libhayate.so` and `include/hayate.h`, which is generated from this crate.
//!
//! It only translates: numbers to clients and files, pointers to slices and paths, errors to negative errno values and words.
//!
//! | module | what |
//! |---|---|
//! | [`border`] | what every call passes: panics are caught, errors become numbers and words |
//! | [`arguments`] | pointers and integers of C, checked |
//! | [`handles`] | which number is which connection, file or listing |
//! | [`ckpt`], `ckpt_house`, `ckpt_options`, `ckpt_state` | checkpoints: the functions of `libio` |
//! | `connection`, `file`, `attributes`, `names`, `whole`, `listing`, `xattr`, `space` | the functions |
//!
//! # Invariants
//! - No panic passes into C (`border::tests::a_panic_is_an_error`).
//! - A number that was closed, or that belongs to a process's parent, leads to no object (`handles::tests`, and the C programs of `tests/c`).
//! - The header is what the functions are, and C and C++ compilers take it without a warning (`tests/header.rs`).

pub mod arguments;
mod attributes;
pub mod border;
pub mod ckpt;
mod ckpt_house;
mod ckpt_options;
mod ckpt_state;
mod connection;
mod file;
pub mod handles;
mod listing;
mod names;
mod space;
mod whole;
mod xattr;

pub use attributes::{Stat, creation_mode, type_bits};
pub use ckpt_house::{CkptAdvice, CkptInfo};
pub use ckpt_options::CkptOptions;
pub use connection::{Options, client_of};
pub use file::file_of;
pub use listing::{Entry, NAME_BYTES};
pub use space::Space;
