#!/usr/bin/env bash
# Goal: ordinary programs work on a mount: git, cargo, sqlite3, rsync. Long: git with all that is in cargo's registry, and cargo building all of Hayate.
# Method: each does a job whose result it can check itself; then the cluster is drained, and the tier must be what the mount showed.
. "$(dirname "$0")/lib.sh"
need git sqlite3 rsync tar python3 cargo
need_fuse
begin programs
M=$BOX/c/m
export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t GIT_CONFIG_GLOBAL=/dev/null
g() { git -c safe.directory='*' "$@"; }

# A repository of some thousand objects: commits, a tag, an executable, a link, a branch.
make_repository() {
    g init -q -b main "$BOX/origin"
    local round
    for round in 1 2 3 4; do
        python3 - "$BOX/origin" $round <<'PYTHON'
import os, random, sys
root, turn = sys.argv[1], int(sys.argv[2])
chance = random.Random(turn)
for index in range(turn, 3000, turn):
    place = os.path.join(root, f"d{index % 50}", f"e{index % 7}")
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, f"f{index}"), "w") as file:
        file.write("\n".join(str(chance.random()) for _ in range(chance.randrange(60))))
PYTHON
        [ $round -gt 1 ] || { printf '#!/bin/sh\n' >"$BOX/origin/run"; chmod 755 "$BOX/origin/run"; ln -s run "$BOX/origin/link"; }
        g -C "$BOX/origin" add -A
        g -C "$BOX/origin" commit -qm "round $round"
    done
    [ -z "${HAYATE_TEST_LONG:-}" ] || add_the_registry
    g -C "$BOX/origin" tag -a -m "a tag" v1
    note "repository of $(g -C "$BOX/origin" count-objects -v | awk '/^count|^in-pack/ { n += $2 } END { print n }') objects"
}

# What cargo has unpacked here: tens of thousands of files.
add_the_registry() {
    local registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
    [ -d "$registry" ] || fail "cargo has no registry at $registry"
    mkdir "$BOX/origin/registry"
    tar -C "$registry" --exclude=.git --exclude=.gitignore --exclude=.gitattributes -cf - . | tar -C "$BOX/origin/registry" -xf -
    g -C "$BOX/origin" add -A -f
    g -C "$BOX/origin" commit -qm "the registry"
}

try_git() {
    # Not --local: objects shall be transferred, not linked.
    g clone -q --no-local "$BOX/origin" "$M/clone"
    [ -z "$(g -C "$M/clone" status --porcelain)" ] || fail "git status of a fresh clone: $(g -C "$M/clone" status --porcelain | head)"
    g -C "$M/clone" fsck --full --strict 2>&1 | grep -vE '^(Checking|notice)' | grep . && fail "git fsck complains" || true
    g -C "$M/clone" checkout -qb other HEAD~2
    echo change >"$M/clone/d1/new"
    g -C "$M/clone" add d1/new
    g -C "$M/clone" commit -qm "on the mount"
    g -C "$M/clone" checkout -q main
    g -C "$M/clone" merge -q -m merged other
    g -C "$M/clone" gc -q --prune=now
    g -C "$M/clone" fsck --full --strict >/dev/null 2>&1 || fail "git fsck after gc"
    [ -z "$(g -C "$M/clone" status --porcelain)" ] || fail "git status after merge and gc is not clean"
    g clone -q --no-local "$M/clone" "$BOX/back"
    [ "$(g -C "$BOX/back" rev-parse HEAD)" = "$(g -C "$M/clone" rev-parse HEAD)" ] || fail "the clone of the clone has another HEAD"
    g -C "$BOX/back" fsck --full --strict >/dev/null 2>&1 || fail "git fsck of the clone of the clone"
}

