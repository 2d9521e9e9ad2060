#!/bin/bash
# Runs in the guest as root; tests/e2e/rdma.sh starts it. The host's files are visible at their own paths, read-only; /out comes back.
# Words of the kernel's command line: hayate=PROGRAM tests=TEST-PROGRAM[,TEST-PROGRAM...]
#
# One node with one soft-RoCE device, three servers. Clients run under another host name, so servers are other nodes to them.
set -u
for word in $(</proc/cmdline); do
    case $word in hayate=*) HAYATE=${word#hayate=} ;; tests=*) TESTS=${word#tests=} ;; esac
done
# Where the device is, and where the servers listen with TCP: another link, which stays when the first is down.
ADDRESS=10.77.0.1
LISTEN=10.78.0.1
DEVICE=rxe0
B=/dev/shm/box
STATUS=0
ulimit -l unlimited
hostname guest

say() { echo "## $*"; }
wrong() { echo "## FAIL: $*"; STATUS=1; }
seconds() { local up _; read -r up _ </proc/uptime; echo "$up"; }

device_up() {
    ip link add dum0 type dummy
    ip link set dum0 mtu 9000 up
    ip addr add $ADDRESS/24 dev dum0
    ip link add dum1 type dummy
    ip link set dum1 mtu 9000 up
    ip addr add $LISTEN/24 dev dum1
    rdma link add $DEVICE type rxe netdev dum0
}

h() { "$HAYATE" --cluster $B/c.toml "$@"; }
# burst NAME OPTION...: write, read, compare, as from another node. Sizes are small because all is emulated.
burst() {
    local name=$1; shift
    case "$*" in *-t*) ;; *) set -- -t 1m "$@" ;; esac
    timeout 60 unshare --uts bash -c 'hostname far; exec "$@"' bash \
        "$HAYATE" --cluster $B/c.toml bench ior -a HAYATE -w -r -R -N 2 -o "/$name" "$@" >$B/$name.txt 2>&1
}
up() {
    rm -rf $B; mkdir -p $B/tier
    h up --nodes 3 --store $B/store --tier $B/tier --memory 96M --workers 1 --listen $LISTEN --no-metrics "$@" >/dev/null || return 1
}
# figure POINTER: the sum over all servers, from their status.
figure() { h status --json | python3 -c '
import json, sys
total = 0
for server in json.load(sys.stdin)["servers"]:
    value = server.get("status", {})
    for word in sys.argv[1].split("/"):
        value = value.get(word, {}) if isinstance(value, dict) else {}
    total += value if isinstance(value, int) else 0
print(total)' "$1"; }
pids() { sed -n 's/^pid = //p' $B/c.toml; }
logs() { cat /tmp/hayate-0/*/*.log; }
# Processor ticks of the whole machine that were not idle.
busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }

# Of the crate's own tests only those that want a device.
filter() { case ${1##*/} in fs_net-*) echo rdma::hostile ;; esac; }

