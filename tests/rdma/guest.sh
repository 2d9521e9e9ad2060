#!/bin/bash
# Runs in the guest as root; tests/e2e/rdma.sh starts it. The host's files are visible at their own paths, read-only; /out comes back.
#
# One node with one soft-RoCE device, three servers. Clients run under another host name, so servers are other nodes to them.
. "$(dirname "$0")/common.sh"
# Where the device is, and where the servers listen with TCP: another link, which stays when the first is down.
ADDRESS=10.77.0.1
LISTEN=10.78.0.1
DEVICE=rxe0
B=/dev/shm/box
CLUSTER=$B/c.toml
WORDS=$B
hostname guest

device_up() {
    ip link add dum0 type dummy
    ip link set dum0 mtu 9000 up
    ip addr add $ADDRESS/24 dev dum0
    ip link add dum1 type dummy
    ip link set dum1 mtu 9000 up
    ip addr add $LISTEN/24 dev dum1
    rdma link add $DEVICE type rxe netdev dum0
}

up() {
    rm -rf $B; mkdir -p $B/tier
    h up --nodes 3 --store $B/store --tier $B/tier --memory 96M --workers 1 --listen $LISTEN "$@" >/dev/null || return 1
}
pids() { sed -n 's/^pid = //p' $B/c.toml; }
logs() { cat /tmp/hayate-0/*/*.log; }
# Processor ticks of the whole machine that were not idle.
busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }

# Of the crate's own tests only those that want a device, and none that are about TCP alone.
filter() {
    case ${1##*/} in
        fs_net-*) echo rdma:: ;;
        limits-*) echo --skip who_reads_no_answers --skip half_a_message ;;
    esac
}

