#!/usr/bin/env bash
# Goal: the scripts that make the tables of docs/performance.md and docs/benchmarks.md start, understand the program's options and output as they are today, and replace their tables
# between the marks; in the long tier also: the harness measures what fio measures.
# Method: each with `--quick` (smallest sizes, which say nothing of rates) by `bench/figures.py`, on copies of the documents and a directory of its own; then every mark must have a new
# table, and nothing may be left running or lying about. The parts that build, or take long, are in the long tier.
. "$(dirname "$0")/lib.sh"
need python3 findmnt
begin figures
MISSING=()
parts=(dirty hot hot-small limits memory scale startup requirement)
# Examples that only parts of the long tier start; ./test has put the others beside the program.
examples() {
    local name
    mkdir -p "${HAYATE%/*}/examples"
    for name in small_speed inline_speed store_scale store_speed transport_speed; do
        [ ! -x "${HAYATE%/*}/examples/$name" ] || continue
        [ -x "${BUILT:=}/$name" ] || { (cd "$ROOT" && cargo build -q --workspace --examples) && BUILT=${CARGO_TARGET_DIR:-$ROOT/target}/debug/examples; } || return 1
        cp "$BUILT/$name" "${HAYATE%/*}/examples/" || return 1
    done
}
if [ -n "${HAYATE_TEST_LONG:-}" ]; then
    # The guests of part `rdma` are those of the test of that name, which is in the long tier by itself.
    mapfile -t long < <(python3 "$ROOT/bench/figures.py" --long | grep -vx rdma)
    parts+=(flush checkpoints plots)
    if command -v cargo >/dev/null; then
        examples || fail "the examples of the workspace cannot be built"
        parts+=("${long[@]}")
    else
        MISSING+=("cargo is not installed: parts ${long[*]}")
    fi
fi
if { : <>/dev/fuse; } 2>/dev/null && { is_root || command -v fusermount3 >/dev/null; }; then
    parts+=(awake inside)
else
    # Writers of dirty bytes, and bursts, go through a mount.
    MISSING+=("/dev/fuse cannot be opened by this user: parts awake, inside, dirty, flush, mount")
    parts=("${parts[@]/#dirty/}") parts=("${parts[@]/#flush/}") parts=("${parts[@]/#mount/}")
fi
# Its tables are taken from what it prints, as those of the parts that take long are.
[ ! -x "${HAYATE%/*}/examples/transport_speed" ] || parts+=(transport)
if command -v fio >/dev/null; then parts+=(fio); else MISSING+=("fio is not installed: part fio"); fi
for example in limits readers burst; do
    [ -x "${HAYATE%/*}/examples/$example" ] || fail "no example $example beside $HAYATE; build the examples of hayate-tests, fs-client and libio"
done

mkdir "$BOX/figures" "$BOX/work"
cp "$ROOT/docs/performance.md" "$BOX/document.md"
cp "$ROOT/docs/benchmarks.md" "$BOX/benchmarks.md"
# Where a part has its tables.
document() { if [ "$1" = requirement ]; then echo "$BOX/benchmarks.md"; else echo "$BOX/document.md"; fi; }
# The marks of a part: what its script may replace.
marks() {
    case $1 in
        limits) printf 'limits %s\n' connections idle opens flight one-file creates client ;;
        hot-small) echo 'hot small' ;;
        memory) printf 'memory %s\n' files extents ;;
        checkpoints) printf 'checkpoints %s\n' burst heat ;;
        plots | mount) ;;
        *)
            # What the script itself takes from a part's output, or else a mark of the part's name.
            local own
            own=$(awk -F '\t' -v part="$1" '$1 == part { print $2 }' <<<"$PRINTED")
            echo "${own:-$1}"
            ;;
    esac
}
PRINTED=$(python3 "$ROOT/bench/figures.py" --marks)

# What builds takes longer.
limit=300
[ -z "${HAYATE_TEST_LONG:-}" ] || limit=1800
# short PART: with its smallest sizes.
short() {
    timeout -k 10 "$limit" python3 "$ROOT/bench/figures.py" --quick --only "$1" --hayate "$HAYATE" --dir "$BOX/work" --document "$BOX/document.md" \
        --benchmarks "$BOX/benchmarks.md" --figures "$BOX/figures" >"$BOX/said" 2>&1 || fail "$1: $(cat "$BOX/said"; tail -20 "$BOX/figures/$1.txt" 2>&1)"
}