protocol() {
    local test from
    for test in ${TESTS//,/ }; do
        from=$(seconds)
        HAYATE_TEST_RDMA=$ADDRESS timeout 150 "$test" --test-threads=1 --skip frames_of_every_size $(filter "$test") >$B.test 2>&1 ||
            { wrong "protocol tests of ${test##*/}"; grep -aE '^test .*FAILED|panicked' -A3 $B.test | head -20; }
        say "protocol tests ${test##*/}: $(grep -a '^test result' $B.test) (guest: $from to $(seconds))"
    done
}

compare() {
    local way option bytes=$((2 * 16)) from before
    for way in tcp rdma; do
        option=off; [ $way = tcp ] || option=$DEVICE
        up --rdma $option || { wrong "up --rdma $option"; return; }
        burst warm -b 2m || wrong "the first burst over $way: $(tail -3 $B/warm.txt)"
        from=$(seconds) before=$(busy)
        burst big -b 16m || wrong "a burst over $way: $(tail -3 $B/big.txt)"
        say "$way: $bytes MiB written, read and compared in $(awk -v a="$from" -v b="$(seconds)" 'BEGIN { print b - a }') s," \
            "$(($(busy) - before)) ticks (10 ms) of processor; servers: $(figure cpu_us) us, copied $(figure copied_bytes) bytes," \
            "$(figure messages_received) frames, $(figure write_calls) sends; RDMA: $(figure rdma/messages_received) messages," \
            "$(figure rdma/reads) reads of $(figure rdma/read_bytes) bytes, $(figure rdma/retries) retries"
        burst small -b 512k -t 4k || wrong "small transfers over $way: $(tail -3 $B/small.txt)"
        say "$way, 4 KiB at a time: $(awk '($1 == "write" || $1 == "read") && !seen[$1]++ { printf "%s %.0f a second; ", $1, $2 * 256 }' $B/small.txt)"
        [ $way = tcp ] || look
        h down --discard >/dev/null 2>&1 || wrong "down over $way"
    done
}

# What status says of a cluster over RDMA, and how much memory its servers have.
look() {
    local pid peak registered
    h status | grep -E "between nodes|RDMA" | sed 's/^/## /'
    h status | grep -q "RDMA.*$DEVICE.*ACTIVE.*$ADDRESS" || wrong "status does not show the device"
    [ "$(figure rdma/reads)" -gt 0 ] || wrong "nothing was read over RDMA"
    [ "$(figure rdma/fallbacks)" = 0 ] || wrong "TCP was used"
    registered=$(figure rdma/registered_bytes)
    # Of each server: 9/32 of 96 MiB of buffers, and 6.4 MiB for each of three threads.
    [ "$registered" -gt $((3 << 20)) ] && [ "$registered" -le $((3 * (27 + 20) << 20)) ] || wrong "$registered bytes registered"
    for pid in $(pids); do
        peak=$(awk '/^VmHWM/ { print $2 }' /proc/$pid/status)
        say "server process $pid: at most $peak KiB resident"
        [ "$peak" -le $(((96 + 20 + 60) << 10)) ] || wrong "a server of 96 MiB had $peak KiB"
    done
}

# A server dies by SIGKILL in the middle of a burst, and is started again; the burst ends well, and what it wrote is right.
killed() {
    local victim burst
    burst during -b 24m & burst=$!
    until [ "$(figure rdma/reads)" -gt 3 ] || ! kill -0 $burst 2>/dev/null; do sleep 0.2; done
    victim=$(pids | tail -1)
    kill -9 "$victim"
    sleep 1
    h up --restart >/dev/null 2>&1 || wrong "up --restart"
    if wait $burst; then say "a burst went on after the kill of server process $victim"; else wrong "the burst after a kill: $(tail -3 $B/during.txt)"; fi
    burst after -b 2m || wrong "a burst after the restart: $(tail -3 $B/after.txt)"
}

# The device's link goes down in the middle of a burst, which ends well over TCP while it is down, with a warning; and so does one when it is up again, over whichever way there is.
link_down() {
    local burst before
    burst broken -b 24m & burst=$!
    before=$(figure rdma/reads)
    until [ "$(figure rdma/reads)" -gt $((before + 3)) ] || ! kill -0 $burst 2>/dev/null; do sleep 0.2; done
    ip link set dum0 down
    if wait $burst; then say "a burst ended well with the link down"; else wrong "the burst when the link went down: $(tail -3 $B/broken.txt)"; fi
    burst tcp -b 2m || wrong "a burst with the link down: $(tail -3 $B/tcp.txt)"
    say "warnings: $(grep -c 'no RDMA; going on over TCP' $B/broken.txt) of the client, $(logs | grep -c 'no RDMA; going on over TCP') of three servers"
    { cat $B/broken.txt; logs; } | grep 'no RDMA; going on over TCP' >/dev/null || wrong "nobody said that TCP is used"
    h status | grep -q "RDMA.*$DEVICE.*DOWN" || wrong "status does not show that the port is down: $(h status | grep RDMA)"
    ip link set dum0 up
    before=$(figure rdma/reads)
    burst again -b 4m || wrong "a burst with the link up again: $(tail -3 $B/again.txt)"
    # Not a failure: whether rdma_cm comes back after a link that was down is the device's affair, and soft-RoCE has not been seen to.
    say "with the link up again: $(($(figure rdma/reads) - before)) reads over RDMA. $(grep -h 'no RDMA' $B/again.txt | head -1)"
    logs | grep -q 'panicked' && wrong "a panic: $(logs | grep panicked | head -3)"
}

device_up || { wrong "no soft-RoCE"; exit 1; }
mkdir -p $B
[ -z "${TESTS:-}" ] || protocol
compare
if up --rdma auto; then
    killed
    link_down
    logs >/out/servers.log
    h down --discard >/dev/null 2>&1 || wrong "down at the end"
else
    wrong "up"
fi
exit $STATUS
