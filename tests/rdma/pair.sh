#!/bin/bash
# Runs in both of two guests as root; tests/e2e/rdma.sh starts them. The host's files are visible at their own paths, read-only;
# both see /share, where node 1 leaves its orders: for node 2, and for the host, which holds the cables.
#
# Two nodes, one server each. Three networks between them: two with soft-RoCE devices, one for TCP.
. "$(dirname "$0")/common.sh"
CLUSTER=/share/c.toml
WORDS=/share
OTHER=$((3 - NODE))

network_up() {
    local at
    for at in 0 1 2; do
        ip link set eth$at mtu 9000 up
        ip addr add 10.8$at.0.$NODE/24 dev eth$at
    done
    rdma link add rxe0 type rxe netdev eth0 && rdma link add rxe1 type rxe netdev eth1
    # By these names servers find the network for TCP.
    printf '10.82.0.1 n1\n10.82.0.2 n2\n' >>/etc/hosts
    hostname n$NODE
}

# order SCRIPT: has the other node run it; its output, its exit code.
order() {
    local at=/share/order-$OTHER-$BASHPID-$RANDOM
    printf '%s\n' "$1" >$at.new
    mv $at.new $at.sh
    until [ -e $at.code ]; do sleep 0.1; done
    cat $at.out
    return "$(<$at.code)"
}

# What the other node orders, until it says that it is done.
obey() {
    local at
    until [ -e /share/end ]; do
        for at in /share/order-"$NODE"-*.sh; do
            [ -e "$at" ] || continue
            at=${at%.sh}
            mv "$at.sh" "$at.taken"
            { bash "$at.taken" >"$at.out" 2>&1 </dev/null; echo $? >"$at.c"; mv "$at.c" "$at.code"; } &
        done
        sleep 0.1
    done
}

# `hayate up` starts servers by ssh; here that is an order.
make_ssh() {
    mkdir -p /run/bin
    cat >/run/bin/ssh <<END
#!/bin/bash
NODE=$NODE
. $(dirname "$0")/common.sh
OTHER=$OTHER
$(declare -f order)
host=\${@: -2:1} script=\${@: -1}
if [ "\$host" = n$NODE ]; then exec bash -c "\$script"; fi
order "\$script"
END
    chmod 755 /run/bin/ssh
    export PATH=/run/bin:$PATH
}

# cable DEVICE on|off: of node 2's network, by who holds it.
cable() {
    local at=/share/cable-$RANDOM
    echo "2 n$1 $2" >$at.new
    mv $at.new $at.ask
    until [ -e $at.done ]; do sleep 0.1; done
}

# burst_on NODE HOST NAME OPTION...: a burst from a node, by clients that are of its host or, as `far`, of another.
burst_on() {
    local node=$1 host=$2; shift 2
    if [ "$node" = "$NODE" ]; then HOST=$host burst "$@"; return; fi
    order "HAYATE=$HAYATE; . $(dirname "$0")/common.sh; CLUSTER=$CLUSTER WORDS=$WORDS HOST=$host PATIENCE=${PATIENCE:-60}; burst $*"
}

logs() { cat /share/rendezvous/*/server-*.log; }
# carried: bytes that both servers had over rxe0, and over rxe1.
carried() { h status --json | python3 -c '
import json, sys
servers = [server.get("status", {}).get("rdma", {}) for server in json.load(sys.stdin)["servers"]]
carried = {"rxe0": 0, "rxe1": 0}
for port in (port for rdma in servers for port in rdma.get("ports", [])):
    carried[port["device"]] += sum(port[figure] for figure in ("bytes_sent", "bytes_received", "read_bytes"))
print(carried["rxe0"], carried["rxe1"])'; }
# packets_each: of rxe0 and rxe1.
packets_each() {
    local device sent received
    for device in rxe0 rxe1; do
        read -r sent </sys/class/infiniband/$device/ports/1/hw_counters/sent_pkts
        read -r received </sys/class/infiniband/$device/ports/1/hw_counters/rcvd_pkts
        echo $((sent + received))
    done | paste -sd' '
}
# warned: of each server, how often it has said that TCP has to do.
warned() { for log in /share/rendezvous/*/server-*.log; do grep -c 'no RDMA; going on over TCP' "$log"; done | paste -sd' '; }

