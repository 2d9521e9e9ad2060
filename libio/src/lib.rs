//! The checkpoint library of Hayate: a *set* has *versions*, a version is written by `nranks` ranks, and it is offered for
//! restart wholly or not at all.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = fs_client::ClientConfig::load("cluster.toml".as_ref())?;
//! let checkpoints = libio::Checkpoints::open(fs_client::Client::connect(config)?, "/checkpoints")?;
//! let (rank, nranks, step) = (0, 1, 42);
//! let mut writer = checkpoints.begin("heat", step, rank, nranks)?;
//! writer.write("field", &[1, 2, 3], 0)?; // The buffer may be changed at once.
//! writer.commit(true)?; // Waits for the other ranks; all get the same answer.
//!
//! if let Some(version) = checkpoints.latest("heat")? {
//!     let mut field = [0; 3];
//!     checkpoints.read("heat", version, "field", 0, &mut field)?;
//! }
//! # Ok(()) }
//! ```
//!
//! Ranks need no MPI: they find one another through the file system, by the name of their *group* (the run of the program that they
//! belong to; see [`Checkpoints::open`]).
//!
//! | module | what |
//! |---|---|
//! | [`error`] | what can go wrong |
//! | [`format`](mod@format) | what lies on disk, and the states of a version |
//! | `sums` | checksums of blocks while they are written in any order (pure) |
//! | `register` | files that are written once, by whoever comes first |
//! | `attempt` | how ranks meet, who is the last, who decides |
//! | `completion` | what all ranks sealed, finished by whoever comes |
//! | [`advice`] | when to write a checkpoint, and when to stop (pure) |
//! | `extents` | sets of bytes (pure) |
//! | `region`, `stored` | what a rank writes of a region, and that read again |
//! | `copies`, `look`, `spread`, `stripes` | what must be found and read when a server is lost (decision 0024) |
//! | `pack`, `packed` | incremental and compressed regions |
//! | `tier` | the shared tier, read directly |
//! | `audit` | every place of a version, looked at for itself |
//! | `checkpoints`, `options`, `writer`, `state`, `snapshot`, `protected`, `prune` | the interface |
//!
//! # Invariants
//! - A version is in `versions/` only when every rank's data and checksums are durable, as far as the cluster makes anything durable (`--durability`), and at the
//!   stores that they were written to (`a_rank_that_dies_leaves_the_older_version`, `a_store_lost_before_the_last_rank_seals_ends_the_version`).
//! - Of all attempts at a version at most one is published at a time, another one only after it was removed; it has ranks of one group only
//!   (`two_groups_on_one_version`).
//! - No call waits for another rank, except [`Writer::commit`], [`Pending::wait`] and [`Checkpoints::wait`], which have a time limit.
//!
//! Deliberately absent: threads inside one rank, but for reading the seals of many (`several`): a
//! [`Writer`] has one owner. Reading from a bucket: a shared tier is looked into only if it is a directory.

pub mod advice;
mod attempt;
mod audit;
mod checkpoints;
mod completion;
mod copies;
pub mod error;
mod extents;
pub mod format;
mod look;
mod options;
mod pack;
mod packed;
mod protected;
mod prune;
mod region;
mod register;
mod several;
mod snapshot;
mod spread;
mod state;
mod stored;
mod stripes;
mod sums;
mod tier;
mod writer;

pub use advice::{Advice, Advisor};
pub use audit::Damage;
pub use checkpoints::{Checkpoints, VersionInfo};
pub use error::{Error, Result};
pub use options::{Options, Redundancy};
pub use protected::Protected;
#[doc(hidden)]
pub use register::Hook;
pub use snapshot::{RegionInfo, Snapshot};
pub use state::{Level, State};
pub use writer::{Pending, Writer};