protocol() {
    local test from
    [ -n "${TESTS:-}" ] || wrong "no programs of fs-net's tests"
    for test in ${TESTS//,/ }; do
        from=$(seconds)
        HAYATE_TEST_SKIPS=$B.skips HAYATE_TEST_RDMA=$ADDRESS timeout 150 "$test" --test-threads=1 $(filter "$test") >$B.test 2>&1 ||
            { wrong "protocol tests of ${test##*/}"; grep -aE '^test .*FAILED|panicked' -A3 $B.test | head -20; }
        grep -aqE '^test result: ok\. [1-9][0-9]* passed' $B.test || wrong "no test of ${test##*/} passed: $(tail -3 $B.test)"
        say "protocol tests ${test##*/}: $(grep -a '^test result' $B.test | cut -d' ' -f3-5) in $(took "$from")"
    done
    ! grep -a 'no RDMA device' $B.skips 2>/dev/null || wrong "tests did not use the device"
}

compare() {
    local way option from before cpu copied frames sends messages reads bytes retries
    for way in tcp rdma; do
        option=off; [ $way = tcp ] || option=$DEVICE
        up --rdma $option || { wrong "up --rdma $option"; return; }
        burst warm -b 2m || wrong "the first burst over $way: $(tail -3 $B/warm.txt)"
        from=$(seconds) before=$(busy)
        burst big -b 16m || wrong "a burst over $way: $(tail -3 $B/big.txt)"
        say "$way: $((2 * 16)) MiB written, read and compared in $(awk -v a="$from" -v b="$(seconds)" 'BEGIN { print b - a }') s," \
            "$(($(busy) - before)) ticks (10 ms) of processor"
        read -r cpu copied frames sends messages reads bytes retries <<<"$(figures cpu_us copied_bytes messages_received \
            write_calls rdma/messages_received rdma/reads rdma/read_bytes rdma/retries)"
        say "$way, until now: servers $cpu us of processor, copied $copied bytes, $frames frames, $sends sends; RDMA: $messages messages," \
            "$reads reads of $bytes bytes, $retries retries"
        burst small -b 512k -t 4k || wrong "small transfers over $way: $(tail -3 $B/small.txt)"
        say "$way, 4 KiB at a time: $(awk '($1 == "write" || $1 == "read") && !seen[$1]++ { printf "%s %.0f a second; ", $1, $2 * 256 }' $B/small.txt)"
        [ $way = tcp ] || look
        h down --discard >/dev/null 2>&1 || wrong "down over $way"
    done
}

# Whether the servers' metrics pages, together, count what went over RDMA.
pages() { python3 - $(sed -n 's/^metrics = "\(.*\)"/\1/p' $CLUSTER) <<'END'
import sys, urllib.request
sums = {}
for address in sys.argv[1:]:
    page = urllib.request.urlopen(f"http://{address}/metrics", timeout=20).read().decode()
    for line in page.splitlines():
        if line.startswith("hayate_rdma_"):
            name, value = line.rsplit(" ", 1)
            sums[name] = sums.get(name, 0) + float(value)
busy = ["messages_sent_total", "messages_received_total", "sent_bytes_total", "received_bytes_total", "reads_total", "read_bytes_total",
        "registrations_total", "registered_bytes", "inline_messages_total"]
busy += [f'port_{figure}_total{{device="rxe0",port="1"}}' for figure in ("connections", "sent_bytes", "received_bytes", "read_bytes")]
calm = ["connections", "retries_total", "fallbacks_total", "returns_total", "lost_peers", "looks_total", "hits_total"]
wrong = [name for name in busy if not sums.get("hayate_rdma_" + name)] + [name for name in calm if "hayate_rdma_" + name not in sums]
print("## metrics:", *(f"{name} {sums.get('hayate_rdma_' + name, 0):.0f}" for name in busy + calm))
sys.exit(f"## not counted: {wrong}" if wrong else 0)
END
}

# What status says of a cluster over RDMA, and how much memory its servers have.
look() {
    local pid peak registered reads fallbacks
    h status >$B/status.txt
    grep -E "between nodes|RDMA" $B/status.txt | sed 's/^/## /'
    grep -q "RDMA.*$DEVICE.*ACTIVE.*$ADDRESS" $B/status.txt || wrong "status does not show the device"
    pages || wrong "metrics pages do not show RDMA"
    read -r reads fallbacks registered <<<"$(figures rdma/reads rdma/fallbacks rdma/registered_bytes)"
    [ "$reads" -gt 0 ] || wrong "nothing was read over RDMA"
    [ "$fallbacks" = 0 ] || wrong "TCP was used"
    # Of each server: 9/32 of 96 MiB of buffers, and 6.4 MiB for each of three threads.
    [ "$registered" -gt $((3 << 20)) ] && [ "$registered" -le $((3 * (27 + 20) << 20)) ] || wrong "$registered bytes registered"
    for pid in $(pids); do
        peak=$(most_resident "$pid")
        say "server process $pid: at most $peak KiB resident"
        [ "$peak" -le $(((27 + 20 + 25) << 10)) ] || wrong "a server with 27 MiB of buffers had $peak KiB"
    done
}

# Memory does not grow with what is moved: after a burst three more of the same take next to none. They move 24 MiB into a server and 24 MiB out of it, so
# half of either would show; some MiB of the pool may be touched for the first time. PEAKS: what each server has had after the first.
PEAKS=()
bounded() {
    local pid now at round before; before=$(figure rdma/read_bytes)
    burst bounded -b 12m || wrong "a burst that warms up: $(tail -3 $B/bounded.txt)"
    for pid in $(pids); do PEAKS+=("$(most_resident "$pid")"); done
    for round in 1 2 3; do
        burst bounded -b 12m || wrong "burst $round of three: $(tail -3 $B/bounded.txt)"
    done
    say "$((($(figure rdma/read_bytes) - before) >> 20)) MiB read from clients' memory"
    at=0
    for pid in $(pids); do
        now=$(most_resident "$pid")
        say "server process $pid: at most ${PEAKS[at]} KiB resident, $now KiB after three bursts more"
        [ "$now" -le $((PEAKS[at] + (12 << 10))) ] || wrong "a server's memory grows with what it moves: ${PEAKS[at]} KiB, then $now KiB"
        at=$((at + 1))
    done
}

# And not with what goes wrong: servers that were killed, started again, or had to use TCP have had little more, and nothing is in use.
bounded_still() {
    local pid now at=0
    for pid in $(pids); do
        now=$(most_resident "$pid")
        say "server process $pid after $1: at most $now KiB resident"
        [ "$now" -le $((PEAKS[at] + (24 << 10))) ] || wrong "memory grows when things fail: ${PEAKS[at]} KiB, then $now KiB"
        at=$((at + 1))
    done
    buffers_are_back
}

# A server dies by SIGKILL in the middle of a burst, and is started again; the burst ends well, and what it wrote is right.
killed() {
    local victim burst before; before=$(packets)
    victim=$(pids | tail -1)
    burst during -b 24m -i $ROUNDS & burst=$!
    # 48 MiB written and 48 read, each sent and received here.
    under_way $burst "$before" 192
    kill -9 "$victim"
    runs $burst
    sleep 1
    h up --restart >/dev/null 2>&1 || wrong "up --restart"
    if wait $burst; then say "a burst went on after the kill of server process $victim"; else wrong "the burst after a kill: $(tail -3 $B/during.txt)"; fi
    burst after -b 2m || wrong "a burst after the restart: $(tail -3 $B/after.txt)"
}

# The device's link goes down in the middle of a burst, which ends well over TCP while it is down, with a warning; and so does one when it is up again, over whichever way there is.
link_down() {
    local burst before moved; moved=$(figure rdma/read_bytes) before=$(packets)
    burst broken -b 24m -i $ROUNDS & burst=$!
    under_way $burst "$before" 192
    ip link set dum0 down
    runs $burst
    if wait $burst; then say "a burst ended well with the link down"; else wrong "the burst when the link went down: $(tail -3 $B/broken.txt)"; fi
    moved=$(($(figure rdma/read_bytes) - moved))
    [ $moved -lt $((48 * ROUNDS << 20)) ] || wrong "all had gone over RDMA when the link went down"
    burst tcp -b 2m || wrong "a burst with the link down: $(tail -3 $B/tcp.txt)"
    say "warnings: $(grep -c 'no RDMA; going on over TCP' $B/broken.txt) of the client, $(logs | grep -c 'no RDMA; going on over TCP') of three servers"
    { cat $B/broken.txt; logs; } | grep 'no RDMA; going on over TCP' >/dev/null || wrong "nobody said that TCP is used"
    h status | grep -q "RDMA.*$DEVICE.*DOWN" || wrong "status does not show that the port is down: $(h status | grep RDMA)"
    h status | grep -q "RDMA (TCP now).*$DEVICE.*DOWN" || wrong "status does not say that TCP is used: $(h status | grep RDMA)"
    ip link set dum0 up
    before=$(figure rdma/reads)
    burst again -b 4m || wrong "a burst with the link up again: $(tail -3 $B/again.txt)"
    # Not a failure: whether rdma_cm comes back after a link that was down is the device's affair, and soft-RoCE has not been seen to.
    say "with the link up again: $(($(figure rdma/reads) - before)) reads over RDMA. $(grep -h 'no RDMA' $B/again.txt | head -1)"
    logs | grep -q 'panicked' && wrong "a panic: $(logs | grep panicked | head -3)"
}

# Where the libraries are not, the same program works over TCP and says why: here they are hidden by empty files.
without_libraries() {
    cat >$B.hidden <<'END'
for library in $(ldconfig -p | sed -n 's/.*lib\(ibverbs\|rdmacm\)\.so\.1 .* => //p'); do mount --bind /dev/null "$(readlink -f "$library")"; done
"$HAYATE" --cluster $CLUSTER up --nodes 1 --store $B/store --memory 96M --workers 1 --listen $LISTEN >$B/up.txt 2>&1 || exit
"$HAYATE" --cluster $CLUSTER status
"$HAYATE" --cluster $CLUSTER down --discard >$B/down.txt 2>&1
END
    rm -rf $B; mkdir -p $B
    HAYATE=$HAYATE CLUSTER=$CLUSTER B=$B LISTEN=$LISTEN unshare --mount bash $B.hidden >$B/hidden.txt 2>&1 || wrong "without the libraries: $(tail -qn 3 $B/up.txt $B/down.txt)"
    say "without the libraries: $(grep 'has no RDMA' $B/hidden.txt)"
    grep -q 'has no RDMA: no RDMA libraries on this node' $B/hidden.txt || wrong "status does not say why: $(cat $B/hidden.txt)"
}

# Servers that may lock next to no memory say so, with what to do, and use TCP.
too_little_locked() {
    local warned
    rm -rf $B; mkdir -p $B
    (ulimit -l 64; setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock \
        "$HAYATE" --cluster $CLUSTER up --nodes 2 --store $B/store --memory 96M --workers 1 --listen $LISTEN --no-metrics) >$B/up.txt 2>&1 ||
        { wrong "up with a low limit: $(tail -3 $B/up.txt)"; return; }
    burst locked -b 2m || wrong "a burst with a low limit: $(tail -3 $B/locked.txt)"
    warned=$(logs | grep -c 'WARN.*RLIMIT_MEMLOCK is too low.*ulimit -l')
    say "with 64 KiB that may be locked: $(figure rdma/connections) connections over RDMA, $warned warnings of two servers"
    [ "$warned" = 2 ] || wrong "not a warning each: $(logs | grep WARN | head -5)"
    h status | grep -q 'has no RDMA: RLIMIT_MEMLOCK is too low: RDMA may register .*ulimit -l' || wrong "status does not say why: $(h status | grep RDMA)"
    h down --discard >/dev/null 2>&1 || wrong "down with a low limit"
}

device_up || { wrong "no soft-RoCE"; exit 1; }
mkdir -p $B
protocol
without_libraries
too_little_locked
compare
if up --rdma auto; then
    bounded
    killed
    bounded_still "the kill"
    link_down
    bounded_still "the link's fall"
    logs >/out/servers.log
    h down --discard >/dev/null 2>&1 || wrong "down at the end"
else
    wrong "up"
fi
exit $STATUS
