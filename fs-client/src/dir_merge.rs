//! Pages of the parts of a wide directory, merged by cookie. Pure.
//!
//! Each server answers a page of its own part. The merged page ends at the *horizon*: the smallest last cookie among servers that
//! have more; beyond it a server may hold entries that nobody has seen yet.
//!
//! # Invariants
//! - Going on from the last cookie of each merged page lists every entry exactly once (`every_entry_comes_once`).
//! - Entries of one cookie are never parted (`equal_cookies_stay_together`).

use fs_proto::msg::name::{DirEntry, DirPage};

/// How many entries to ask of each of `servers` for a page of `limit`: its share and some, as shares vary.
pub(crate) fn share(limit: usize, servers: usize) -> u32 {
    let even = limit.div_ceil(servers.max(1));
    (even + even / 4 + 8).min(limit.max(1)).min(u32::MAX as usize) as u32
}

/// The merged page of about `limit` entries. `None` if a page says that more comes but holds nothing: that server is wrong, and
/// going on would never end.
pub(crate) fn merge(pages: Vec<DirPage>, limit: usize) -> Option<DirPage> {
    if pages.iter().any(|page| !page.end && page.entries.is_empty()) {
        return None;
    }
    let horizon =
        pages.iter().filter(|page| !page.end).filter_map(|page| page.entries.last()).map(|e| e.cookie).min();
    let mut entries: Vec<DirEntry> = pages
        .into_iter()
        .flat_map(|page| page.entries)
        .filter(|entry| horizon.is_none_or(|horizon| entry.cookie <= horizon))
        .collect();
    // Parts are sorted runs, which this sort finds and merges.
    entries.sort_by_key(|entry| entry.cookie);
    let cut = cut(&entries, limit.max(1));
    let end = horizon.is_none() && cut == entries.len();
    entries.truncate(cut);
    Some(DirPage { entries, end, wide: true })
}

/// How many entries to keep: `limit`, and those that share the last one's cookie.
fn cut(entries: &[DirEntry], limit: usize) -> usize {
    match entries.get(limit - 1) {
        Some(last) => limit + entries[limit..].iter().take_while(|e| e.cookie == last.cookie).count(),
        None => entries.len(),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: no entry is lost or doubled. Method: a directory dealt to servers at random, listed page by page.
    use super::*;
    use fs_proto::{FileKind, InodeId};
    use proptest::prelude::*;

    fn entry(cookie: u64, id: u64) -> DirEntry {
        DirEntry { cookie, ino: InodeId(id), kind: FileKind::File, name: id.to_string().into(), attr: None }
    }

    /// What a server answers: sorted, after a cookie, about `limit`, cookies not parted.
    fn page(part: &[DirEntry], after: u64, limit: usize) -> DirPage {
        let rest: Vec<_> = part.iter().filter(|e| e.cookie > after).cloned().collect();
        let cut = cut(&rest, limit);
        DirPage { end: cut == rest.len(), entries: rest[..cut].to_vec(), wide: true }
    }

    fn list(parts: &[Vec<DirEntry>], limit: usize) -> Vec<u64> {
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let ask = share(limit, parts.len()) as usize;
            let merged = merge(parts.iter().map(|part| page(part, after, ask)).collect(), limit).unwrap();
            assert!(merged.entries.is_sorted_by_key(|e| e.cookie));
            assert!(merged.end || merged.entries[0].cookie > after, "no progress");
            seen.extend(merged.entries.iter().map(|e| e.ino.0));
            if merged.end {
                return seen;
            }
            after = merged.entries.last().unwrap().cookie;
        }
    }

    proptest! {
        #[test]
        fn every_entry_comes_once(
            dealt in proptest::collection::vec((3u64..500, 0usize..5), 0..400), limit in 1usize..60
        ) {
            let mut parts = vec![Vec::new(); 5];
            for (id, (cookie, _)) in dealt.iter().enumerate() {
                // Equal cookies are on one server, as the hash that gives the cookie gives the partition.
                parts[(*cookie % 5) as usize].push(entry(*cookie, id as u64));
            }
            for part in &mut parts {
                part.sort_by_key(|e| e.cookie);
            }
            let mut seen = list(&parts, limit);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..dealt.len() as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn equal_cookies_stay_together() {
        let part: Vec<_> = [3, 7, 7, 7, 9].iter().zip(1..).map(|(c, i)| entry(*c, i)).collect();
        let merged = merge(vec![DirPage { entries: part, end: true, wide: true }], 2).unwrap();
        assert_eq!((merged.entries.len(), merged.end), (4, false));
    }

    #[test]
    fn an_empty_page_that_is_not_the_end_is_refused() {
        assert!(merge(vec![DirPage { entries: vec![], end: false, wide: true }], 2).is_none());
    }
}
