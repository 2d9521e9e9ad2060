//! Goal: lists mean what POSIX 1003.1e and Linux say. Method: small lists by hand; the whole against a local file system is
//! `tests/e2e/acl.py`.

use super::*;

fn list(entries: &[(u16, u16, u32)]) -> Bytes {
    encode(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }))
}

/// u::rwx u:7:rw- g::r-- g:9:rwx m::<mask> o::---
fn extended(mask: u16) -> Bytes {
    list(&[
        (OWNER, 7, NO_ID),
        (USER, 6, 7),
        (OWNING_GROUP, 4, NO_ID),
        (GROUP, 7, 9),
        (MASK, mask, NO_ID),
        (OTHERS, 0, NO_ID),
    ])
}

fn minimal() -> Bytes {
    list(&[(OWNER, 7, NO_ID), (OWNING_GROUP, 5, NO_ID), (OTHERS, 1, NO_ID)])
}

fn user(uid: u32, groups: &[u32]) -> Caller {
    Caller { uid, gid: 1000, groups: groups.to_vec() }
}

#[test]
fn what_is_no_list_is_refused() {
    let refused = |value: &[u8]| validated(value).is_err_and(|error| error.status == Status::Invalid);
    assert!(refused(b"") && refused(b"\x01\0\0\0") && refused(&minimal()[..13]));
    let without_mask = list(&[(OWNER, 7, NO_ID), (USER, 6, 7), (OWNING_GROUP, 4, NO_ID), (OTHERS, 0, NO_ID)]);
    assert!(refused(&without_mask));
    assert!(refused(&list(&[(OWNER, 7, NO_ID), (OTHERS, 0, NO_ID), (OWNING_GROUP, 4, NO_ID)])));
    assert!(refused(&list(&[
        (OWNER, 7, NO_ID),
        (OWNER, 7, NO_ID),
        (OWNING_GROUP, 4, NO_ID),
        (OTHERS, 0, NO_ID)
    ])));
    assert!(refused(&list(&[(OWNER, 8, NO_ID), (OWNING_GROUP, 4, NO_ID), (OTHERS, 0, NO_ID)])));
    assert!(refused(&list(&[(OWNER, 7, NO_ID), (OWNING_GROUP, 4, NO_ID)])));
    let many = encode((0..600).map(|id| Entry { tag: USER, perm: 7, id }));
    assert_eq!(validated(&many).unwrap_err().status, Status::OutOfRange);
}

#[test]
fn a_list_that_mode_bits_say_is_not_kept() {
    assert_eq!(validated(b"\x02\0\0\0").unwrap(), None);
    assert_eq!(validated(&minimal()).unwrap(), Some(minimal()));
    assert_eq!(mode_of(&minimal()), (0o751, false));
    assert_eq!(mode_of(&extended(5)), (0o750, true));
    assert_eq!(born_with(&minimal(), 0o4666), (None, 0o4640));
}

#[test]
fn the_mode_and_the_list_follow_each_other() {
    for mode in [0, 0o777, 0o640, 0o751] {
        assert_eq!(mode_of(&with_mode(&extended(7), mode)), (mode, true));
        assert_eq!(mode_of(&with_mode(&minimal(), mode)), (mode, false));
    }
    // The owning group's own entry stays when there is a mask.
    assert!(
        entries(&with_mode(&extended(7), 0))
            .any(|entry| entry == Entry { tag: OWNING_GROUP, perm: 4, id: NO_ID })
    );
}

#[test]
fn what_is_made_has_at_most_what_was_asked_for_and_what_the_directory_gives() {
    let (access, mode) = born_with(&extended(7), 0o1666);
    assert_eq!(mode, 0o1660);
    let access = access.expect("named entries");
    assert_eq!(mode_of(&access), (0o660, true));
    assert!(entries(&access).any(|entry| entry == Entry { tag: GROUP, perm: 7, id: 9 }));
}

#[test]
fn the_first_entry_that_fits_decides_and_the_mask_limits_it() {
    let all = extended(7);
    assert!(permits(&all, &user(7, &[]), 50, 6) && !permits(&all, &user(7, &[]), 50, 1));
    // A user's own entry comes before any group's.
    assert!(!permits(&all, &user(7, &[9]), 50, 1));
    assert!(permits(&all, &user(8, &[9]), 50, 7));
    assert!(permits(&all, &user(8, &[50]), 50, 4) && !permits(&all, &user(8, &[50]), 50, 2));
    // Of several groups one that allows all is enough; others' bits are not for members.
    assert!(permits(&all, &user(8, &[50, 9]), 50, 7));
    assert!(!permits(&all, &user(8, &[]), 50, 4));
    let masked = extended(4);
    assert!(permits(&masked, &user(7, &[]), 50, 4) && !permits(&masked, &user(7, &[]), 50, 6));
    assert!(!permits(&masked, &user(8, &[9]), 50, 2));
}
