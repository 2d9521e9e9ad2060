//! Flushing as a whole: servers in this process, requests as clients send them, and a look at the shared tier's directory.

mod client;
mod cluster;
mod fake;
mod trees;

mod faults;
mod renames;
mod whole;
