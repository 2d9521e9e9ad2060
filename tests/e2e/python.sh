#!/usr/bin/env bash
# Goal: the Python package installs as a wheel and works on a cluster of real processes. Method: the wheel is built from a copy of its sources and installed
# beside a virtual environment with what the tests need from PyPI (VENV, in the target folder); its own tests, fsspec's suite among them, and the
# programs of docs/clients.md run against three servers and a tier.
. "$(dirname "$0")/lib.sh"
need python3 flock
begin python
VENV=${VENV:-$ROOT/target/tools/venv}
LIBRARY=$(dirname "$HAYATE")/libhayate.so
[ -e "$LIBRARY" ] || fail "no $LIBRARY; build it (cargo build -p hayate-c)"
NEEDED=(pytest numpy fsspec h5py 'setuptools>=70.1' wheel)

# The environment is shared by all runs, so it is made by one at a time.
environment() {
    exec 9>"$VENV.lock"
    flock 9
    [ -x "$VENV/bin/pip" ] || python3 -m venv "$VENV" >"$BOX/venv.out" 2>&1 || { rm -rf "$VENV"; skip "python3 makes no virtual environment: $(tail -1 "$BOX/venv.out")"; }
    "$VENV/bin/python" -c 'import pytest, numpy, fsspec, h5py, wheel' 2>/dev/null \
        || timeout 300 "$VENV/bin/pip" install -q "${NEEDED[@]}" >"$BOX/pip.out" 2>&1 || skip "pip cannot install ${NEEDED[*]}: $(tail -1 "$BOX/pip.out")"
    # Gigabytes, because PyPI has it with CUDA only.
    [ -z "${HAYATE_TEST_LONG:-}" ] || "$VENV/bin/python" -c 'import torch' 2>/dev/null || timeout 1800 "$VENV/bin/pip" install -q torch >"$BOX/pip.out" 2>&1 \
        || note "pip cannot install torch: $(tail -1 "$BOX/pip.out")"
    flock -u 9
}
mkdir -p "$(dirname "$VENV")"
timed "virtual environment" environment

# Beside the environment, which another run may be using.
install_wheel() {
    cp -r "$ROOT/libio/python" "$BOX/package"
    rm -rf "$BOX/package/build"
    HAYATE_LIBRARY=$LIBRARY "$VENV/bin/pip" wheel -q --no-deps --no-build-isolation -w "$BOX/wheel" "$BOX/package" >"$BOX/wheel.out" 2>&1 \
        && "$VENV/bin/pip" install -q --no-deps --target "$BOX/site" "$BOX"/wheel/hayate-*.whl >>"$BOX/wheel.out" 2>&1 || fail "the wheel: $(tail -5 "$BOX/wheel.out")"
    note "$(cd "$BOX/wheel" && du -h hayate-*.whl | tr '\t' ' ')"
}
timed "wheel" install_wheel
export PYTHONPATH=$BOX/site PYTHONDONTWRITEBYTECODE=1 HAYATE_EXAMPLES=$ROOT/libio/examples HAYATE_LIBRARY_DIR=$(dirname "$LIBRARY")

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

tests() {
    (cd "$BOX" && timeout -k 5 300 "$VENV/bin/python" -m pytest -q -rs -p no:cacheprovider "$BOX/package/tests") >"$BOX/pytest.out" 2>&1 || fail "pytest:
$(tail -60 "$BOX/pytest.out")"
    sed -n 's/^SKIPPED.*: /   left out: /p' "$BOX/pytest.out"
    note "$(tail -1 "$BOX/pytest.out")"
}
timed "tests" tests

# examples: the programs of docs/clients.md, each block a program; one that says what it needs (`# needs MODULE`) is left out where that is missing.
examples() {
    local program module
    awk -v box="$BOX" '/^```python$/ { on = 1; file = box "/example" ++n ".py"; next } /^```/ { on = 0 } on { print > file }' "$ROOT/docs/clients.md"
    for program in "$BOX"/example*.py; do
        module=$(sed -n 's/^# needs //p' "$program")
        [ -z "$module" ] || "$VENV/bin/python" -c "import $module" 2>/dev/null || { note "${program##*/}: $module is not installed, left out"; continue; }
        (cd "$BOX" && timeout 60 "$VENV/bin/python" "$program") >"$BOX/example.out" 2>&1 || fail "$(cat "$program"): $(tail -5 "$BOX/example.out")"
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
