#!/usr/bin/env bash
# Goal: clusters of one user and of several live on one machine without touching each other.
# Method: two clusters of this user and, run by root, one of `nobody`, at the same time: own files, own mounts, own ends; one is
# killed, one is entered with the secret of another.
. "$(dirname "$0")/lib.sh"
need python3
begin isolation
mount_too=yes
{ : <>/dev/fuse; } 2>/dev/null || { mount_too=; note "without mounts: /dev/fuse cannot be opened"; }

content() { h "$1" cat "/who"; }
# Each cluster says its own name.
all_well() { local name; for name in "$@"; do [ "$(content $name)" = "I am $name" ] || fail "cluster $name does not have its own file"; done; }

for name in one two; do
    NODES=2 cluster_up $name --name $name
    echo "I am $name" >"$BOX/in"
    h $name cp "$BOX/in" h:/who
    [ -z "$mount_too" ] || mount_on $name "$BOX/$name/m"
done
all_well one two
if [ -n "$mount_too" ]; then
    for name in one two; do
        [ "$(cat "$BOX/$name/m/who")" = "I am $name" ] || fail "the mount of $name shows another cluster"
    done
fi
[ "$(job one)" != "$(job two)" ] || fail "two clusters have the same job id"

user_too=
if is_root && command -v setpriv >/dev/null; then
    user_too=yes
    mkdir "$BOX/user"; chown nobody:nogroup "$BOX/user"
    cp "$HAYATE" "$BOX/hayate"
    nobody=(setpriv --reuid=nobody --regid=nogroup --clear-groups env -u XDG_RUNTIME_DIR HOME="$BOX/user")
    hn() { "${nobody[@]}" "$BOX/hayate" --cluster "$BOX/user/c.toml" "$@"; }
    trap 'code=$?; hn down --discard >/dev/null 2>&1 || true; (exit $code); finish' EXIT
    # A shared directory where users may make entries; its times are not theirs to set.
    mkdir -m 1777 "$BOX/shared"
    hn up --nodes 2 --store "$BOX/user/store" --tier "$BOX/shared" >/dev/null
    hn mkdir /of-nobody
    [ "$(hn ls)" = of-nobody ] || fail "the cluster of nobody does not have its own directory"
    ! "${nobody[@]}" "$BOX/hayate" --cluster "$BOX/one/c.toml" ls 2>"$BOX/err" || fail "nobody reads root's cluster"
    ! "${nobody[@]}" sh -c "ls '$(run_dir one)'" 2>/dev/null || fail "nobody looks into root's directory of sockets"
fi

# The address of one with the secret of the other: refused.
secret() { sed -n 's/^secret = "\(.*\)"$/\1/p' "$BOX/$1/c.toml"; }
(umask 077; sed "s/$(secret one)/$(secret two)/" "$BOX/one/c.toml" >"$BOX/thief.toml")
! "$HAYATE" --cluster "$BOX/thief.toml" ls >/dev/null 2>"$BOX/err" || fail "the secret of another cluster opens this one"
grep -qi secret "$BOX/err" || fail "the refusal does not name the secret: $(cat "$BOX/err")"
expect_log 'WARN .*(secret|handshake|refused)'

# One dies; the other does not notice, and the dead one comes back with its data.
for pid in $(server_pids one); do kill -KILL "$pid"; done
all_well two
h one up --restart >/dev/null
# It listens where it did, not for the whole network.
! grep -h 'serving.*tcp=' "$BOX"/logs/one-server-*.log | grep -v 'tcp=127\.0\.0\.1:' || fail "a server listens on another address than 127.0.0.1"
all_well one two
[ -z "$user_too" ] || [ "$(hn ls)" = of-nobody ] || fail "the cluster of nobody changed"

drain one
all_well two
[ "$(cat "$BOX/one/tier/who")" = "I am one" ] || fail "the tier of one"
[ ! -e "$BOX/two/tier/of-nobody" ] || fail "the tiers are mixed up"
drain two
if [ -n "$user_too" ]; then
    [ "$(hn ls)" = of-nobody ] || fail "the end of root's clusters ended that of nobody"
    said=$(hn down --drain 2>&1) && grep -q 'nothing unsafe' <<<"$said" && [ -d "$BOX/shared/of-nobody" ] || fail "the drain of nobody: $said"
    [ "$(ls -A "$BOX/shared")" = of-nobody ] || fail "left in the shared directory: $(ls -A "$BOX/shared")"
fi
expect_dead_neighbour
passed
