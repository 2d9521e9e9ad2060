#!/bin/bash
# Runs in the guest as root; tests/e2e/rdma.sh starts it. The host's files are visible at their own paths, read-only; /out comes back.
#
# One node, three servers, one device: soft-RoCE, and in its place in the end soft-iWARP. Clients run under another host name, so servers are other nodes to them.
# `steps=` names what is done: functions of this file, by default all.
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

# Soft-iWARP has the interface's place from now on.
change_device() {
    rdma link delete rxe0
    rdma link add siw0 type siw netdev dum0 || { wrong "no soft-iWARP"; exit 1; }
    DEVICE=siw0
    say "$(rdma link show | grep siw0), $(</sys/class/infiniband/siw0/node_type)"
}

up() {
    rm -rf $B; mkdir -p $B/tier
    h up --nodes 3 --store $B/store --tier $B/tier --memory 96M --workers 1 --listen $LISTEN "$@" >/dev/null || return 1
}
pids() { sed -n 's/^pid = //p' $B/c.toml; }
logs() { cat /tmp/hayate-0/*/*.log; }
# Processor ticks of the whole machine that were not idle.
busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }

# Of the crate's own tests only those that want a device, and none that are about TCP alone. Over iWARP a thread has 64 ends of connections, of which one test
# wants 88; and soft-iWARP takes 80 bytes within a request, which no frame is.
filter() {
    case ${1##*/} in
        fs_net-*) echo rdma:: ;;
        limits-*) echo --skip who_reads_no_answers --skip half_a_message; [ $DEVICE = rxe0 ] || echo --skip a_greedy_client ;;
        rdma-*) [ $DEVICE = rxe0 ] || echo --skip small_messages_are_within ;;
    esac
}

