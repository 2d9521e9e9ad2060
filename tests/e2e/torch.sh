#!/usr/bin/env bash
# Goal: torch's distributed checkpoints lie in Hayate and come back, and the example trains through kills. Method: the package's tests of it, with torch from PyPI, and the program of docs/clients.md, on
# three servers and a tier.
#
#   tests/e2e/torch.sh             installs torch where it is not yet, and tests
#   tests/e2e/torch.sh --install   installs only; needs no program of Hayate. ./test has it done beside the tests of the crates
#
# PyPI has torch for CUDA only: 3.0 GB that become 5.2, and its wheel alone is not imported. Of CUDA's libraries those that torch calls on any machine are 16 MB; in the place of the others that it links (1.9 GB) comes one that
# is made here, whose every function aborts (`stand_ins`). That is 0.6 GB from PyPI, and 1.5 of the disk. If such a torch is not imported, or HAYATE_TEST_TORCH is `whole`, all of it is installed.
. "$(dirname "$0")/lib.sh"
need python3 flock
[ "${HAYATE_TEST_TORCH:-}" != no ] || skip "left out by HAYATE_TEST_TORCH=no"
[ "${1:-}" != --install ] || HAYATE=$(type -P true)
begin torch
# Both within what ./test gives a script.
INSTALL_S=270 TESTS_S=240
[ -z "${HAYATE_TEST_LONG:-}${1:-}" ] || INSTALL_S=1500 TESTS_S=900
. "$E2E/python_lib.sh"
VENV+=-torch LOCK_S=$INSTALL_S

TORCH=2.15.0
GIB=4 WHOLE_GIB=12
DEADLINE=$((SECONDS + INSTALL_S))

# The last thing that an installation writes: without it there is none, or half of one.
COMPLETE=$VENV/complete
is_complete() {
    local is wanted=${HAYATE_TEST_TORCH:-}
    is=$(cat "$COMPLETE" 2>/dev/null) || return 1
    [ -x "$VENV/bin/python" ] && [[ $is == "$TORCH whole" || ( $is == "$TORCH lean" && $wanted != whole ) ]]
}

gives_up() { rm -rf "$VENV"; skip "torch is not installed: $1"; }

# anew GIB: an environment without torch.
anew() {
    rm -rf "$VENV"
    [ "$(($(stat -f -c '%a * %S' "${VENV%/*}") >> 30))" -ge "$1" ] || gives_up "less than $1 GiB are free below ${VENV%/*}"
    packages
}

pip_torch() {
    local left=$((DEADLINE - SECONDS))
    [ $left -gt 0 ] && pip_install $left "$@" || gives_up "pip cannot install $* within what is left of $INSTALL_S s: $(tail -1 "$BOX/pip.out")"
}

# What the wheel itself says that it needs, without what only a device needs.
requirements() {
    "$VENV/bin/python" - <<'PYTHON'
from importlib.metadata import requires
from packaging.requirements import Requirement
for needed in map(Requirement, requires("torch")):
    if needed.marker and not needed.marker.evaluate({"extra": ""}):
        continue
    if needed.name == "cuda-toolkit":
        needed.extras = {"cudart", "cupti", "cufile"}
    elif needed.name == "triton" or needed.name.startswith(("nvidia-", "cuda-")):
        continue
    needed.marker = None
    print(needed)
PYTHON
}

# Under the name of each library that torch links and that is not here, one with every function that it wants of them.
stand_ins() {
    local lib name
    lib=$(echo "$VENV"/lib/python*/site-packages/torch/lib)
    { ldd -r "$lib/libtorch_python.so" || true; } >"$BOX/ldd.out" 2>&1
    # NAME VERSION, or NAME. Python's own are in the interpreter.
    sed -nE 's/^undefined symbol: (\w+)(, version ([^[:space:]]+))?[[:space:]].*/\1 \3/p' "$BOX/ldd.out" | grep -vE '^_?Py' | sort -u >"$BOX/wanted"
    awk 'BEGIN { print "#include <stdio.h>\n#include <stdlib.h>" }
        !seen[$1]++ { printf "void %s(void) { fputs(\"%s: this torch has no CUDA (tests/e2e/torch.sh)\\n\", stderr); abort(); }\n", $1, $1 }' "$BOX/wanted" >"$BOX/stand_in.c"
    awk 'NF == 2 { names[$2] = names[$2] " " $1 ";" } END { for (version in names) printf "%s {%s };\n", version, names[version] }' "$BOX/wanted" >"$BOX/stand_in.map"
    cc -shared -fPIC -Wl,--version-script="$BOX/stand_in.map" -o "$lib/libstand_in.so" "$BOX/stand_in.c" 2>"$BOX/import.err" || return 1
    for name in $(awk '/=> not found/ { print $1 }' "$BOX/ldd.out" | sort -u); do ln -s libstand_in.so "$lib/$name"; done
}

imported() { "$VENV/bin/python" -c 'import torch.distributed.checkpoint' 2>"$BOX/import.err"; }

lean() {
    local needed
    anew $GIB
    pip_torch --no-deps "torch==$TORCH"
    mapfile -t needed < <(requirements)
    pip_torch "${needed[@]}"
    stand_ins && imported
}

whole() {
    anew $WHOLE_GIB
    pip_torch "torch==$TORCH"
    imported || fail "torch is installed, but not imported: $(tail -1 "$BOX/import.err")"
}

is_here() {
    note "$(du -sh "$VENV" | cut -f 1)"
    echo "$TORCH $1" >"$COMPLETE"
}

install_torch() {
    ! is_complete || return 0
    if [ "${HAYATE_TEST_TORCH:-}" != whole ] && lean; then
        is_here lean
        return
    fi
    [ ! -s "$BOX/import.err" ] || note "torch with a stand-in for CUDA is not imported, so all of it comes: $(tail -1 "$BOX/import.err")"
    whole
    is_here whole
}

locked || skip "torch is not installed: another run has held $VENV.lock for $LOCK_S s (what ./test has done beside its other tests is told in $VENV.log)"
timed "torch" install_torch
unlocked
note "torch $(cat "$COMPLETE")"
[ "${1:-}" != --install ] || exit 0
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
