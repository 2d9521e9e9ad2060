#!/usr/bin/env bash
# Goal: servers started on hosts of a hostfile by the real mpirun (of each MPI that is installed) and by the real ssh make a cluster: files are
# written and read back, a killed server is started again by the same launcher, a drain brings everything to the tier, and nothing stays.
# Method: the hosts are names of this machine. ssh goes to an sshd of this test, on a free port, with keys and configuration of its own;
# what MPI starts through ssh goes there, too. `crates/cli/tests/launchers.rs` has stand-ins for srun and pbsdsh, which need their batch systems.
. "$(dirname "$0")/lib.sh"
need python3 cmp
begin launcher
SSHD=$(command -v sshd || ls /usr/sbin/sshd 2>/dev/null || true)
MISSING=()
expect_dead_neighbour

# Any name of this machine that resolves will do.
hosts() {
    local host
    for host in localhost 127.0.0.1 "$(hostname)"; do
        ! getent hosts "$host" >/dev/null || echo "$host"
    done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Our ssh is the real one with a configuration of this test: its own keys, its own server.
start_sshd() {
    local dir=$BOX/ssh port
    port=$(free_port)
    mkdir -p -m 700 "$dir"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/host" && ssh-keygen -q -t ed25519 -N '' -f "$dir/user"
    cat >"$dir/sshd_config" <<END
Port $port
ListenAddress 0.0.0.0
HostKey $dir/host
PidFile none
AuthorizedKeysFile $dir/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers $(id -un)
END
    cat >"$dir/config" <<END
Host *
    Port $port
    IdentityFile $dir/user
    IdentitiesOnly yes
    UserKnownHostsFile $dir/known
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking accept-new
    LogLevel ERROR
END
    printf '#!/bin/sh\nexec %s -F %s "$@"\n' "$(command -v ssh)" "$dir/config" >"$BOX/bin/ssh"
    chmod 755 "$BOX/bin/ssh"
    # An empty directory that sshd insists on when root runs it. It stays: another run of this test may need it now.
    ! is_root || mkdir -p -m 755 /run/sshd
    "$SSHD" -D -e -f "$dir/sshd_config" 2>"$dir/log" & CHILDREN+=($!)
    disown $!
    until_true 10 "sshd: $(tail -n 2 "$dir/log" 2>&1)" answers "$port"
}

answers() { { : >"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null; }

# Whether ssh lets this user in: an account may be locked, or the system may have no shell for it.
ssh_works() {
    local said
    said=$("$BOX/bin/ssh" -n -o BatchMode=yes localhost echo in 2>&1)
    [ "$said" = in ] || { MISSING+=("ssh to this machine: $(head -1 <<<"$said"), $(tail -1 "$BOX/ssh/log")"); return 1; }
}

# Processes of cluster $1: servers, and launchers that stay with them.
processes_of() {
    local file
    for file in $(grep -lsF "$BOX/$1/" /proc/[0-9]*/cmdline 2>/dev/null | grep -v "/$$/"); do
        { tr "\0" " " <"$file"; } 2>/dev/null || true
    done
}
none_of() { [ -z "$(processes_of "$1")" ]; }

# life NAME LAUNCHER: a whole life of a cluster.
life() {
    local name=$1 launcher=$2 home=$BOX/$1 count pid
    CLUSTERS+=("$name")
    mkdir -p "$home/tier" "$home/shared" "$home/in"
    head -c 5000000 /dev/urandom >"$home/in/large"
    echo small >"$home/in/small"
    h "$name" up --hostfile "$BOX/hosts" --launcher "$launcher" --rendezvous "$home/shared" --store "$home/store" --tier "$home/tier" \
        >"$home/up" 2>&1 || fail "up by $name: $(cat "$home/up")"
    keep_logs "$name"
    count=$(h "$name" status | grep -c ' up ') || true
    [ "$count" = "$(wc -l <"$BOX/hosts")" ] || fail "$name: $count servers are up: $(h "$name" status)"
    h "$name" cp -r "$home/in" h:/run
    pid=$(server_pid "$name" 1)
    runs "$pid" "$(job "$name")" || runs "$pid" "$home/shared" || fail "$name: server 1 is not process $pid"
    kill -KILL "$pid"
    h "$name" up --restart >"$home/up" 2>&1 || fail "up --restart by $name: $(cat "$home/up")"
    h "$name" cp -r h:/run "$home/out"
    diff -r "$home/in" "$home/out" >/dev/null || fail "$name: what was read back differs"
    drain "$name"
    diff -r "$home/in" "$home/tier/run" >/dev/null || fail "$name: the tier differs"
    until_true 20 "the end of what $name started: $(processes_of "$name")" none_of "$name"
    [ -z "$(ls -A "$home/shared")" ] || fail "$name left $(ls -A "$home/shared")"
    note "$count servers by $name"
}

by_mpi() {
    local program number=0
    open_mpi_runs
    for program in $(each_mpirun); do
        number=$((number + 1))
        printf '#!/bin/sh\nexec %s "$@"\n' "$program" >"$BOX/bin/mpirun"
        chmod 755 "$BOX/bin/mpirun"
        timed "$program" life "by-mpi$number" mpirun
    done
    [ $number -gt 0 ] || MISSING+=("mpirun is not installed")
}

by_ssh() {
    if ! command -v ssh >/dev/null || [ -z "$SSHD" ]; then
        MISSING+=("ssh or sshd is not installed")
        return
    fi
    start_sshd
    ! ssh_works || timed "ssh" life by-ssh ssh
}

mkdir "$BOX/bin"
export PATH=$BOX/bin:$PATH
hosts >"$BOX/hosts"
by_ssh
by_mpi
passed
[ ${#MISSING[@]} = 0 ] || skip "shown with the launchers that are here; $(IFS=';'; echo "${MISSING[*]}")"
