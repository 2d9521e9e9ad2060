#!/usr/bin/env bash
# Goal: the Python package installs as a wheel and works on a cluster of real processes. Method: the wheel is built from a copy of its sources and installed
# beside a virtual environment with what the tests need from PyPI; its own tests, fsspec's suite among them, and the programs of docs/clients.md run against three
# servers and a tier. What needs torch is `torch`.
. "$(dirname "$0")/lib.sh"
need python3 flock
begin python
. "$E2E/python_lib.sh"
timed "virtual environment" environment
unlocked
timed "wheel" install_wheel

NODES=3
cluster_up c
export HAYATE_CLUSTER=$BOX/c/c.toml
# HDF5 is written by its path.
if [ -w /dev/fuse ] && command -v fusermount3 >/dev/null; then
    mount_on c "$BOX/c/m"
    export HAYATE_MOUNT=$BOX/c/m
else
    note "no FUSE here: HDF5 is left out"
fi

timed "tests" tests 300 "$BOX/package/tests" --ignore "$BOX/package/tests/test_torch.py"

# One that says what it needs (`# needs MODULE`) is left out where that is missing.
examples() {
    local program module
    blocks_of_clients_md
    for program in "$BOX"/example*.py; do
        module=$(sed -n 's/^# needs //p' "$program")
        [ "$module" != torch ] || continue
        [ -z "$module" ] || "$VENV/bin/python" -c "import $module" 2>/dev/null || { note "${program##*/}: $module is not installed, left out"; continue; }
        example "$program"
    done
}
timed "the programs of docs/clients.md" examples

note "import and connect: $("$VENV/bin/python" - <<'PYTHON'
import time
began = time.perf_counter()
import hayate
imported = time.perf_counter()
fs = hayate.connect()
fs.stat("/")
connected = time.perf_counter()
with fs.open("/calls", "wb+", 0) as file:
    file.pwrite(b"x" * 100, 0)
    once = time.perf_counter()
    for _ in range(2000):
        file.pread(100, 0)
    calls = time.perf_counter()
print(f"{(imported - began) * 1e3:.1f} ms and {(connected - imported) * 1e3:.1f} ms; a read of 100 bytes {(calls - once) / 2000 * 1e6:.0f} us")
PYTHON
)"
passed
