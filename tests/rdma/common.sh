# What both jobs in guests share; sourced. Words of the kernel's command line: hayate=PROGRAM tests=TEST-PROGRAM[,TEST-PROGRAM...]
set -u
for word in $(</proc/cmdline); do
    case $word in hayate=*) HAYATE=${word#hayate=} ;; tests=*) TESTS=${word#tests=} ;; esac
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
# under_way PID FIGURE BEFORE: waits until a figure has grown by more than 3, or the burst is over.
under_way() { until [ "$(figure "$2")" -gt $(($3 + 3)) ] || ! kill -0 "$1" 2>/dev/null; do sleep 0.2; done; }
