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
//! writer.commit()?;
//!
//! if let Some(version) = checkpoints.latest("heat")? {
//!     let mut field = [0; 3];
//!     checkpoints.read("heat", version, rank, "field", 0, &mut field)?;
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
//! | `checkpoints`, `writer`, `snapshot`, `prune` | the interface |
//!
//! # Invariants
//! - A version is in `versions/` only when every rank's data and checksums are durable (`a_rank_that_dies_leaves_the_older_version`).
//! - Of all attempts at a version at most one is ever sealed, and it has ranks of one group only (`two_groups_on_one_version`).
//! - No call waits for another rank, except [`Checkpoints::wait`], which has a time limit.
//!
//! Deliberately absent: the C interface and the Python package, redundancy, incremental and compressed versions, regions that several
//! ranks share, and the verdict that all ranks get alike: those come with the full library. Threads inside one rank: a [`Writer`]
//! has one owner.

mod attempt;
mod checkpoints;
pub mod error;
pub mod format;
mod prune;
mod register;
mod snapshot;
mod sums;
mod writer;

pub use checkpoints::Checkpoints;
pub use error::{Error, Result};
pub use snapshot::{RegionInfo, Snapshot};
pub use writer::Writer;