up() {
    mkdir /share/rendezvous
    printf 'n1\nn2\n' >/share/hosts
    h up --hostfile /share/hosts --rendezvous /share/rendezvous --store /dev/shm/store --memory 96M --workers 1 --no-metrics >/share/up.txt 2>&1
}

# Two bursts at once, of which both devices carry a part.
both_devices() {
    local from before0 before1 now0 now1 first second; from=$(seconds)
    read -r before0 before1 <<<"$(carried)"
    burst_on 2 far first -b 8m & first=$!
    burst_on 1 n1 second -b 4m & second=$!
    wait $first || wrong "a burst from node 2: $(tail -3 /share/first.txt)"
    wait $second || wrong "a burst by the servers' connection: $(tail -3 /share/second.txt)"
    h status | grep -E "between nodes|RDMA" | sed 's/^/## /'
    say "24 MiB written, read and compared between two nodes in $(took "$from"): $(figure rdma/reads) parts read by RDMA," \
        "$(figure rdma/retries) retries"
    [ "$(figure rdma/reads)" -gt 10 ] || wrong "next to nothing was read over RDMA"
    [ "$(figure rdma/fallbacks)" = 0 ] || wrong "TCP was used"
    read -r now0 now1 <<<"$(carried)"
    say "servers had $((now0 - before0)) bytes over rxe0, $((now1 - before1)) over rxe1"
    [ $((now0 - before0)) -gt $((2 << 20)) ] && [ $((now1 - before1)) -gt $((2 << 20)) ] || wrong "not both devices are used"
}

# A network that loses a hundredth of all packets: the devices send them again, and what comes is right.
lossy() {
    local lose before reads from; before=$(figure rdma/retries) reads=$(figure rdma/read_bytes) from=$(seconds)
    lose='for at in 0 1; do tc qdisc add dev eth$at root netem loss 1% || exit; done'
    bash -c "$lose" && order "$lose" || wrong "no netem"
    burst_on 2 far lossy -b 4m || wrong "a burst over a network with losses: $(tail -3 /share/lossy.txt)"
    say "8 MiB written, read and compared with 1 % of packets lost in $(took "$from"): $(($(figure rdma/retries) - before)) retries," \
        "$(((($(figure rdma/read_bytes) - reads)) >> 10)) KiB read by RDMA, $(figure rdma/fallbacks) times TCP"
    [ "$(figure rdma/retries)" -gt "$before" ] || wrong "nothing was sent again"
    [ $(($(figure rdma/read_bytes) - reads)) -ge $((4 << 20)) ] || wrong "little went over RDMA"
    lose='for at in 0 1; do tc qdisc del dev eth$at root || exit; done'
    bash -c "$lose" && order "$lose" || wrong "the losses stay"
}

# A client of node 1 reads and writes through its own server what lies with the other one: that server copies next to nothing of it.
no_copy() {
    local before after parts; before=$(figure copied_bytes) parts=$(figure rdma/reads)
    burst_on 1 n1 passed -b 4m -t 256k || wrong "a burst through the node's own server: $(tail -3 /share/passed.txt)"
    after=$(figure copied_bytes) parts=$(($(figure rdma/reads) - parts))
    say "8 MiB written and read through the node's own server: $parts parts read by RDMA, $((after - before)) bytes copied by both servers"
    # Half of all lies with the other server: 16 parts written there and 16 read from there, at 256 KiB.
    [ $parts -ge 24 ] || wrong "next to nothing went through"
    [ $((after - before)) -le $((1 << 20)) ] || wrong "data were copied on the way"
}

