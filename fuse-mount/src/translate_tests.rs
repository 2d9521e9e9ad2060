//! Unit tests of the translations: each compares with what stat(2), open(2) and the others promise.

use super::*;
use fs_client::{InodeId, Layout};
use fs_proto::Placement;

fn attr(kind: FileKind, mode: u32, size: u64) -> Attr {
    Attr {
        ino: InodeId(0x0102_0000_0000_0003),
        kind,
        mode,
        uid: 1000,
        gid: 100,
        nlink: 2,
        rdev: 0x0801,
        size,
        atime: 1,
        mtime: -1,
        ctime: 1_500_000_000_123_456_789,
        btime: 0,
        layout: Layout { placement: Placement::Striped, chunk_log2: 20, given: false },
        wide: false,
        inline: false,
        acl: false,
        capable: false,
        version: 7,
        parent: InodeId::ROOT,
    }
}

#[test]
fn groups_of_a_process_are_read() {
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(own.contains("Groups:"));
    assert_eq!(supplementary_groups("Name:\tx\nGroups:\t4 24 1000 \nUid:\t1\n"), [4, 24, 1000]);
    assert_eq!(supplementary_groups("Groups:\t \n"), [0u32; 0]);
}

#[test]
fn attributes_are_shown_as_stat_shows_them() {
    let shown = file_attr(&attr(FileKind::File, 0o104_755, 1025));
    assert_eq!(
        (shown.ino.0, shown.size, shown.blocks, shown.blksize),
        (0x0102_0000_0000_0003, 1025, 3, 1 << 20)
    );
    assert_eq!((shown.perm, shown.uid, shown.gid, shown.nlink, shown.rdev), (0o4755, 1000, 100, 2, 0x0801));
    assert_eq!(shown.atime, UNIX_EPOCH + Duration::from_nanos(1));
    assert_eq!(shown.mtime, UNIX_EPOCH - Duration::from_nanos(1));
    assert_eq!(shown.kind, FileType::RegularFile);
}

#[test]
fn an_empty_file_has_no_blocks_and_a_byte_has_one() {
    assert_eq!(file_attr(&attr(FileKind::File, 0, 0)).blocks, 0);
    assert_eq!(file_attr(&attr(FileKind::File, 0, 1)).blocks, 1);
    assert_eq!(file_attr(&attr(FileKind::File, 0, 512)).blocks, 1);
}

#[test]
fn every_kind_has_its_own_type() {
    let types: std::collections::HashSet<_> = FileKind::ALL.iter().map(|kind| file_type(*kind)).collect();
    assert_eq!(types.len(), FileKind::ALL.len());
}

#[test]
fn mknod_makes_what_the_type_bits_say() {
    assert_eq!(node_kind(0o644), Ok(FileKind::File));
    assert_eq!(node_kind(libc::S_IFREG | 0o644), Ok(FileKind::File));
    assert_eq!(node_kind(libc::S_IFIFO), Ok(FileKind::Fifo));
    assert_eq!(node_kind(libc::S_IFCHR), Ok(FileKind::CharDevice));
    assert_eq!(node_kind(libc::S_IFDIR), Err(Errno::EINVAL));
}

/// What fuser 0.18 makes of the kernel's seconds and nanoseconds (its `system_time_from_time`).
fn as_fuser_gives_it(s: i64, ns: u32) -> SystemTime {
    if s >= 0 {
        UNIX_EPOCH + Duration::new(s as u64, ns)
    } else {
        UNIX_EPOCH - Duration::new(s.unsigned_abs(), ns)
    }
}

#[test]
fn times_survive_both_ways_before_and_after_1970() {
    for (s, ns) in
        [(0, 0), (0, 1), (1_700_000_000, 999_999_999), (-1, 0), (-1, 999_999_999), (-2, 300_000_000)]
    {
        let meant = i64::from(ns) + s * 1_000_000_000;
        assert_eq!(time_from_fuser(as_fuser_gives_it(s, ns)), meant, "{s} s {ns} ns");
        let shown = system_time(meant);
        let back = match shown.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i64,
            Err(before) => -(before.duration().as_nanos() as i64),
        };
        assert_eq!(back, meant);
    }
}

#[test]
fn times_out_of_range_are_cut() {
    assert_eq!(time_from_fuser(as_fuser_gives_it(i64::MAX / 2, 0)), TimeNs::MAX);
    assert_eq!(time_from_fuser(as_fuser_gives_it(i64::MIN / 2, 0)), TimeNs::MIN);
    // The extremes can be shown, too.
    assert!(system_time(TimeNs::MIN) < system_time(TimeNs::MAX));
}

#[test]
fn what_the_kernel_holds_back_is_served_by_reading_handles_that_do_not_append() {
    assert_eq!(held_back(libc::O_RDONLY | libc::O_CLOEXEC), libc::O_RDONLY | libc::O_CLOEXEC);
    assert_eq!(held_back(libc::O_WRONLY | libc::O_APPEND | libc::O_TRUNC), libc::O_RDWR | libc::O_TRUNC);
}

