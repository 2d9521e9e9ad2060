#!/usr/bin/env bash
# Goal: RDMA works: the protocol tests over it, bursts with verification, SIGKILL of a server, links that go down and come up again; one device
# does for another, TCP for both, and RDMA comes back; memory is bounded; and what it costs beside TCP. Method: Debian's kernel with soft-RoCE in QEMU
# guests, with KVM where that works (tests/rdma/): one guest with three servers (in the end with soft-iWARP in soft-RoCE's place), then two with one each, on
# networks of their own. PARTS: one_guest or two_guests alone; STEPS: of the first these functions of guest.sh alone, with commas between.
# Emulated: figures compare, they do not show what a device can do.
. "$(dirname "$0")/lib.sh"
is_root || skip "installing qemu and a kernel takes root"
command -v apt-get >/dev/null || skip "the guests need Debian's packages (apt-get)"
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

# The programs of fs-net's tests, all of them. ./test builds them and puts them there.
test_programs() {
    local name found programs=() from=${FS_NET_TESTS:-${CARGO_TARGET_DIR:-$ROOT/target}/e2e/fs-net}
    for name in session calls peers limits killed rdma landing fs_net; do
        found=("$from/$name"-????????????????)
        [ ${#found[@]} = 1 ] && [ -x "${found[0]}" ] || fail "not one program of fs-net's test $name in $from; ./test rdma builds it"
        [ -z "$(find "$ROOT/crates/fs-net" -name '*.rs' -newer "${found[0]}" -print -quit)" ] ||
            fail "${found[0]} is older than the sources of fs-net; ./test rdma builds it"
        programs+=("${found[0]}")
    done
    (IFS=,; echo "${programs[*]}")
}

# clock_was_right LOG SECONDS: fails if a guest's clock was wrong, which makes all its time-outs wrong: it measures the rate of the processor's counter when it starts, and a host that
# has too much to do then spoils that. Of LOG the end says how old the guest was, SECONDS how long it really ran.
clock_was_right() {
    awk -v took="$2" -F'T[+]' '/^JOB-RC/ { age = $2 } END { exit age > 1.3 * took + 5 }' "$1" ||
        fail "the guest's clock ran too fast ($2 s of the host): the host was too busy when it started; run it again"
}

# ended NAME CODE FROM LAST-WORD: shows what a guest said, and whether it came to its end.
ended() {
    local name=$1 code=$2 from=$3 last=$4 took
    took=$(awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f", b - a }')
    note "$name: $took s"
    # Tables as they are, for who takes them from here (bench/figures.py).
    grep -a '^## ' "$BOX/logs/$name.txt" | sed -e 's/\r$//' -e 's/^## |/|/' -e 's/^## /   /' || true
    clock_was_right "$BOX/logs/$name.txt" "$took"
    [ "$code" != 99 ] || fail "$name did not end: $(tail -3 "$BOX/logs/$name.txt")"
    [ "$code" = 0 ] || fail "in $name, see above"
    grep -aqE "^## [0-9.]+ $last" "$BOX/logs/$name.txt" || fail "$name did not come to its end"
}

one_guest() {
    local code=0 from programs=''
    case ${STEPS:-protocol} in *protocol*) programs=$(test_programs) || exit ;; esac
    from=$EPOCHREALTIME
    # Two processors, because with one nobody looks before sleeping.
    APPEND="hayate=$HAYATE tests=$programs rounds=$ROUNDS ${STEPS:+steps=$STEPS}" SMP=${SMP:-2} MEM=${MEM:-2048} LIMIT=${LIMIT:-900} \
        "$VM/vmrun.sh" "$VM/guest.sh" "$BOX/out" >"$BOX/logs/guest.txt" 2>&1 || code=$?
    ended guest $code "$from" 'the guest has ended'
}

# Guest N's end of three cables to the other one.
network() {
    local at
    for at in 0 1 2; do
        printf ' %s' -netdev "dgram,id=n$at,local.type=unix,local.path=$BOX/net/$at-$1,remote.type=unix,remote.path=$BOX/net/$at-$((3 - $1))" \
            -device "virtio-net-pci,netdev=n$at,mac=52:54:00:00:0$at:0$1,host_mtu=9000"
    done
}

# Pulls the cables that guest 1 asks to be pulled, and puts them in again.
hold_cables() {
    local ask guest cable state
    while sleep 0.1; do
        for ask in "$BOX"/share/cable-*.ask; do
            [ -e "$ask" ] || continue
            read -r guest cable state <"$ask"
            python3 - "$BOX/net/monitor-$guest" "set_link $cable $state" <<'END'
import socket, sys
monitor = socket.socket(socket.AF_UNIX)
monitor.settimeout(20)
monitor.connect(sys.argv[1])
for line in ["", sys.argv[2] + "\n"]:
    monitor.sendall(line.encode())
    said = b""
    while not said.endswith(b"(qemu) "):
        said += monitor.recv(4096)
END
            mv "$ask" "${ask%.ask}.done"
        done
    done
}

two_guests() {
    local node code=0 from=$EPOCHREALTIME guests=()
    mkdir "$BOX/net" "$BOX/share"
    for node in 1 2; do
        NODE=$node APPEND="hayate=$HAYATE rounds=$ROUNDS" SMP=$CPUS MEM=1024 LIMIT=${LIMIT:-500} NETARGS=$(network $node) \
            EXTRA="-monitor unix:$BOX/net/monitor-$node,server=on,wait=off -virtfs local,path=$BOX/share,mount_tag=share,security_model=none" \
            "$VM/vmrun.sh" "$VM/pair.sh" "$BOX/out-$node" >"$BOX/logs/pair-$node.txt" 2>&1 & guests+=($!)
    done
    hold_cables 2>"$BOX/logs/cables.txt" & CHILDREN+=($!)
    disown $!
    wait "${guests[0]}" || code=$?
    touch "$BOX/share/end"
    wait "${guests[1]}" || [ $code != 0 ] || code=$?
    cat "$BOX/share/rendezvous"/*/server-*.log >"$BOX/logs/pair-servers.log" 2>/dev/null || true
    ended pair-1 $code "$from" 'the pair has ended'
}

install_packages || skip "apt-get cannot install qemu (see its log)"
{ flock 9; "$VM/fetch-kernel.sh" && "$VM/mkinitrd.sh" "$RDMAVM/initrd.cpio"; } 9>"$RDMAVM/lock" >"$BOX/logs/kernel.log" 2>&1 ||
    skip "no kernel for the guest: $(tail -1 "$BOX/logs/kernel.log")"
# Debian's kernel comes without soft-iWARP. Where it cannot be built the rest is tried, and it is said.
[[ ${PARTS:-one_guest} != *one_guest* || ( -n ${STEPS:-} && $STEPS != *change_device* ) ]] ||
    { flock 9; "$VM/build-siw.sh"; } 9>"$RDMAVM/lock" >"$BOX/logs/siw.log" 2>&1 || {
    note "no soft-iWARP for the guest, so iWARP is not tried: $(tail -1 "$BOX/logs/siw.log")"
    STEPS=${STEPS:-protocol,without_libraries,too_little_locked,compare,faults,table}
}
export KVM=0 CPUS=1
# How often a burst that a fault is to hit is repeated.
ROUNDS=1
if "$VM/has-kvm.sh" 2>/dev/null; then KVM=1 CPUS=2 ROUNDS=40; fi
note "kernel $(cat "$RDMAVM/kernel/version"), $([ $KVM = 1 ] && echo with KVM || echo emulated)"
for part in ${PARTS:-one_guest two_guests}; do $part; done
note "passed"