# SIGKILL of the server of node 2 in the middle of a burst from node 1, and its restart.
killed() {
    local burst before; before=$(packets)
    burst_on 1 far during -b 16m -i $ROUNDS & burst=$!
    # 16 MiB written to the other node and 16 read from there, and the same with this one's server, sent and received.
    under_way $burst "$before" 96
    order "kill -9 $(sed -n 's/^pid = //p' $CLUSTER | tail -1)" || wrong "nothing to kill"
    runs $burst
    sleep 1
    h up --restart >/share/restart.txt 2>&1 || wrong "up --restart: $(tail -3 /share/restart.txt)"
    if wait $burst; then say "a burst went on after the kill of the other node's server"; else wrong "the burst after a kill: $(tail -3 /share/during.txt)"; fi
}

# The cable of the device that carries a burst is pulled: the other device does, not TCP. Then that one's, too: TCP does. Then both are back.
cables() {
    # Each server has had RDMA with the other, so that each has something to lose.
    burst_on 1 n1 both_ways -b 1m || wrong "a burst before the cables: $(tail -3 /share/both_ways.txt)"
    first_cable
    second_cable
    come_back
}

first_cable() {
    local burst before fallbacks carried0 carried1 now0 now1; fallbacks=$(figure rdma/fallbacks)
    WARNED=$(warned)
    read -r carried0 carried1 <<<"$(packets_each)"
    before=$(packets)
    burst_on 2 n2 one -b 16m -i $ROUNDS & burst=$!
    # Half of 32 MiB is written to this node's server, and read from there.
    under_way $burst "$before" 32
    read -r now0 now1 <<<"$(packets_each)"
    OUT=0 LEFT=1
    [ $((now0 - carried0)) -ge $((now1 - carried1)) ] || OUT=1 LEFT=0
    say "the burst goes over rxe$OUT: $((now0 - carried0)) packets over rxe0, $((now1 - carried1)) over rxe1"
    cable $OUT off
    runs $burst
    if wait $burst; then say "a burst ended well with one of two cables out"; else wrong "the burst when a cable was out: $(tail -3 /share/one.txt)"; fi
    before=$(figure rdma/reads)
    burst_on 2 n2 other -b 4m || wrong "a burst over the other device: $(tail -3 /share/other.txt)"
    say "over the device that is left: $(($(figure rdma/reads) - before)) parts read by RDMA"
    [ "$(figure rdma/reads)" -gt "$before" ] || wrong "the other device was not used"
    h status | grep -q "RDMA .*rxe$OUT.*DOWN" || wrong "status does not show the port that is down: $(h status | grep RDMA)"
    ! h status | grep -q 'TCP now' || wrong "status says TCP while a device is left: $(h status | grep RDMA)"
    [ "$(figure rdma/fallbacks)" = "$fallbacks" ] || wrong "TCP was used while a device was left: $(logs | grep 'no RDMA' | tail -3)"
    [ "$(warned)" = "$WARNED" ] || wrong "a warning while a device was left: $(logs | grep 'no RDMA' | tail -3)"
}

second_cable() {
    local burst before now moved expected; moved=$(figure rdma/read_bytes) before=$(packets)
    burst_on 2 n2 both -b 16m -i $ROUNDS & burst=$!
    under_way $burst "$before" 32
    cable $LEFT off
    runs $burst
    if wait $burst; then say "a burst ended well with both cables out"; else wrong "the burst when both cables were out: $(tail -3 /share/both.txt)"; fi
    [ $(($(figure rdma/read_bytes) - moved)) -lt $((32 * ROUNDS << 20)) ] || wrong "all had gone over RDMA when the cables were out"
    burst_on 2 n2 tcp -b 4m || wrong "a burst over TCP: $(tail -3 /share/tcp.txt)"
    burst_on 1 n1 tcp -b 2m || wrong "a burst over TCP the other way: $(tail -3 /share/tcp.txt)"
    h status | grep RDMA | sed 's/^/## /'
    h status | grep -q 'RDMA (TCP now)' || wrong "status does not say that TCP is used: $(h status | grep RDMA)"
    now=$(warned) expected=$(for before in $WARNED; do echo $((before + 1)); done | paste -sd' ')
    say "warnings of each server: $WARNED before the cables, $now now"
    [ "$now" = "$expected" ] || wrong "not one warning each: $(logs | grep 'no RDMA' | head -5)"
}