for part in ${parts[@]}; do
    timed "$part" short "$part"
    while read -r mark; do
        sed -n "/<!-- perf $mark -->/,/<!-- end of perf $mark -->/p" "$(document "$part")" >"$BOX/table"
        grep -q '^A short run' "$BOX/table" || fail "$part: no new table at mark '$mark'"
        grep -qE '^\|( [^|]+ \|)+$|^[0-9,]+ (files|clients)' "$BOX/table" || fail "$part: an empty table at mark '$mark': $(cat "$BOX/table")"
    done < <(marks "$part")
    [ -z "$(ls -A "$BOX/work")" ] || fail "$part left $(ls -A "$BOX/work")"
done
# No mark without a script: each is of a part above, or of one that is in the long tier, or of a test.
while read -r mark; do
    known=$(for part in $(python3 "$ROOT/bench/figures.py" --list | awk '{ print $1 }'); do marks "$part"; done; printf '%s\n' 'limits capped' 'checkpoints torch')
    grep -qxF "$mark" <<<"$known" || fail "a document has a mark that no part replaces: $mark"
done < <(sed -n 's/^<!-- perf \(.*\) -->$/\1/p' "$ROOT/docs/performance.md" "$ROOT/docs/benchmarks.md")
while read -r mark; do
    grep -qxF "<!-- perf $mark -->" "$ROOT/docs/performance.md" || fail "docs/performance.md has no mark '$mark', which a part of bench/figures.py fills"
done < <(cut -f 2 <<<"$PRINTED")
# No table with figures that nothing makes again, unless the script says why. That it is found: one more in a copy, and a reason whose table is gone.
unmarked() { python3 "$ROOT/bench/figures.py" --unmarked --document "$1" --benchmarks "$2" 2>&1; }
said=$(unmarked "$ROOT/docs/performance.md" "$ROOT/docs/benchmarks.md") || fail "docs/performance.md or docs/benchmarks.md: $said"
{ grep -vF '| 64 KiB | 128 KiB |' "$ROOT/docs/performance.md"; printf '\n| new | rate |\n|---|---|\n| a | 17 |\n\n| new | words |\n|---|---|\n| a | none |\n'; } >"$BOX/more.md"
said=$(unmarked "$BOX/more.md" "$ROOT/docs/benchmarks.md") && fail "a table that nothing makes again is not found"
[ "$(grep -c '^a table with figures' <<<"$said")" = 1 ] && grep -qF 'again: | new | rate |' <<<"$said" && grep -q '^BY_HAND names .* 64 KiB' <<<"$said" || fail "found is something else: $said"
{ cat "$ROOT/docs/benchmarks.md"; printf '\n| answer | seconds |\n|---|---|\n| a | 17 |\n'; } >"$BOX/more.md"
said=$(unmarked "$ROOT/docs/performance.md" "$BOX/more.md") && fail "a table of the answer that nothing makes again is not found"
[ "$said" = 'a table with figures that no part makes again: | answer | seconds |' ] || fail "found is something else: $said"
# Parts that measure must say of what: a line with the commit above each of their tables.
for part in hot hot-small limits memory scale startup requirement fio; do
    [[ " ${parts[*]} " == *" $part "* ]] || continue
    while read -r mark; do
        sed -n "/<!-- perf $mark -->/,/<!-- end of perf $mark -->/p" "$(document "$part")" | grep -qE '[Cc]ommit ([0-9a-f]{12}|unknown)' || [ "$mark" = "limits capped" ] ||
            fail "$part: no commit at mark '$mark'"
    done < <(marks "$part")
done
if [ -n "${HAYATE_TEST_LONG:-}" ]; then
    # By a program that is optimised, as it is measured.
    if command -v fio >/dev/null && command -v cargo >/dev/null; then
        (cd "$ROOT" && cargo build -q --release) || fail "the program cannot be built with optimisation"
        code=0
        timeout -k 10 900 python3 "$ROOT/bench/fio_compare.py" --hayate "${CARGO_TARGET_DIR:-$ROOT/target}/release/hayate" >"$BOX/said" 2>&1 || code=$?
        case $code in
            0) note "beside fio: $(grep '^| write' "$BOX/said")" ;;
            "$SKIPPED") MISSING+=("other programs were busy: the bound of the harness beside fio") ;;
            *) fail "the harness and fio differ: $(cat "$BOX/said")" ;;
        esac
    fi
    for plot in bandwidth-against-{transfer-size,processes,servers} how-long-operations-took each-server throughput-over-time; do
        grep -q '<svg' "$BOX/figures/$plot.svg" || fail "no plot $plot"
    done
fi
passed
[ ${#MISSING[@]} = 0 ] || skip "shown with what is here; $(IFS=';'; echo "${MISSING[*]}")"
