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
# opened DEVICE: connections over it since the start of both servers.
opened() { h status --json | python3 -c '
import json, sys
ports = [port for server in json.load(sys.stdin)["servers"] for port in server["status"]["rdma"]["ports"]]
print(sum(port["opened"] for port in ports if port["device"] == sys.argv[1]))' "$1"; }

up() {
    mkdir /share/rendezvous
    printf 'n1\nn2\n' >/share/hosts
    h up --hostfile /share/hosts --rendezvous /share/rendezvous --store /dev/shm/store --memory 96M --workers 1 --no-metrics >/share/up.txt 2>&1
}

both_devices() {
    local from tries=0; from=$(seconds)
    burst_on 2 far first -b 8m || wrong "a burst from node 2: $(tail -3 /share/first.txt)"
    burst_on 1 n1 second -b 4m || wrong "a burst by the servers' connection: $(tail -3 /share/second.txt)"
    h status | grep -E "between nodes|RDMA" | sed 's/^/## /'
    say "24 MiB written, read and compared between two nodes in $(took "$from"): $(figure rdma/reads) parts read by RDMA," \
        "$(figure rdma/retries) retries"
    [ "$(figure rdma/reads)" -gt 10 ] || wrong "next to nothing was read over RDMA"
    [ "$(figure rdma/fallbacks)" = 0 ] || wrong "TCP was used"
    # Each process begins with a random one of the other side's devices: every status is another process.
    until { [ "$(opened rxe0)" -gt 0 ] && [ "$(opened rxe1)" -gt 0 ]; } || [ $tries = 20 ]; do tries=$((tries + 1)); done
    say "connections until now: $(opened rxe0) over rxe0, $(opened rxe1) over rxe1"
    [ $tries -lt 20 ] || wrong "not both devices are used"
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
    local burst before; before=$(figure rdma/reads)
    burst_on 1 far during -b 16m & burst=$!
    under_way $burst rdma/reads "$before"
    order "kill -9 $(sed -n 's/^pid = //p' $CLUSTER | tail -1)" || wrong "nothing to kill"
    sleep 1
    h up --restart >/share/restart.txt 2>&1 || wrong "up --restart: $(tail -3 /share/restart.txt)"
    if wait $burst; then say "a burst went on after the kill of the other node's server"; else wrong "the burst after a kill: $(tail -3 /share/during.txt)"; fi
}

# One device's cable is pulled in the middle of a burst: the other device does. Then that one's, too: TCP does. Then both are back.
cables() {
    local burst before warned; before=$(figure rdma/reads)
    burst_on 2 n2 one -b 16m & burst=$!
    under_way $burst rdma/reads "$before"
    cable 0 off
    if wait $burst; then say "a burst ended well with one of two cables out"; else wrong "the burst when a cable was out: $(tail -3 /share/one.txt)"; fi
    before=$(figure rdma/reads)
    burst_on 2 n2 other -b 4m || wrong "a burst over the other device: $(tail -3 /share/other.txt)"
    say "over the device that is left: $(($(figure rdma/reads) - before)) parts read by RDMA"
    [ "$(figure rdma/reads)" -gt "$before" ] || wrong "the other device was not used"
    h status | grep -q 'RDMA.*rxe0.*DOWN' || wrong "status does not show the port that is down: $(h status | grep RDMA)"
    burst_on 2 n2 both -b 16m & burst=$!
    under_way $burst rdma/reads "$(figure rdma/reads)"
    cable 1 off
    if wait $burst; then say "a burst ended well with both cables out"; else wrong "the burst when both cables were out: $(tail -3 /share/both.txt)"; fi
    burst_on 2 n2 tcp -b 4m || wrong "a burst over TCP: $(tail -3 /share/tcp.txt)"
    warned=$(logs | grep -c 'no RDMA; going on over TCP')
    say "warnings of two servers: $warned"
    [ "$warned" -ge 1 ] && [ "$warned" -le 4 ] || wrong "not one warning each: $(logs | grep 'no RDMA' | head -5)"
    come_back
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

memory() {
    local node peak look
    for node in 1 2; do
        look="awk '/^VmHWM/ { print \$2 }' /proc/$(sed -n 's/^pid = //p' $CLUSTER | sed -n ${node}p)/status"
        if [ $node = 1 ]; then peak=$(bash -c "$look"); else peak=$(order "$look"); fi
        say "server of node $node: at most $peak KiB resident"
        [ "$peak" -gt 8192 ] && [ "$peak" -le $(((96 + 20 + 60) << 10)) ] || wrong "a server of 96 MiB had $peak KiB"
    done
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
    killed
    cables
    memory
    logs | grep -q panicked && wrong "a panic: $(logs | grep panicked | head -3)"
    h down --discard >/share/down.txt 2>&1 || wrong "down at the end: $(tail -3 /share/down.txt)"
    say "the pair has ended"
else
    wrong "up: $(tail -5 /share/up.txt)"
fi
touch /share/end
exit $STATUS
