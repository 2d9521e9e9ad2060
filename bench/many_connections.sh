#!/usr/bin/env bash
# The memory of a server against 20,000 real connections, where a process may not have as many descriptors (`ulimit -Hn`) and root may not raise that: bench/limits.py
# in an emulated guest of tests/rdma, whose root may. Other words go to bench/limits.py.
#
#     cargo build --release && cargo build --release --workspace --examples && ./test rdma     once: the last fetches QEMU and the guest's kernel
#     bench/many_connections.sh                                                                two minutes
set -euo pipefail
ROOT=$(dirname "$(dirname "$(readlink -f "$0")")")
export RDMAVM=${RDMAVM:-${XDG_CACHE_HOME:-$HOME/.cache}/hayate-rdma-vm}
[ -e "$RDMAVM/initrd.cpio" ] || { echo "no kernel for the guest in $RDMAVM; ./test rdma fetches one" >&2; exit 1; }
box=$(mktemp -d)
trap 'rm -rf "$box"' EXIT
# Not a wrapper, which may need more of its user's environment than a guest has.
python=$(python3 -c 'import sys; print(sys.executable)')
cat >"$box/job" <<JOB
ulimit -n 65536 && cd "$ROOT" && TMPDIR=/dev/shm "$python" bench/limits.py --dir /dev/shm --only connections --connections 20000 $*
JOB
MEM=8192 LIMIT=900 "$ROOT/tests/rdma/vmrun.sh" "$box/job" "$box/out"
