//! The chunk store through its port: against a model, through crashes, damage, compaction and a full device.

mod compaction;
mod crash;
mod devices;
mod direct;
mod flips;
mod golden;
mod group;
mod kill;
mod mem_kv;
mod model;
mod numbers;
mod port;
mod power;
mod sim_disk;
mod slow;
#[path = "../common/small_file_system.rs"]
mod small_file_system;
mod space;
mod support;