#[test]
fn open_flags_follow_open_2() {
    let append = OpenFlags { read: false, write: true, append: true, truncate: false };
    assert_eq!(open_flags(libc::O_RDONLY), OpenFlags::READ);
    assert_eq!(open_flags(libc::O_WRONLY), OpenFlags::WRITE);
    assert_eq!(open_flags(libc::O_RDWR), OpenFlags::READ_WRITE);
    assert_eq!(open_flags(libc::O_WRONLY | libc::O_APPEND), append);
    assert!(open_flags(libc::O_RDWR | libc::O_TRUNC).truncate);
    // Undefined by POSIX: must not cut a file that is opened for reading.
    assert_eq!(open_flags(libc::O_RDONLY | libc::O_TRUNC | libc::O_APPEND), OpenFlags::READ);
}

#[test]
fn the_page_cache_is_kept_only_for_unchanged_cached_files() {
    assert_eq!(fopen_flags(libc::O_RDWR, false, true), FopenFlags::FOPEN_KEEP_CACHE);
    assert_eq!(fopen_flags(libc::O_RDWR, false, false), FopenFlags::empty());
    assert_eq!(fopen_flags(libc::O_RDONLY, false, false), FopenFlags::empty());
    let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    assert_eq!(fopen_flags(libc::O_RDWR | libc::O_DIRECT, false, true), direct);
    assert_eq!(fopen_flags(libc::O_RDWR, true, true), direct);
}

#[test]
fn appending_is_direct_and_one_at_a_time() {
    assert_eq!(fopen_flags(libc::O_WRONLY | libc::O_APPEND, false, true), FopenFlags::FOPEN_DIRECT_IO);
}

#[test]
fn privileges_fall_as_in_linux() {
    assert_eq!(without_privileges(0o4755), Some(0o755));
    assert_eq!(without_privileges(0o6755), Some(0o755));
    assert_eq!(without_privileges(0o2755), Some(0o755));
    assert_eq!(without_privileges(0o2745), None); // Mandatory locking.
    assert_eq!(without_privileges(0o6745), Some(0o2745));
    assert_eq!(without_privileges(0o1777), None);
}

#[test]
fn a_new_owner_or_a_cut_drops_privileges() {
    let nothing = Setattr::nothing(InodeId(9));
    let chown = Setattr { uid: Some(1), ..nothing.clone() };
    let cut = Setattr { size: Some(1), ..nothing.clone() };
    let both = Setattr { mode: Some(0o4755), gid: Some(1), ..nothing.clone() };
    assert!(drops_privileges(&chown, FileKind::File, 0));
    assert!(!drops_privileges(&chown, FileKind::Directory, 0));
    assert!(drops_privileges(&cut, FileKind::File, 1000));
    assert!(!drops_privileges(&cut, FileKind::File, 0));
    assert!(!drops_privileges(&both, FileKind::File, 1000));
    assert!(!drops_privileges(&nothing, FileKind::File, 1000));
}

#[test]
fn names_are_at_most_255_bytes() {
    assert!(name_bytes(OsStr::new(&"x".repeat(255))).is_ok());
    assert_eq!(name_bytes(OsStr::new(&"x".repeat(256))), Err(Errno::ENAMETOOLONG));
}

#[test]
fn extended_attributes_answer_size_value_or_erange() {
    assert_eq!(xattr_answer(b"abc", 0), Ok(XattrAnswer::Size(3)));
    assert_eq!(xattr_answer(b"abc", 3), Ok(XattrAnswer::Data(b"abc")));
    assert_eq!(xattr_answer(b"abc", 2), Err(Errno::ERANGE));
    assert_eq!(xattr_answer(b"", 0), Ok(XattrAnswer::Size(0)));
    assert_eq!(xattr_list(&["user.a", "user.b"]), b"user.a\0user.b\0");
    assert!(is_acl(b"system.posix_acl_access") && !is_acl(b"user.posix_acl_access"));
}

#[test]
fn statfs_counts_in_blocks() {
    let shown = capacity(&Space { total_bytes: 40_960, free_bytes: 8_191, inodes: 5, device: 0 });
    assert_eq!(shown, Capacity { blocks: 10, free: 1, files: 6, files_free: 1 });
}

#[test]
fn fallocate_allocates_punches_and_zeroes() {
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(allocation(0), Ok(Allocation::Space { keep_size: false }));
    assert_eq!(allocation(keep), Ok(Allocation::Space { keep_size: true }));
    assert_eq!(allocation(libc::FALLOC_FL_PUNCH_HOLE | keep), Ok(Allocation::Hole));
    assert_eq!(allocation(libc::FALLOC_FL_ZERO_RANGE), Ok(Allocation::Zeros { keep_size: false }));
    assert_eq!(allocation(libc::FALLOC_FL_ZERO_RANGE | keep), Ok(Allocation::Zeros { keep_size: true }));
    let refused = [
        libc::FALLOC_FL_PUNCH_HOLE,
        libc::FALLOC_FL_COLLAPSE_RANGE,
        libc::FALLOC_FL_INSERT_RANGE,
        libc::FALLOC_FL_UNSHARE_RANGE,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE | keep,
        1 << 20,
    ];
    assert!(refused.iter().all(|mode| allocation(*mode) == Err(Errno::EOPNOTSUPP)));
}

#[test]
fn a_range_ends_within_the_largest_file() {
    assert_eq!(file_range(5, 10), Ok(5..15));
    assert_eq!(file_range(i64::MAX as u64 - 1, 1), Ok(i64::MAX as u64 - 1..i64::MAX as u64));
    assert_eq!(file_range(u64::MAX, 1), Err(Errno::EFBIG));
    assert_eq!(file_range(i64::MAX as u64, 1), Err(Errno::EFBIG));
}
