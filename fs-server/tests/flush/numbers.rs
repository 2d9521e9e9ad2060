//! A tier gives the number of a file that went to the next one, as file systems do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use fs_proto::ServerId;
use fs_server::tier::posix::Posix;
use fs_server::tier::{
    Attributes, Base, Dir, Facts, Found, Make, Place, TakeListed, Tier, TierError, TierFile, TierResult,
};

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;
use crate::fake::Fake;
use crate::policies::until;

/// The number of all files.
const NUMBER: u64 = 1 << 62;

/// A tier in which all files have one number, as if each had got that of the one before.
struct OneNumber<T>(T);

impl<T: Tier> OneNumber<T> {
    /// The number that the file at a place really has.
    fn real(&self, at: &Place, id: u64) -> TierResult<u64> {
        let found = if id == NUMBER { self.0.look(at)? } else { None };
        Ok(found.map_or(id, |found| found.id))
    }
}

impl<T: Tier> Tier for OneNumber<T> {
    fn facts(&self) -> Facts {
        self.0.facts()
    }
    fn base(&self, base: Base) -> TierResult<Dir> {
        self.0.base(base)
    }
    fn open_dir(&self, at: &Place) -> TierResult<Dir> {
        self.0.open_dir(at)
    }
    fn look(&self, at: &Place) -> TierResult<Option<Found>> {
        let found = self.0.look(at)?;
        Ok(found.map(|found| if found.is_dir { found } else { Found { id: NUMBER, ..found } }))
    }
    fn list(&self, dir: &Dir, take: TakeListed<'_>) -> TierResult<()> {
        self.0.list(dir, take)
    }
    fn read(&self, at: &Place, wanted: &Found, offset: u64, out: &mut [u8]) -> TierResult<()> {
        let id = self.real(at, wanted.id)?;
        self.0.read(at, &Found { id, ..*wanted }, offset, out)
    }
    fn make(&self, at: &Place, what: &Make) -> TierResult<u64> {
        let id = self.0.make(at, what)?;
        Ok(if matches!(what, Make::Directory) { id } else { NUMBER })
    }
    fn shows_staged(&self) -> bool {
        true
    }
    fn open_file(&self, at: &Place) -> TierResult<Box<dyn TierFile>> {
        self.0.open_file(at)
    }
    fn collect(&self, at: &Place, receipts: &[Bytes]) -> TierResult<()> {
        self.0.collect(at, receipts)
    }
    fn set(&self, at: &Place, id: u64, attributes: &Attributes) -> TierResult<()> {
        self.0.set(at, self.real(at, id)?, attributes)
    }
    fn rename(&self, from: &Place, to: &Place) -> TierResult<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, at: &Place, is_dir: bool) -> TierResult<()> {
        self.0.remove(at, is_dir)
    }
    fn rest(&self, me: ServerId) -> TierResult<bool> {
        self.0.rest(me)
    }
    fn reset(&self) {
        self.0.reset();
    }
}

#[test]
fn what_took_the_place_of_a_copy_is_not_linked_as_that_copy() {
    // Goal: a file that moved does not become a link of another one that has its old name, number and size by now, and another time. Method: the new name cannot be published
    // until the old one has another file, of a few bytes and of several chunks; the account has each version once.
    let held = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&held);
    let wrap = move |tier: Posix| -> Arc<dyn Tier> {
        let switch = Arc::clone(&switch);
        Arc::new(OneNumber(Fake::before(tier, move |what, name| {
            if what == "rename" && name == b"b" && switch.load(Ordering::Acquire) {
                return Err(TierError::Failed("the new name's server is slow".to_owned()));
            }
            Ok(())
        })))
    };
    let cluster = Cluster::start_with(1, 10_000, &wrap);
    let client = Client::connect(&cluster.file);
    for size in [5, 3 << 20] {
        let first = client.write_file(ROOT, "a", &vec![1; size]);
        client.set_times(first, 1_600_000_000_000_000_001, 1_600_000_000_000_000_002);
        cluster.check(&client);
        let before: u64 = cluster.accounts(&client).iter().map(|account| account.files).sum();
        held.store(true, Ordering::Release);
        client.rename(ROOT, "a", ROOT, "b");
        client.write_file(ROOT, "a", &vec![2; size]);
        // Not by reading it, which changes a time.
        let is_new = |found: std::fs::Metadata| {
            found.modified().is_ok_and(|at| at > UNIX_EPOCH + Duration::from_secs(1_650_000_000))
        };
        until("the new file", || std::fs::metadata(cluster.at("a")).is_ok_and(is_new));
        held.store(false, Ordering::Release);
        let accounts = cluster.check(&client);
        assert_eq!(std::fs::read(cluster.at("b")).unwrap(), vec![1; size]);
        assert_eq!(accounts.iter().map(|account| account.files).sum::<u64>(), before + 1);
        client.unlink(ROOT, "a");
        client.unlink(ROOT, "b");
        cluster.check(&client);
    }
}
