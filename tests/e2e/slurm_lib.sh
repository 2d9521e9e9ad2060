# A Slurm of one node, for tests that start something by the real srun: munged, slurmctld and slurmd of this test, with keys, ports, state and
# logs in $BOX/slurm. Source it after lib.sh, call `slurm_up`; `finish` ends what it started.

# What is missing for it; nothing if all is there.
slurm_missing() {
    local tool
    is_root || { echo "slurmd needs root"; return; }
    for tool in munged slurmctld slurmd srun sinfo; do
        # Servers are where only root looks.
        PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || { echo "$tool is not installed"; return; }
    done
}

# Two ports that nobody has.
slurm_ports() {
    python3 - <<'PY'
import socket
held = [socket.socket() for _ in range(2)]
for each in held:
    each.bind(("127.0.0.1", 0))
print(*[each.getsockname()[1] for each in held])
PY
}

# slurm_up: afterwards srun starts up to 16 tasks here.
slurm_up() {
    local dir=$BOX/slurm node ports
    node=$(hostname -s)
    read -r -a ports < <(slurm_ports)
    mkdir -p "$dir/state" "$dir/spool" "$dir/munge"
    head -c 1024 /dev/urandom >"$dir/munge/key"
    chmod 400 "$dir/munge/key"
    # More processors than there are: tests start more tasks than that.
    cat >"$dir/slurm.conf" <<END
ClusterName=hayate
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/linear
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
    export SLURM_CONF=$dir/slurm.conf PATH=$PATH:/usr/sbin
    # Munge insists on owners and modes of all directories above its socket, which /tmp does not have.
    slurm_start munged --foreground --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
    until_true 10 "munged, which wrote $dir/munged.out" test -S "$dir/munge/socket"
    slurm_start slurmctld -D -f "$SLURM_CONF"
    slurm_start slurmd -D -f "$SLURM_CONF"
    until_true 30 "the node of Slurm; its servers write $dir/slurm*.log" slurm_is_idle
}

# slurm_start PROGRAM WORD...: a server that ends with the test.
slurm_start() {
    "$@" >"$BOX/slurm/$1.out" 2>&1 & CHILDREN+=($!)
    disown $!
}

slurm_is_idle() { [ "$(sinfo -h -o %T 2>/dev/null)" = idle ]; }
