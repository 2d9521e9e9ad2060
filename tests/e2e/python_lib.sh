# What python.sh and torch.sh share: an environment with what their tests need from PyPI (VENV, in the target folder), and the package, installed as a wheel beside it.
VENV=${VENV:-$ROOT/target/tools/venv}
LIBRARY=$(dirname "$HAYATE")/libhayate.so
[ -e "$LIBRARY" ] || fail "no $LIBRARY; build it (cargo build -p hayate-c)"
NEEDED=(pytest numpy fsspec h5py 'setuptools>=70.1' wheel)

# The environment is shared by all runs, so it is changed by one at a time, which holds its lock until it calls `unlocked`.
LOCK_S=${LOCK_S:-400}
environment() {
    exec 9>"$VENV.lock"
    flock -w "$LOCK_S" 9 || fail "another run has held $VENV.lock for $LOCK_S s: it is installing packages, or hangs (see: fuser $VENV.lock)"
    [ -x "$VENV/bin/pip" ] || python3 -m venv "$VENV" >"$BOX/venv.out" 2>&1 || { rm -rf "$VENV"; skip "python3 makes no virtual environment: $(tail -1 "$BOX/venv.out")"; }
    "$VENV/bin/python" -c 'import pytest, numpy, fsspec, h5py, wheel' 2>/dev/null \
        || timeout 300 "$VENV/bin/pip" install -q "${NEEDED[@]}" >"$BOX/pip.out" 2>&1 || skip "pip cannot install ${NEEDED[*]}: $(tail -1 "$BOX/pip.out")"
}
unlocked() { flock -u 9; }

# Beside the environment, which another run may be using.
install_wheel() {
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
    (cd "$BOX" && timeout -k 5 "$limit" "$VENV/bin/python" -m pytest -q -rs -p no:cacheprovider "$@") >"$BOX/pytest.out" 2>&1 || fail "pytest:
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