try_cargo() {
    cargo new -q --vcs none --name small "$M/small"
    cat >"$M/small/src/main.rs" <<'RUST'
mod part;
fn main() {
    println!("{}", part::sum(&[1, 2, 39]));
}
RUST
    cat >"$M/small/src/part.rs" <<'RUST'
pub fn sum(numbers: &[u32]) -> u32 {
    numbers.iter().sum()
}
#[test]
fn sums() {
    assert_eq!(sum(&[1, 2]), 3);
}
RUST
    local build=(env CARGO_TARGET_DIR="$M/target" cargo -q build --offline --manifest-path "$M/small/Cargo.toml")
    "${build[@]}"
    [ "$("$M/target/debug/small")" = 42 ] || fail "the program that cargo built says something else than 42"
    CARGO_TARGET_DIR=$M/target cargo -q test --offline --manifest-path "$M/small/Cargo.toml" >/dev/null
    # Times must be kept so well that nothing is built again, and a change must be seen.
    env CARGO_TARGET_DIR="$M/target" cargo build --offline -v --manifest-path "$M/small/Cargo.toml" 2>&1 | grep -q 'Fresh small' \
        || fail "cargo builds again what has not changed"
    sed -i 's/39/40/' "$M/small/src/main.rs"
    "${build[@]}"
    [ "$("$M/target/debug/small")" = 43 ] || fail "cargo did not see a change"
}

# A part of this very program; long: all of it.
try_own_build() {
    local part=fs-proto said
    [ -z "${HAYATE_TEST_LONG:-}" ] || part=hayate
    mkdir "$M/own"
    tar -C "$ROOT" --exclude=./target --exclude=./.git -cf - . | tar -C "$M/own" -xf -
    said=$(cd "$M/own" && CARGO_TARGET_DIR=$M/own-target cargo build -q --offline -p $part 2>&1) || fail "cargo build -p $part: $said"
    # Times must be kept so well that nothing is built again.
    said=$(cd "$M/own" && CARGO_TARGET_DIR=$M/own-target cargo build --offline -v -p $part 2>&1)
    ! grep -E '^ *(Compiling|Dirty)' <<<"$said" || fail "cargo builds again what has not changed"
}

try_sqlite() {
    local mode=$1 db=$M/$1.db
    sqlite3 "$db" >/dev/null <<SQL
PRAGMA journal_mode=$mode;
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, body BLOB);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
    INSERT INTO t SELECT i, 'name' || (i * 7919 % 20011), zeroblob(i % 500) FROM n;
COMMIT;
CREATE INDEX by_name ON t (name);
SQL
    local i
    for i in 1 2 3 4 5 6 7 8; do sqlite3 "$db" "UPDATE t SET name = name || '-$i' WHERE id % 8 = $i % 8;"; done
    sqlite3 "$db" "BEGIN; DELETE FROM t; ROLLBACK; DELETE FROM t WHERE id > 19000; VACUUM;"
    [ "$(sqlite3 "$db" 'PRAGMA integrity_check; SELECT count(*), sum(length(body)) FROM t;' | tr '\n' ' ')" = "ok 19000|4740500 " ] \
        || fail "sqlite3 ($mode): $(sqlite3 "$db" 'PRAGMA integrity_check; SELECT count(*), sum(length(body)) FROM t;')"
    [ "$(sqlite3 "$db" "SELECT id FROM t WHERE name = 'name7919-1'")" = 1 ] || fail "sqlite3 ($mode): the index finds nothing"
}

try_rsync() {
    python3 "$E2E/make_tree.py" "$BOX/source" 1500 >/dev/null
    rsync -aHAX "$BOX/source/" "$M/copy/"
    same_tree "$BOX/source" "$M/copy" "after rsync in"
    # A second run finds nothing to do; a change is carried over.
    [ -z "$(rsync -aHAX --itemize-changes "$BOX/source/" "$M/copy/")" ] || fail "a second rsync finds changes"
    echo more >>"$BOX/source/odd/large"
    rm "$BOX/source/odd/zero"
    rsync -aHAX --delete "$BOX/source/" "$M/copy/"
    rsync -aHAX "$M/copy/" "$BOX/out/"
    same_tree "$BOX/source" "$BOX/out" "after rsync in and out"
}

make_repository
cluster_up c
mount_on c "$M"
timed "git" try_git
timed "cargo" try_cargo
timed "cargo, a crate of Hayate itself" try_own_build
timed "sqlite3, journal" try_sqlite delete
timed "sqlite3, write-ahead log" try_sqlite wal
timed "rsync" try_rsync
mv "$M/copy" "$M/moved"
python3 "$E2E/manifest.py" "$M" >"$BOX/shown"
timed "drain" drain c
python3 "$E2E/manifest.py" "$BOX/c/tier" >"$BOX/in-tier"
diff "$BOX/shown" "$BOX/in-tier" >"$BOX/difference" || fail "the tier is not what the mount showed:
$(head -20 "$BOX/difference")"
passed
