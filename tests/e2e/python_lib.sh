# What python.sh and torch.sh share: environments with what their tests need from PyPI (VENV, in the target folder), and the package, installed as a wheel beside them.
VENV=${VENV:-$ROOT/target/tools/venv}
LIBRARY=$(dirname "$HAYATE")/libhayate.so
need setpriv
NEEDED=(pytest numpy fsspec h5py 'setuptools>=70.1' wheel)

# child LIMIT COMMAND...: ends with this script, at once and however that ends.
child() {
    local limit=$1 code=0; shift
    setpriv --pdeathsig KILL timeout -k 5 "$limit" setpriv --pdeathsig KILL "$@" &
    CHILDREN+=($!)
    wait $! || code=$?
    unset 'CHILDREN[-1]'
    return $code
}

# An environment is shared by all runs, so it is changed by one at a time, which holds its lock until it calls `unlocked`, or ends.
LOCK_S=400
locked() {
    mkdir -p "${VENV%/*}"
    exec 9>"$VENV.lock"
    child "$LOCK_S" flock 9
}
unlocked() { flock -u 9; }

# pip_install LIMIT WORDS...: what it says is in pip.out.
pip_install() {
    local limit=$1; shift
    child "$limit" "$VENV/bin/pip" install -q --no-cache-dir --retries 2 --timeout 30 "$@" >"$BOX/pip.out" 2>&1
}

environment() {
    locked || fail "another run has held $VENV.lock for $LOCK_S s: it is installing packages, or hangs (see: fuser $VENV.lock)"
    packages
}

packages() {
    [ -x "$VENV/bin/pip" ] || child 300 python3 -m venv "$VENV" >"$BOX/venv.out" 2>&1 || { rm -rf "$VENV"; skip "python3 makes no virtual environment: $(tail -1 "$BOX/venv.out")"; }
    "$VENV/bin/python" -c 'import pytest, numpy, fsspec, h5py, wheel' 2>/dev/null \
        || pip_install 300 "${NEEDED[@]}" || skip "pip cannot install ${NEEDED[*]}: $(tail -1 "$BOX/pip.out")"
}

# Beside the environment, which another run may be using.
install_wheel() {
    [ -e "$LIBRARY" ] || fail "no $LIBRARY; build it (cargo build -p hayate-c)"
    cp -r "$ROOT/libio/python" "$BOX/package"
    rm -rf "$BOX/package/build"
    HAYATE_LIBRARY=$LIBRARY "$VENV/bin/pip" wheel -q --no-deps --no-build-isolation -w "$BOX/wheel" "$BOX/package" >"$BOX/wheel.out" 2>&1 \
        && "$VENV/bin/pip" install -q --no-deps --target "$BOX/site" "$BOX"/wheel/hayate-*.whl >>"$BOX/wheel.out" 2>&1 || fail "the wheel: $(tail -5 "$BOX/wheel.out")"
    note "$(cd "$BOX/wheel" && du -h hayate-*.whl | tr '\t' ' ')"
    export PYTHONPATH=$BOX/site PYTHONDONTWRITEBYTECODE=1 HAYATE_EXAMPLES=$ROOT/libio/examples HAYATE_LIBRARY_DIR=$(dirname "$LIBRARY")
}

# tests LIMIT PATH...: tests of the package.
tests() {
    local limit=$1; shift
    (cd "$BOX" && timeout -k 5 "$limit" "$VENV/bin/python" -m pytest -q -rs -p no:cacheprovider -p no:logging "$@") >"$BOX/pytest.out" 2>&1 || fail "pytest:
$(tail -60 "$BOX/pytest.out")"
    sed -n 's/^SKIPPED.*: /   left out: /p' "$BOX/pytest.out"
    note "$(tail -1 "$BOX/pytest.out")"
}

# The programs of docs/clients.md, each block of Python a program: example1.py and so on.
blocks_of_clients_md() {
    awk -v box="$BOX" '/^```python$/ { on = 1; file = box "/example" ++n ".py"; next } /^```/ { on = 0 } on { print > file }' "$ROOT/docs/clients.md"
}

# example PROGRAM
example() { (cd "$BOX" && timeout 60 "$VENV/bin/python" "$1") >"$BOX/example.out" 2>&1 || fail "$(cat "$1"): $(tail -5 "$BOX/example.out")"; }
