//! Flushing as a whole: servers in this process, requests as clients send them, and a look at the shared tier's directory.

mod client;
mod cluster;
mod fake;
mod trees;

mod adversity;
mod controls;
mod evicting;
mod faults;
mod groups;
mod kept_back;
mod lustre;
mod migrating;
mod names;
mod numbers;
mod outside;
mod overflowing;
mod policies;
mod reading;
mod renames;
mod replaced;
mod s3_adapter;
mod s3_cluster;
mod s3_memory;
mod s3_reading;
#[allow(dead_code)] // A part is for the tests of the command.
mod s3_server;
mod whole;
