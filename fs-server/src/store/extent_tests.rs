//! Extents against arrays of bytes: every byte of the model knows which sequence wrote it.

use super::*;
use proptest::prelude::*;

const CHUNK: u32 = 64;

fn record(unit: u32, start: u32, end: u32) -> Extent {
    let shape = Shape { unit, offset: start, data_bytes: end - start };
    Extent::whole(u64::from(unit), Place { segment: unit / 4, shape })
}

/// For each byte the sequence that it is read from, and the live bytes by segment.
fn flatten(extents: &[Extent]) -> (Vec<u64>, Vec<i64>) {
    let (mut bytes, mut live) = (vec![0; CHUNK as usize], vec![0; 8]);
    let mut end = 0;
    for extent in extents {
        assert!(extent.start >= end && extent.start < extent.end, "{extents:?}");
        end = extent.end;
        bytes[extent.start as usize..end as usize].fill(extent.sequence);
        live[extent.place.segment as usize] += extent.bytes() as i64;
    }
    (bytes, live)
}

fn records() -> impl Strategy<Value = Vec<Extent>> {
    let range = (0..CHUNK).prop_flat_map(|start| (Just(start), start + 1..=CHUNK));
    proptest::collection::vec(range, 1..20)
        .prop_map(|v| v.iter().enumerate().map(|(i, (s, e))| record(i as u32 + 1, *s, *e)).collect())
}

proptest! {
    #[test]
    fn any_order_gives_the_same_extents(records in records(), seed in any::<u64>()) {
        // Goal: inserting in the order of sequences is overwriting; any other order gives the same bytes and the
        // ledger always equals what the extents say.
        let mut model = vec![0; CHUNK as usize];
        for r in &records {
            model[r.start as usize..r.end as usize].fill(r.sequence);
        }
        let mut shuffled = records.clone();
        let len = shuffled.len() as u64;
        for i in 0..shuffled.len() {
            shuffled.swap(i, (seed.rotate_left(i as u32 * 7) % len) as usize);
        }
        for order in [records, shuffled] {
            let (mut extents, mut live) = (Vec::new(), vec![0; 8]);
            for r in order {
                insert(&mut extents, r, &mut |segment, bytes| live[segment as usize] += bytes);
            }
            prop_assert_eq!(flatten(&extents), (model.clone(), live));
        }
    }

    #[test]
    fn cuts_drop_what_is_older(records in records(), keep in 0..CHUNK, sequence in 0_u64..20) {
        // Goal: a cut removes exactly the bytes behind `keep` that are older than it.
        let (mut extents, mut live) = (Vec::new(), vec![0; 8]);
        for r in records {
            insert(&mut extents, r, &mut |segment, bytes| live[segment as usize] += bytes);
        }
        let (mut model, _) = flatten(&extents);
        model[keep as usize..].iter_mut().filter(|s| **s <= sequence).for_each(|s| *s = 0);
        cut(&mut extents, keep, u32::MAX, sequence, &mut |segment, bytes| live[segment as usize] += bytes);
        prop_assert_eq!(flatten(&extents), (model, live));
    }

    #[test]
    fn relocation_moves_only_what_is_unchanged(records in records(), later in records()) {
        // Goal: a copy of the extents replaces those bytes that nobody overwrote meanwhile, and no others.
        let (mut extents, mut live) = (Vec::new(), vec![0; 8]);
        for r in &records {
            insert(&mut extents, *r, &mut |segment, bytes| live[segment as usize] += bytes);
        }
        let sources = extents.clone();
        let (start, end) = (sources[0].start, sources[0].end);
        let mut copy = record(25, start, end);
        copy.sequence = 1000;
        let unchanged = is_unchanged(&extents, start, end, &sources);
        prop_assert!(unchanged);
        for r in later.iter().take(3) {
            let newer = Extent { sequence: r.sequence + 100, place: Place { segment: 7, ..r.place }, ..*r };
            insert(&mut extents, newer, &mut |segment, bytes| live[segment as usize] += bytes);
        }
        let (mut model, _) = flatten(&extents);
        model[start as usize..end as usize].iter_mut().filter(|s| **s < 100).for_each(|s| *s = 1000);
        relocate(&mut extents, &sources[..1], copy, &mut |segment, bytes| live[segment as usize] += bytes);
        prop_assert_eq!(flatten(&extents), (model, live));
    }
}