# Both cables are in again: the servers' connections become ones over RDMA by themselves, without a restart and while calls go on.
come_back() {
    local from before rounds=0; before=$(figure rdma/reads)
    cable 0 on
    cable 1 on
    from=$(seconds)
    until [ "$(figure rdma/reads)" -gt "$before" ] || [ $rounds = 40 ]; do
        rounds=$((rounds + 1))
        burst_on 2 n2 back -b 1m || wrong "a burst with the cables back: $(tail -3 /share/back.txt)"
    done
    say "with the cables back: RDMA again after $(took "$from") and $rounds small bursts, $(figure rdma/returns) returns; $(logs | grep -c 'RDMA again, with all peers') lines say so"
    [ "$(figure rdma/reads)" -gt "$before" ] || wrong "RDMA does not come back"
    [ "$(figure rdma/returns)" -gt 0 ] || wrong "no connection returned to RDMA"
    logs | grep -q 'RDMA again, with all peers' || wrong "nobody says that RDMA is back"
}

# peak NODE: most resident memory of its server, KiB.
peak() {
    local look; look="awk '/^VmHWM/ { print \$2 }' /proc/$(sed -n 's/^pid = //p' $CLUSTER | sed -n ${1}p)/status"
    if [ "$1" = 1 ]; then bash -c "$look"; else order "$look"; fi
}

# Memory does not grow with what is moved, as with one guest: 24 MiB into each server and 24 MiB out of it.
PEAKS=()
bounded() {
    local node now round
    burst_on 2 far bounded -b 8m || wrong "a burst that warms up: $(tail -3 /share/bounded.txt)"
    PEAKS=("$(peak 1)" "$(peak 2)")
    for round in 1 2 3; do
        burst_on 2 far bounded -b 8m || wrong "burst $round of three: $(tail -3 /share/bounded.txt)"
    done
    for node in 1 2; do
        now=$(peak $node)
        say "server of node $node: at most ${PEAKS[node - 1]} KiB resident, $now KiB after three bursts more"
        [ "$now" -gt 8192 ] && [ "$now" -le $((PEAKS[node - 1] + (12 << 10))) ] || wrong "memory grows with what is moved: ${PEAKS[node - 1]} KiB, then $now KiB"
    done
}

# And not with what goes wrong.
bounded_still() {
    local node now
    for node in 1 2; do
        now=$(peak $node)
        say "server of node $node at the end: at most $now KiB resident"
        [ "$now" -gt 8192 ] && [ "$now" -le $((PEAKS[node - 1] + (24 << 10))) ] || wrong "memory grows when things fail: ${PEAKS[node - 1]} KiB, then $now KiB"
    done
    buffers_are_back
}

mkdir -p /share
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share /share || exit 1
network_up || { wrong "no soft-RoCE"; exit 1; }
make_ssh
touch /share/ready-"$NODE"
if [ "$NODE" = 2 ]; then
    obey
    exit $STATUS
fi
until [ -e /share/ready-2 ]; do sleep 0.2; done
if up; then
    both_devices
    no_copy
    bounded
    lossy
    killed
    cables
    bounded_still
    logs | grep -q panicked && wrong "a panic: $(logs | grep panicked | head -3)"
    h down --discard >/share/down.txt 2>&1 || wrong "down at the end: $(tail -3 /share/down.txt)"
    say "the pair has ended"
else
    wrong "up: $(tail -5 /share/up.txt)"
fi
touch /share/end
exit $STATUS
