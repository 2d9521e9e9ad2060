#!/usr/bin/env bash
# Goal: torch's distributed checkpoints lie in Hayate and come back, and the example trains through kills. Method: the package's tests of it, with torch from PyPI, and the program of docs/clients.md, on
# three servers and a tier. From PyPI torch comes with CUDA only: its wheel alone (2.15: 540 MB) is not imported without NVIDIA's libraries, and with them it takes 5.4 GB of the environment and one to two minutes, the
# tests 2.5 more. So it is installed in the long tier alone, or where HAYATE_TEST_TORCH is set; where it is already, the test runs.
. "$(dirname "$0")/lib.sh"
need python3 flock
begin torch
. "$E2E/python_lib.sh"

has_torch() { "$VENV/bin/python" -c 'import torch' 2>/dev/null; }
# Both within what ./test gives a script.
INSTALL_S=240 TESTS_S=330
[ -z "${HAYATE_TEST_LONG:-}" ] || INSTALL_S=1800 TESTS_S=900
NEEDED_GIB=12

install_torch() {
    [ "$(($(stat -f -c '%a * %S' "$VENV") >> 30))" -ge $NEEDED_GIB ] || skip "torch is not installed: less than $NEEDED_GIB GiB are free below $VENV"
    timeout $INSTALL_S "$VENV/bin/pip" install -q --no-cache-dir torch >"$BOX/pip.out" 2>&1 || skip "pip cannot install torch within $INSTALL_S s: $(tail -1 "$BOX/pip.out")"
}

timed "virtual environment" environment
if ! has_torch; then
    [ -n "${HAYATE_TEST_LONG:-}${HAYATE_TEST_TORCH:-}" ] || skip "torch is not installed: gigabytes from PyPI, which ./test gets with --long, or where HAYATE_TEST_TORCH is set"
    timed "torch" install_torch
fi
unlocked
timed "wheel" install_wheel

NODES=3
cluster_up c
export HAYATE_CLUSTER=$BOX/c/c.toml
timed "tests" tests $TESTS_S "$BOX/package/tests/test_torch.py"
# Torch that is there must not be taken for missing.
! grep -q ' skipped' "$BOX/pytest.out" || fail "skipped: $(tail -3 "$BOX/pytest.out")"
blocks_of_clients_md
for program in $(grep -l '^# needs torch' "$BOX"/example*.py); do example "$program"; done
passed
