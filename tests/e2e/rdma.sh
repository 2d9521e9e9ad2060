#!/usr/bin/env bash
# Goal: RDMA works: the protocol tests over it, bursts with verification, SIGKILL of a server, the link down and up; memory
# is bounded; and what it costs beside TCP. Method: Debian's kernel with soft-RoCE in a QEMU guest, without KVM (tests/rdma/); one guest, three
# servers. Emulated: figures compare, they do not show what a device can do.
. "$(dirname "$0")/lib.sh"
is_root || skip "installing qemu and a kernel takes root"
command -v apt-get >/dev/null || skip "the guest needs Debian's packages (apt-get)"
begin rdma
export RDMAVM=${RDMAVM:-${XDG_CACHE_HOME:-$HOME/.cache}/hayate-rdma-vm}
VM=$ROOT/tests/rdma
mkdir -p "$RDMAVM"

install_packages() {
    local need=() package
    for package in qemu-system-x86 busybox-static kmod rdma-core ibverbs-providers iproute2 cpio python3; do
        dpkg -s "$package" >/dev/null 2>&1 || need+=("$package")
    done
    [ ${#need[@]} -gt 0 ] || return 0
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${need[@]}"; } >"$BOX/logs/apt.log" 2>&1
}

# The newest programs of fs-net's tests, if they were built; ./test has built them when it runs this.
test_programs() {
    local name program
    for name in session calls peers rdma fs_net; do
        program=$(ls -t "${CARGO_TARGET_DIR:-$ROOT/target}"/debug/deps/"$name"-???????????????? 2>/dev/null | head -1)
        [ -z "$program" ] || echo "$program"
    done | paste -sd,
}

install_packages || skip "apt-get cannot install qemu (see its log)"
{ flock 9; "$VM/fetch-kernel.sh" && "$VM/mkinitrd.sh" "$RDMAVM/initrd.cpio"; } 9>"$RDMAVM/lock" >"$BOX/logs/kernel.log" 2>&1 ||
    skip "no kernel for the guest: $(tail -1 "$BOX/logs/kernel.log")"
note "kernel $(cat "$RDMAVM/kernel/version")"
guest() {
    APPEND="hayate=$HAYATE tests=$(test_programs)" SMP=${SMP:-1} MEM=${MEM:-2048} LIMIT=${LIMIT:-290} \
        "$VM/vmrun.sh" "$VM/guest.sh" "$BOX/out" >"$BOX/logs/guest.txt" 2>&1
}
code=0 from=$EPOCHREALTIME
guest || code=$?
note "guest: $(awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f s", b - a }')"
grep -a '^## ' "$BOX/logs/guest.txt" | sed 's/^## /   /' || true
[ $code != 99 ] || fail "the guest did not end: $(tail -3 "$BOX/logs/guest.txt")"
[ $code = 0 ] || fail "in the guest, see above"
grep -aq '^## with the link up again' "$BOX/logs/guest.txt" || fail "the guest's job did not come to its end"
note "passed"
