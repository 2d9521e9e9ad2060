//! A tier that could not be opened when the server was started again: it is opened as soon as it can be. What the server has is served meanwhile.
//!
//! # Invariants
//! - Whatever is asked of it before fails as of a tier in trouble, and is tried again by who asked (`crates/cli`, `a_server_starts_while_the_tier_is_away`).
//! - It is opened once, and what a former run left there is removed by that (`as_soon_as_it_can_be_opened_it_is_and_once`).

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::ServerId;
use parking_lot::Mutex;

use super::{
    Attributes, Base, Destination, Dir, Facts, Fill, Found, Make, Place, Publication, Staged, Stripes,
    TakeListed, Tier, TierError, TierFile, TierResult,
};
use crate::error::ServerError;

/// Between two attempts to open it.
const PAUSE: Duration = Duration::from_secs(1);

type Open = Box<dyn Fn() -> Result<Arc<dyn Tier>, ServerError> + Send + Sync>;

struct Attempt {
    at: Instant,
    why: String,
}

/// The adapter: before another one, which is not there yet.
pub struct Late {
    open: Open,
    facts: Facts,
    opened: OnceLock<Arc<dyn Tier>>,
    last: Mutex<Attempt>,
}

impl Late {
    /// `why`: what the first attempt said. `facts`: those of the tier that `open` opens, as far as they are known.
    pub fn new(why: String, facts: Facts, open: Open) -> Late {
        let last = Mutex::new(Attempt { at: Instant::now(), why });
        Late { open, facts, opened: OnceLock::new(), last }
    }

    fn tier(&self) -> TierResult<&dyn Tier> {
        if let Some(tier) = self.opened.get() {
            return Ok(tier.as_ref());
        }
        // One at a time: others wait for its outcome.
        let mut last = self.last.lock();
        if let Some(tier) = self.opened.get() {
            return Ok(tier.as_ref());
        }
        if last.at.elapsed() >= PAUSE {
            match (self.open)() {
                Ok(tier) => {
                    tracing::info!("the shared tier can be used from now on");
                    return Ok(self.opened.get_or_init(|| tier).as_ref());
                }
                Err(error) => *last = Attempt { at: Instant::now(), why: error.to_string() },
            }
        }
        Err(TierError::Failed(last.why.clone()))
    }
}

impl Tier for Late {
    fn facts(&self) -> Facts {
        self.opened.get().map_or(self.facts, |tier| tier.facts())
    }

    fn base(&self, base: Base) -> TierResult<Dir> {
        self.tier()?.base(base)
    }

    fn open_dir(&self, at: &Place) -> TierResult<Dir> {
        self.tier()?.open_dir(at)
    }

    fn look(&self, at: &Place) -> TierResult<Option<Found>> {
        self.tier()?.look(at)
    }

    fn list(&self, dir: &Dir, take: TakeListed<'_>) -> TierResult<()> {
        self.tier()?.list(dir, take)
    }

    fn read(&self, at: &Place, wanted: &Found, offset: u64, out: &mut [u8]) -> TierResult<()> {
        self.tier()?.read(at, wanted, offset, out)
    }

    fn make(&self, at: &Place, what: &Make) -> TierResult<u64> {
        self.tier()?.make(at, what)
    }

    fn stage(&self, at: &Place, size: u64, to: &Destination, fill: Fill<'_>) -> TierResult<Staged> {
        self.tier()?.stage(at, size, to, fill)
    }

    fn publish(&self, new: Publication<'_>) -> TierResult<Option<Staged>> {
        self.tier()?.publish(new)
    }

    fn shows_staged(&self) -> bool {
        self.opened.get().is_some_and(|tier| tier.shows_staged())
    }

    fn stripes(&self, at: &Place) -> TierResult<Option<Stripes>> {
        self.tier()?.stripes(at)
    }

    fn open_file(&self, at: &Place) -> TierResult<Box<dyn TierFile>> {
        self.tier()?.open_file(at)
    }

    fn collect(&self, at: &Place, receipts: &[Bytes]) -> TierResult<()> {
        self.tier()?.collect(at, receipts)
    }

    fn set(&self, at: &Place, id: u64, attributes: &Attributes) -> TierResult<()> {
        self.tier()?.set(at, id, attributes)
    }

    fn rename(&self, from: &Place, to: &Place) -> TierResult<()> {
        self.tier()?.rename(from, to)
    }

    fn move_directory(&self, id: u64, from: &Place, to: &Place) -> TierResult<bool> {
        self.tier()?.move_directory(id, from, to)
    }

    fn undo_move(&self, to: &Place) -> TierResult<()> {
        self.tier()?.undo_move(to)
    }

    fn remove(&self, at: &Place, is_dir: bool) -> TierResult<()> {
        self.tier()?.remove(at, is_dir)
    }

    fn rest(&self, me: ServerId) -> TierResult<bool> {
        self.tier()?.rest(me)
    }

    fn reset(&self) {
        if let Some(tier) = self.opened.get() {
            tier.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::ServerConfig;
    use crate::tier::posix::{Posix, UNOPENED};
    use fs_net::Secret;

    #[test]
    fn as_soon_as_it_can_be_opened_it_is_and_once() {
        // Goal: while the directory is away calls say why; once it is there the next call after the pause opens it, and no other does.
        let dir = tempfile::tempdir().unwrap();
        let (path, opened) = (dir.path().join("tier"), Arc::new(AtomicU32::new(0)));
        let open = {
            let config = ServerConfig::new(
                ServerId(0),
                "j".to_owned(),
                Secret::from_raw([1; 32]),
                dir.path().join("store"),
            );
            let (path, opened) = (path.clone(), Arc::clone(&opened));
            move || {
                let tier = Posix::open(&path, &config)?;
                opened.fetch_add(1, Ordering::SeqCst);
                Ok(Arc::new(tier) as Arc<dyn Tier>)
            }
        };
        let late = Late::new("not mounted".to_owned(), UNOPENED, Box::new(open));
        assert_eq!(late.rest(ServerId(0)).err(), Some(TierError::Failed("not mounted".to_owned())));
        assert!(late.facts().is_remote && late.facts().left_over);
        std::fs::create_dir(&path).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while late.base(Base::Root).is_err() {
            assert!(Instant::now() < until && Path::new(&path).exists());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(late.rest(ServerId(0)).unwrap() && !late.facts().left_over);
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }
}
