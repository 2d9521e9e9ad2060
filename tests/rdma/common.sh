# What both jobs in guests share; sourced. Words of the kernel's command line: hayate=PROGRAM tests=TEST-PROGRAM[,TEST-PROGRAM...] rounds=N
# steps=STEP[,STEP...]
set -u
ROUNDS=1
for word in $(</proc/cmdline); do
    case $word in hayate=*) HAYATE=${word#hayate=} ;; tests=*) TESTS=${word#tests=} ;; rounds=*) ROUNDS=${word#rounds=} ;; steps=*) STEPS=${word#steps=} ;; esac
done
STATUS=0
ulimit -l unlimited

# Each line says how old the guest is, in seconds.
say() { echo "## $(seconds) $*"; }
wrong() { echo "## $(seconds) FAIL: $*"; STATUS=1; }
seconds() { local up _; read -r up _ </proc/uptime; echo "$up"; }
# took FROM
took() { awk -v a="$1" -v b="$(seconds)" 'BEGIN { printf "%.0f s", b - a }'; }

# The cluster's file is $CLUSTER.
h() { "$HAYATE" --cluster "$CLUSTER" "$@"; }
# Bursts that a fault is to hit are repeated ROUNDS times: more where guests are fast.
# burst NAME OPTION...: write, read, compare, as from another node, unless HOST is this one's name. Sizes are small because all is emulated.
burst() {
    local name=$1; shift
    case "$*" in *-t*) ;; *) set -- -t 1m "$@" ;; esac
    timeout "${PATIENCE:-60}" unshare --uts bash -c 'hostname "$0"; exec "$@"' "${HOST:-far}" \
        "$HAYATE" --cluster "$CLUSTER" bench ior -a HAYATE -w -r -R -N 2 -o "/$name" "$@" >"$WORDS/$name.txt" 2>&1
}
# figures POINTER...: of each the sum over all servers, from one status of them.
figures() { h status --json | python3 -c '
import json, sys
servers = [server.get("status", {}) for server in json.load(sys.stdin)["servers"]]
def figure(value, pointer):
    for word in pointer.split("/"):
        value = value.get(word, {}) if isinstance(value, dict) else {}
    return value if isinstance(value, int) else 0
print(*(sum(figure(server, pointer) for server in servers) for pointer in sys.argv[1:]))' "$@"; }
figure() { figures "$1"; }
# packets: what this node's devices have sent and received. Read at once: under load a status takes as long as a burst. Soft-iWARP does not count; what
# it does between ends on one node goes over lo, sent and received at once.
packets() {
    local file count sum=0
    for file in /sys/class/infiniband/rxe*/ports/1/hw_counters/{sent,rcvd}_pkts; do
        [ -e "$file" ] || continue
        read -r count <"$file" && sum=$((sum + count))
    done
    if [ -e /sys/class/infiniband/siw0 ]; then
        read -r count </sys/class/net/lo/statistics/tx_bytes && sum=$((sum + count / 2048))
    fi
    echo $sum
}
# under_way PID BEFORE MIB: waits until packets of some MiB have gone since BEFORE. Of a burst whose rounds are MIB here, sent and received, half must be missing
# then: a fault after its end would show nothing. A packet has 4 KiB of data.
under_way() {
    local now
    until now=$(packets); [ "$now" -gt $(($2 + 3 * 256)) ]; do
        kill -0 "$1" 2>/dev/null || { wrong "the burst ended before it was seen to run"; return; }
        sleep 0.1
    done
    say "a fault after $((now - $2)) packets of $(($3 * ROUNDS * 256))"
    [ "$now" -lt $(($2 + $3 * ROUNDS * 128)) ] || wrong "most of the burst is over"
    runs "$1"
}
# runs PID: the burst goes on, also right after what was done to it.
runs() { kill -0 "$1" 2>/dev/null || wrong "the burst has ended before the fault"; }
# most_resident PID: KiB.
most_resident() { awk '/^VmHWM/ { print $2 }' "/proc/$1/status"; }
# buffers_are_back: nothing of the pools that data go through is in use when nobody asks for anything. What a peer was lent is given back a little later.
buffers_are_back() {
    local tries=0 used
    until used=$(h status --json | python3 -c '
import json, sys
pools = [pool for server in json.load(sys.stdin)["servers"] for pool in server.get("status", {}).get("pools", [])]
print(*(pool["name"] + " " + str(pool["used"]) for pool in pools))
sys.exit(not pools or any(pool["used"] for pool in pools if pool["name"] == "buffers"))'); do
        tries=$((tries + 1))
        [ $tries -lt 10 ] || { wrong "buffers are in use with nothing to do: $used"; return; }
        sleep 1
    done
    say "pools in use: $used"
}
