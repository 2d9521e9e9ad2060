//! Ranks that mpirun or srun started: who this process is, and how ranks find rank 0.
//!
//! No MPI is linked: launchers say in the environment which rank a process is. Rank 0 listens on a TCP port of its own choice and
//! writes where into a file of the current directory ([`RENDEZVOUS_ENV`] names another), readable by its user only:
//!
//! ```text
//! BOOT-ID HOST PORT TOKEN
//! ```
//!
//! The others read it, call, and prove with the token that they could read it. A file that an earlier run left behind names a port
//! where nobody, or somebody else, answers: the caller reads the file again until its time is over.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{BenchError, Result};

/// Names the file by which ranks find rank 0.
pub const RENDEZVOUS_ENV: &str = "HAYATE_BENCH_RENDEZVOUS";
/// How long ranks look for each other.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a caller may take to say who it is.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
const TOKEN_BYTES: usize = 32;
/// Token and rank.
const GREETING_BYTES: usize = TOKEN_BYTES + 8;

/// Which rank of a parallel program this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    /// From 0.
    pub rank: u32,
    /// How many.
    pub size: u32,
    /// Where rank 0 says how it is reached.
    pub rendezvous: PathBuf,
}

/// Launchers: variables of rank, size and of what tells one run from another.
const LAUNCHERS: [(&str, &str, &[&str]); 3] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", &["OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE"]),
    ("PMI_RANK", "PMI_SIZE", &["PMI_JOBID"]),
    // Not SLURM_NTASKS: a batch script has that too, though it is no rank of a step.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", &["SLURM_JOB_ID", "SLURM_STEP_ID"]),
];