protocol() {
    local test from
    [ -n "${TESTS:-}" ] || wrong "no programs of fs-net's tests"
    for test in ${TESTS//,/ }; do
        from=$(seconds)
        HAYATE_TEST_SKIPS=$B.skips HAYATE_TEST_RDMA=$ADDRESS timeout 150 "$test" --test-threads=1 $(filter "$test") >$B.test 2>&1 ||
            { wrong "protocol tests over $DEVICE of ${test##*/}"; grep -aE '^test .*FAILED|panicked' -A3 $B.test | head -20; }
        grep -aqE '^test result: ok\. [1-9][0-9]* passed' $B.test || wrong "no test of ${test##*/} passed: $(tail -3 $B.test)"
        say "protocol tests over $DEVICE, ${test##*/}: $(grep -a '^test result' $B.test | cut -d' ' -f3-5) in $(took "$from")"
    done
    ! grep -a 'no RDMA device' $B.skips 2>/dev/null || wrong "tests did not use the device"
}

# What bursts cost by one way, in arrays by way.
declare -A COPIED FRAMES SENDS MESSAGES READS RETRIES TIME TICKS SMALL SMALL_MESSAGES REGISTERED RESIDENT
# measure WAY OPTION: bursts over servers that have RDMA by this option. 36 MiB are written and as many read, 1 MiB at a time, then 1 MiB 4 KiB at a time.
measure() {
    local way=$1 from before bytes messages
    up --rdma "$2" || { wrong "up --rdma $2"; return; }
    burst warm -b 2m || wrong "the first burst over $way: $(tail -3 $B/warm.txt)"
    from=$(seconds) before=$(busy)
    burst big -b 16m || wrong "a burst over $way: $(tail -3 $B/big.txt)"
    TIME[$way]=$(awk -v a="$from" -v b="$(seconds)" 'BEGIN { printf "%.1f", b - a }') TICKS[$way]=$(($(busy) - before))
    read -r "COPIED[$way]" "FRAMES[$way]" "SENDS[$way]" "MESSAGES[$way]" "READS[$way]" bytes "RETRIES[$way]" \
        <<<"$(figures copied_bytes messages_received write_calls rdma/messages_received rdma/reads rdma/read_bytes rdma/retries)"
    READS[$way]+=" ($((bytes >> 20)) MiB)"
    burst small -b 512k -t 4k || wrong "small transfers over $way: $(tail -3 $B/small.txt)"
    SMALL[$way]=$(awk '($1 == "write" || $1 == "read") && !seen[$1]++ { printf "%s%.0f", sep, $2 * 256; sep = ", " }' $B/small.txt)
    read -r messages "REGISTERED[$way]" <<<"$(figures rdma/messages_received rdma/registered_bytes)"
    SMALL_MESSAGES[$way]=$((messages - MESSAGES[$way]))
    RESIDENT[$way]=$(for pid in $(pids); do most_resident "$pid"; done | sort -n | tail -1)
    [ "$way" = TCP ] || look "$way"
    h down --discard >/dev/null 2>&1 || wrong "down over $way"
}

# What an emulated device can show of RDMA's costs: servers copy less than half of what they do over TCP, and messages are few: 72 transfers of 1 MiB are three
# messages to a server each, or a little more, and 512 of 4 KiB one each, with names, opens and what servers tell each other.
costs_little() {
    local way=$1
    [ $((2 * COPIED[$way])) -lt "${COPIED[TCP]}" ] || wrong "servers copied ${COPIED[$way]} bytes over $way, ${COPIED[TCP]} over TCP"
    [ "${MESSAGES[$way]}" -le $((72 * 4)) ] || wrong "${MESSAGES[$way]} messages over $way for 72 transfers of 1 MiB"
    [ "${SMALL_MESSAGES[$way]}" -le $((512 * 3 / 2)) ] || wrong "${SMALL_MESSAGES[$way]} messages over $way for 512 transfers of 4 KiB"
    say "over $way: ${MESSAGES[$way]} messages to servers for 72 transfers of 1 MiB, ${SMALL_MESSAGES[$way]} for 512 of 4 KiB, ${COPIED[$way]} bytes copied (TCP: ${COPIED[TCP]})"
}

compare() {
    measure TCP off
    measure RoCE $DEVICE
    costs_little RoCE
}

compare_iwarp() {
    measure iWARP $DEVICE
    [ -z "${COPIED[TCP]:-}" ] || costs_little iWARP
}

# The table of docs/performance.md.
row() {
    local way line="| $1 |" what=$2
    declare -n figures_of=$what
    for way in $WAYS; do line+=" ${figures_of[$way]:-} |"; done
    echo "## $line"
}
table() {
    local way WAYS="TCP RoCE"
    [ -n "${COPIED[RoCE]:-}" ] || { wrong "nothing was compared"; return; }
    [ -z "${COPIED[iWARP]:-}" ] || WAYS+=" iWARP"
    declare -A GIB MIB
    for way in $WAYS; do
        # 64 MiB moved are a sixteenth of a GiB.
        GIB[$way]=$((TICKS[$way] * 16 / 100)) MIB[$way]=$(awk -v k="${RESIDENT[$way]}" 'BEGIN { printf "%.1f", k / 1024 }')
        REGISTERED[$way]=$(awk -v b="${REGISTERED[$way]}" 'BEGIN { printf "%.1f", b / 3 / 1048576 }')
    done
    unset 'MESSAGES[TCP]' 'SMALL_MESSAGES[TCP]' 'READS[TCP]' 'RETRIES[TCP]' 'REGISTERED[TCP]' 'RETRIES[iWARP]'
    echo "## | 32 MiB written, read and compared, after a burst of 4 MiB |$(for way in $WAYS; do echo -n " $way |"; done)"
    echo "## |---|$(for way in $WAYS; do echo -n "---|"; done)"
    row "bytes that servers copied on the way" COPIED
    row "frames received by servers" FRAMES
    row "sends (system calls, or requests to the device) of servers" SENDS
    row "messages over RDMA, received by servers" MESSAGES
    row "the same of 512 transfers of 4 KiB" SMALL_MESSAGES
    row "parts read from clients' memory by RDMA READ" READS
    row "packets sent again, by the device, from the guest's start on" RETRIES
    row "time, guest's clock, s" TIME
    row "processor time of the guest, per GiB moved (written and read), s" GIB
    row "4 KiB at a time, two clients: writes, reads a second" SMALL
    row "registered memory of a server at the end, MiB" REGISTERED
    row "most resident memory of a server, MiB" MIB
}

# Whether the servers' metrics pages, together, count what went over RDMA.
pages() { python3 - $DEVICE $(sed -n 's/^metrics = "\(.*\)"/\1/p' $CLUSTER) <<'END'
import sys, urllib.request
sums = {}
device = sys.argv[1]
for address in sys.argv[2:]:
    page = urllib.request.urlopen(f"http://{address}/metrics", timeout=20).read().decode()
    for line in page.splitlines():
        if line.startswith("hayate_rdma_"):
            name, value = line.rsplit(" ", 1)
            sums[name] = sums.get(name, 0) + float(value)
busy = ["messages_sent_total", "messages_received_total", "sent_bytes_total", "received_bytes_total", "reads_total", "read_bytes_total",
        "registrations_total", "registered_bytes"] + ["inline_messages_total"] * (device == "rxe0")
busy += [f'port_{figure}_total{{device="{device}",port="1"}}' for figure in ("connections", "sent_bytes", "received_bytes", "read_bytes")]
calm = ["connections", "retries_total", "fallbacks_total", "returns_total", "lost_peers", "looks_total", "hits_total"]
wrong = [name for name in busy if not sums.get("hayate_rdma_" + name)] + [name for name in calm if "hayate_rdma_" + name not in sums]
print("## metrics:", *(f"{name} {sums.get('hayate_rdma_' + name, 0):.0f}" for name in busy + calm))
sys.exit(f"## not counted: {wrong}" if wrong else 0)
END
}

# What status says of a cluster over RDMA, and how much memory its servers have.
look() {
    local pid peak registered reads fallbacks most=$((27 + 20))
    # Of each server: 9/32 of 96 MiB of buffers, and 6.4 MiB for each of three threads; with iWARP buffers twice, for lending and for reading into, and 10.7 MiB.
    [ "$1" = RoCE ] || most=$((2 * 27 + 33))
    h status >$B/status.txt
    grep -E "between nodes|RDMA" $B/status.txt | sed 's/^/## /'
    grep -q "RDMA.*$DEVICE.*ACTIVE.*$ADDRESS" $B/status.txt || wrong "status does not show the device"
    pages || wrong "metrics pages do not show RDMA"
    read -r reads fallbacks registered <<<"$(figures rdma/reads rdma/fallbacks rdma/registered_bytes)"
    [ "$reads" -gt 0 ] || wrong "nothing was read over RDMA"
    [ "$fallbacks" = 0 ] || wrong "TCP was used"
    [ "$registered" -gt $((3 << 20)) ] && [ "$registered" -le $((3 * most << 20)) ] || wrong "$registered bytes registered"
    for pid in $(pids); do
        peak=$(most_resident "$pid")
        say "server process $pid: at most $peak KiB resident"
        [ "$peak" -le $(((most + 25) << 10)) ] || wrong "a server with 27 MiB of buffers had $peak KiB"
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

# The device's link goes down in the middle of a burst, which ends well over TCP while it is down, with a warning; and so does one when it is up again.
# link_down must|may: whether that one must be over RDMA. Soft-RoCE's rdma_cm is dead by then (decision 0035), soft-iWARP's is not.
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
    moved=$(($(figure rdma/reads) - before))
    say "with the link up again: $moved reads over RDMA. $(grep -h 'no RDMA' $B/again.txt | head -1)"
    [ "$1" = may ] || [ $moved -gt 0 ] || wrong "the link is up, and nothing goes over RDMA: $(logs | grep 'no RDMA' | tail -3)"
    logs | grep -q 'panicked' && wrong "a panic: $(logs | grep panicked | head -3)"
}

# A link that is gone for a moment, with nothing but the servers' own messages under way, is nobody's loss: connections stay, and what follows is over RDMA.
link_blinks() {
    local before lost now_lost now; read -r before lost <<<"$(figures rdma/reads rdma/fallbacks)"
    ip link set dum0 down
    ip link set dum0 up
    burst blink -b 4m || wrong "a burst after the link was down for a moment: $(tail -3 $B/blink.txt)"
    read -r now now_lost <<<"$(figures rdma/reads rdma/fallbacks)"
    say "after a link that was down for a moment: $((now - before)) reads over RDMA, $((now_lost - lost)) fall-backs"
    [ "$now" -gt "$before" ] && [ "$now_lost" = "$lost" ] || wrong "no RDMA after a link that was down for a moment: $(logs | grep 'no RDMA' | tail -3)"
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

# What servers and bursts survive.
faults() {
    if ! up --rdma auto; then wrong "up"; return; fi
    bounded
    link_blinks
    killed
    bounded_still "the kill"
    link_down may
    bounded_still "the link's fall"
    logs >/out/servers.log
    h down --discard >/dev/null 2>&1 || wrong "down at the end"
}

# Over iWARP links come back, too.
faults_iwarp() {
    PEAKS=()
    if ! up --rdma auto; then wrong "up over iWARP"; return; fi
    bounded
    link_down must
    bounded_still "the link's fall, over iWARP"
    logs >/out/servers-iwarp.log
    h down --discard >/dev/null 2>&1 || wrong "down over iWARP"
}

# The least that shows that RDMA works: for a run that has little time.
smoke() {
    if ! up --rdma $DEVICE; then wrong "up --rdma $DEVICE"; return; fi
    burst smoke -b 4m || wrong "a burst: $(tail -3 $B/smoke.txt)"
    say "8 MiB written, read and compared: $(figure rdma/reads) parts read over RDMA, $(figure rdma/fallbacks) fall-backs"
    [ "$(figure rdma/reads)" -gt 0 ] && [ "$(figure rdma/fallbacks)" = 0 ] || wrong "the burst was not over RDMA"
    h down --discard >/dev/null 2>&1 || wrong "down"
}

device_up || { wrong "no soft-RoCE"; exit 1; }
mkdir -p $B
STEPS=${STEPS:-protocol,without_libraries,too_little_locked,compare,faults,change_device,protocol,compare_iwarp,faults_iwarp,table}
for step in ${STEPS//,/ }; do
    from=$(seconds)
    $step
    say "$step took $(took "$from")"
done
say "the guest has ended"
exit $STATUS
