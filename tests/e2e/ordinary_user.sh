#!/usr/bin/env bash
# Goal: an ordinary user has a cluster and a mount, with fusermount3 and nothing else; root's help is not needed, and other users get
# nothing. Method: run by root, it becomes `nobody` in a mount namespace where everybody may open /dev/fuse (as on usual machines);
# run by an ordinary user, it is just that user.
. "$(dirname "$0")/lib.sh"
need fusermount3 python3 tar rsync
if is_root && [ -z "${HAYATE_E2E_NAMESPACE:-}" ]; then
    need setpriv unshare
    [ -e /dev/fuse ] || skip "no /dev/fuse on this machine"
    unshare -m true 2>/dev/null || skip "no mount namespaces here"
    HAYATE_E2E_NAMESPACE=1 exec unshare -m "$0" "$@"
fi
begin user
HOME=$BOX/home
export HOME

# The device of a usual machine, for this namespace only.
open_device() {
    mkdir "$BOX/dev"
    mount -t tmpfs -o mode=755 none "$BOX/dev"
    mknod -m 666 "$BOX/dev/fuse" c 10 229
    mount --bind "$BOX/dev/fuse" /dev/fuse
}

if is_root; then
    setpriv --reuid=nobody --regid=nogroup --clear-groups sh -c ': <>/dev/fuse' 2>/dev/null || open_device
    # The user may not be able to reach where the program was built.
    cp "$HAYATE" "$BOX/hayate"; cp -r "$E2E" "$BOX/e2e"
    HAYATE=$BOX/hayate
    U=(setpriv --reuid=nobody --regid=nogroup --clear-groups env -u XDG_RUNTIME_DIR)
else
    U=(env)
    cp -r "$E2E" "$BOX/e2e"
fi
# All of this user's things lie in a directory of the user's.
mkdir "$BOX/home"
! is_root || chown nobody:nogroup "$BOX/home"
C=$BOX/home/c.toml M=$BOX/home/m
u() { "${U[@]}" "$@"; }
hu() { u "$HAYATE" --cluster "$C" "$@"; }
end_user() {
    local code=$?
    # For the lib's end: it looks for what is below $BOX.
    hu down --discard >/dev/null 2>&1 || true
    u fusermount3 -uz "$M" 2>/dev/null || true
    # Of open_device, if it was called.
    umount /dev/fuse 2>/dev/null || true; umount "$BOX/dev" 2>/dev/null || true
    (exit $code); finish
}
trap end_user EXIT

u mkdir "$M" "$BOX/home/tier"
hu up --nodes 4 --store "$BOX/home/store" --tier "$BOX/home/tier" >/dev/null
job=$(sed -n 's/^job = "\(.*\)"$/\1/p' "$C")
cp "/tmp/hayate-$(u id -u)/$job"/*.log "$BOX/logs/"
hu mount "$M" >/dev/null
u mountpoint -q "$M" || fail "$M is not a mount point"
[ "$(stat -c %U "$C")" = "$(u id -un)" ] && [ "$(stat -c %a "$C")" = 600 ] || fail "the cluster file is open to others"

python3 "$BOX/e2e/make_tree.py" "$BOX/source" 500 >/dev/null
rm -rf "$BOX/source/odd/read-only" "$BOX/source/odd/setuid"
! is_root || chown -R --no-dereference nobody:nogroup "$BOX/source"
u cp -a "$BOX/source" "$M/copy"
u rsync -aHX "$BOX/source/" "$M/rsynced/"
u diff -r --no-dereference "$BOX/source" "$M/copy" || fail "the mount differs from the source"
[ -z "$(u rsync -aHXn --delete --itemize-changes "$BOX/source/" "$M/rsynced/")" ] || fail "rsync finds differences"
u sh -c "echo x >'$M/file' && chmod 600 '$M/file' && ln -s file '$M/link' && cat '$M/link'" >/dev/null
if is_root; then
    # Without allow_other not even root looks into it.
    ! ls "$M" >/dev/null 2>&1 || fail "root sees the mount of a user that did not allow it"
    # Another user has neither the cluster file nor the secret.
    ! setpriv --reuid=daemon --regid=daemon --clear-groups "$HAYATE" --cluster "$C" ls >/dev/null 2>"$BOX/other.err" || fail "another user reads the cluster"
    note "another user is told: $(head -1 "$BOX/other.err")"
fi
# A dead mount is cleared by its user, too.
pid=$(hu status | sed -n 's/^mounted at .*(process \([0-9]*\))$/\1/p')
u kill -KILL "$pid"
timeout 10 bash -c "while stat '$M/file' >/dev/null 2>&1; do sleep 0.02; done" || true
hu mount "$M" 2>/dev/null >/dev/null
[ "$(u cat "$M/file")" = x ] || fail "content after a new mount"
u python3 "$BOX/e2e/manifest.py" "$M" >"$BOX/shown"
said=$(hu down --drain 2>&1) || fail "down --drain: $said"
grep -q 'nothing unsafe' <<<"$said" || fail "down --drain: $said"
note "$said"
python3 "$BOX/e2e/manifest.py" "$BOX/home/tier" | diff "$BOX/shown" - >"$BOX/difference" || fail "the tier is not what the mount showed:
$(head -10 "$BOX/difference" | cut -c1-300)"
passed