impl Rank {
    /// Of this process; none if it was started alone.
    pub fn of_this_process() -> Option<Rank> {
        Rank::from(|name| std::env::var(name).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Option<Rank> {
        LAUNCHERS.iter().find_map(|(rank, size, names)| {
            let (rank, size) = (get(rank)?.parse().ok()?, get(size)?.parse().ok()?);
            let job: Vec<String> = names.iter().filter_map(|name| get(name)).collect();
            let clean: String =
                job.join("-").chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            let rendezvous = get(RENDEZVOUS_ENV)
                .map_or_else(|| PathBuf::from(format!(".hayate-bench-{clean}.rendezvous")), PathBuf::from);
            (size > 1 && rank < size).then_some(Rank { rank, size, rendezvous })
        })
    }

    /// For rank 0: waits for the others. Their sockets, by rank from 1.
    pub(super) fn gather(&self) -> Result<Vec<UnixStream>> {
        let failed = |what: &str, error: std::io::Error| {
            BenchError::Options(format!("cannot {what} for the other ranks: {error}"))
        };
        let listener = TcpListener::bind("0.0.0.0:0").map_err(|e| failed("listen", e))?;
        let port = listener.local_addr().map_err(|e| failed("listen", e))?.port();
        let token = token().map_err(|e| failed("make a token", e))?;
        let invitation = Invitation::write(&self.rendezvous, port, &token)
            .map_err(|e| failed(&format!("write {}", self.rendezvous.display()), e))?;
        listener.set_nonblocking(true).map_err(|e| failed("listen", e))?;
        let sockets = self.accept_all(&listener, &token);
        drop(invitation);
        sockets
    }

    fn accept_all(&self, listener: &TcpListener, token: &str) -> Result<Vec<UnixStream>> {
        let deadline = Instant::now() + LIMIT;
        let mut found: Vec<Option<UnixStream>> = (1..self.size).map(|_| None).collect();
        while let Some(missing) = found.iter().position(Option::is_none) {
            if Instant::now() > deadline {
                let why = format!("it did not call within {} s", LIMIT.as_secs());
                return Err(BenchError::Start { rank: missing as u32 + 1, why });
            }
            match listener.accept() {
                // Strangers, and who says nothing, are sent away.
                Ok((stream, _)) => {
                    if let Some((rank, stream)) = greeted(stream, token)
                        && let Some(slot) = found.get_mut((rank as usize).wrapping_sub(1))
                    {
                        *slot = Some(stream);
                    }
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// For the others: calls rank 0.
    pub(super) fn call(&self) -> Result<UnixStream> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let why = match self.try_call() {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                let file = self.rendezvous.display();
                return Err(BenchError::Coordinator(format!("rank 0 is not to be found by {file}: {why}")));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn try_call(&self) -> std::io::Result<UnixStream> {
        let text = fs::read_to_string(&self.rendezvous)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[boot, host, port, token] = &*words else { return Err(std::io::ErrorKind::InvalidData.into()) };
        let host = if boot == clock::boot() { "127.0.0.1" } else { host };
        let mut stream = TcpStream::connect(format!("{host}:{port}"))?;
        stream.write_all(format!("{token}{:8}", self.rank).as_bytes())?;
        stream.set_read_timeout(Some(GREETING_LIMIT))?;
        // Somebody else at that port would not answer so.
        let mut answer = [0; 1];
        stream.read_exact(&mut answer)?;
        if answer != *b"!" {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        into_socket(stream)
    }
}

/// A socket is a socket: reading, writing and shutting down are the same calls for TCP.
fn into_socket(stream: TcpStream) -> std::io::Result<UnixStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(None)?;
    Ok(UnixStream::from(OwnedFd::from(stream)))
}

fn greeted(mut stream: TcpStream, token: &str) -> Option<(u32, UnixStream)> {
    let mut greeting = [0; GREETING_BYTES];
    stream.set_read_timeout(Some(GREETING_LIMIT)).ok()?;
    stream.read_exact(&mut greeting).ok()?;
    let (said, rank) = greeting.split_at(TOKEN_BYTES);
    if said != token.as_bytes() {
        return None;
    }
    let rank = std::str::from_utf8(rank).ok()?.trim().parse().ok()?;
    stream.write_all(b"!").ok()?;
    Some((rank, into_socket(stream).ok()?))
}

fn token() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// The file while it is there.
struct Invitation<'a> {
    path: &'a Path,
}

impl<'a> Invitation<'a> {
    fn write(path: &'a Path, port: u16, token: &str) -> std::io::Result<Self> {
        let draft = path.with_extension(format!("draft-{}", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(file, "{} {} {port} {token}", clock::boot(), clock::host())?;
        fs::rename(&draft, path)?;
        Ok(Invitation { path })
    }
}

impl Drop for Invitation<'_> {
    fn drop(&mut self) {
        // Whoever reads it later finds nobody at that port, which is handled.
        drop(fs::remove_file(self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(variables: &[(&str, &str)]) -> Option<Rank> {
        Rank::from(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    /// Goal: the ranks of each launcher are known; a single process and a batch script are no ranks.
    #[test]
    fn launchers_are_known_by_their_variables() {
        let ompi =
            rank(&[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4"), ("PMIX_NAMESPACE", "a@1")]);
        let ompi = ompi.expect("a rank");
        assert_eq!((ompi.rank, ompi.size), (3, 4));
        assert_eq!(ompi.rendezvous, Path::new(".hayate-bench-a-1.rendezvous"));
        assert_eq!(rank(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).map(|r| r.rank), Some(0));
        let slurm =
            [("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2"), ("HAYATE_BENCH_RENDEZVOUS", "/x/y")];
        assert_eq!(rank(&slurm).map(|r| r.rendezvous), Some(PathBuf::from("/x/y")));
        assert_eq!(rank(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), None);
        assert_eq!(rank(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]), None);
        assert_eq!(rank(&[]), None);
    }

    /// Goal: ranks meet, though a file of an earlier run lies there. Method: three ranks as threads.
    #[test]
    fn ranks_meet_in_spite_of_a_stale_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("meet");
        let nobody =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        fs::write(&file, format!("{} localhost {nobody} {}", clock::boot(), "0".repeat(32)))
            .expect("a stale file");
        let of = |rank| Rank { rank, size: 3, rendezvous: file.clone() };
        let callers: Vec<_> = [2, 1]
            .map(|n| {
                std::thread::spawn({
                    let rank = of(n);
                    move || rank.call()
                })
            })
            .into();
        let gathering = std::thread::spawn({
            let rank = of(0);
            move || rank.gather()
        });
        let mut sockets = gathering.join().expect("no panic").expect("all ranks");
        for (rank, caller) in callers.into_iter().enumerate() {
            let mut theirs = caller.join().expect("no panic").expect("a socket");
            theirs.write_all(&[rank as u8]).expect("a byte");
            let mut byte = [9];
            sockets[1 - rank].read_exact(&mut byte).expect("a byte");
            assert_eq!(byte[0], rank as u8, "sockets are in order of rank");
        }
        assert!(!file.exists(), "the file is gone");
    }
}
