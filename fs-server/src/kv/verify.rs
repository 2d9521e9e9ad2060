//! Reading everything that a store has, for scrubbing. Goes on behind what cannot be read.

use super::{Kv, KvError};
use std::ops::ControlFlow;

/// What reading everything came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KvReport {
    /// Pairs that were read and are whole.
    pub keys: u64,
    /// Keys whose values are damaged, in ascending order, up to [`KvReport::LISTED`].
    pub damaged: Vec<Vec<u8>>,
    /// Ranges `from <= key < to` that the engine could not read; what was in them is not known. Up to [`KvReport::LISTED`].
    pub unreadable: Vec<(Vec<u8>, Vec<u8>)>,
}

impl KvReport {
    /// Findings of a kind that are listed; the store is far beyond use when there are more.
    pub const LISTED: usize = 1_000;

    /// Whether everything was read and is whole.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.unreadable.is_empty()
    }
}

/// Keys are told apart by this many leading bytes when a range is halved around what cannot be read.
const WIDTH: usize = 16;
/// No key begins with this: kinds are letters.
const END: &[u8] = &[0xff];

/// Shows every pair to `is_whole`. Where a scan fails, it goes on behind the damage, which is found by halving: a damaged
/// block hides only its own keys.
pub(super) fn walk(
    kv: &(impl Kv + ?Sized),
    is_whole: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<KvReport, KvError> {
    let mut report = KvReport::default();
    let mut from = Vec::new();
    loop {
        let outcome = kv.scan(&from.clone(), END, &mut |key, value| {
            from.clear();
            from.extend_from_slice(key);
            from.push(0);
            if is_whole(key, value) {
                report.keys += 1;
            } else {
                note(&mut report.damaged, key.to_vec());
            }
            ControlFlow::Continue(())
        });
        match outcome {
            Ok(()) => return Ok(report),
            Err(KvError::Corrupt(_)) => {
                let behind = readable_from(kv, &from)?;
                note(&mut report.unreadable, (std::mem::replace(&mut from, behind.clone()), behind));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The first key behind `from`, as far as leading bytes tell, from which the store can be read again.
fn readable_from(kv: &(impl Kv + ?Sized), from: &[u8]) -> Result<Vec<u8>, KvError> {
    let (mut unreadable, mut readable) = (from.to_vec(), END.to_vec());
    while let Some(middle) = middle(&unreadable, &readable) {
        match kv.scan(&middle, END, &mut |_, _| ControlFlow::Break(())) {
            Ok(()) => readable = middle,
            Err(KvError::Corrupt(_)) => unreadable = middle,
            Err(error) => return Err(error),
        }
    }
    Ok(readable)
}

fn note<T>(list: &mut Vec<T>, finding: T) {
    if list.len() < KvReport::LISTED {
        list.push(finding);
    }
}

fn leading(key: &[u8]) -> u128 {
    let mut bytes = [0; WIDTH];
    let length = key.len().min(WIDTH);
    bytes[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(bytes)
}

/// A key strictly between the two, unless they agree in their leading bytes.
fn middle(from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let (low, high) = (leading(from), leading(to));
    let middle = (low + (high.checked_sub(low)?) / 2).to_be_bytes().to_vec();
    (middle.as_slice() > from && middle.as_slice() < to).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Batch, ScanVisitor};
    use bytes::Bytes;
    use std::collections::BTreeMap;

    /// A store that cannot read the keys of one block.
    struct Holed {
        map: BTreeMap<Vec<u8>, Vec<u8>>,
        hole: (Vec<u8>, Vec<u8>),
    }

    impl Kv for Holed {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, KvError> {
            unreachable!("only scans are used")
        }
        fn commit(&self, _: Batch) -> Result<(), KvError> {
            unreachable!("only scans are used")
        }
        fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
            if from >= to {
                return Ok(());
            }
            for (key, value) in self.map.range(from.to_vec()..to.to_vec()) {
                if *key >= self.hole.0 && *key < self.hole.1 {
                    return Err(KvError::Corrupt("a block".to_owned()));
                }
                if visit(key, value).is_break() {
                    break;
                }
            }
            Ok(())
        }
        fn sync(&self) -> Result<(), KvError> {
            Ok(())
        }
        fn disk_bytes(&self) -> u64 {
            0
        }
        fn memory_bytes(&self) -> u64 {
            0
        }
    }

    #[test]
    fn an_unreadable_block_hides_only_itself() {
        // Goal: 1,000 keys, 20 of them in a block that cannot be read, one with a bad value: all others are counted, the
        // bad one is named, and the ranges that could not be read cover the 20 and none of the others.
        let key = |n: u64| [&b"i"[..], &n.to_be_bytes()].concat();
        let map = (0..1_000).map(|n| (key(n * 1_000), vec![u8::from(n == 700)])).collect();
        let holed = Holed { map, hole: (key(300_000), key(320_000)) };
        let report = walk(&holed, &mut |_, value| value == [0]).unwrap();
        assert_eq!((report.keys, report.damaged.as_slice()), (979, [key(700_000)].as_slice()));
        let is_covered = |n: u64| report.unreadable.iter().any(|(from, to)| key(n) >= *from && key(n) < *to);
        assert!(
            (0..1_000).all(|n| is_covered(n * 1_000) == (300..320).contains(&n)),
            "{:?}",
            report.unreadable
        );
    }
}
