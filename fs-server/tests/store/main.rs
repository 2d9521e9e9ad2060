//! The chunk store through its port: against a model, through crashes, damage, compaction and a full device.

mod compaction;
mod crash;
#[path = "../common/damage.rs"]
mod damage;
mod devices;
mod direct;
mod failed_sync;
#[path = "../common/failing_device.rs"]
mod failing_device;
mod flips;
mod golden;
mod group;
mod index_flips;
mod kill;
mod mem_kv;
mod model;
mod numbers;
mod port;
mod power;
mod sim_disk;
#[path = "../../../tests/src/skip.rs"]
mod skip;
mod slow;
#[path = "../common/small_file_system.rs"]
mod small_file_system;
mod space;
mod support;
mod unreadable;
