#!/usr/bin/env bash
# Goal: the scripts that make the tables of docs/performance.md start, understand the program's options and output as they are today, and replace their tables between the marks.
# Method: each with `--quick` (smallest sizes, which say nothing of rates) by `bench/figures.py`, on a copy of the document and a directory of its own; then every mark must have a new
# table, and nothing may be left running or lying about. The parts that take long are in the long tier.
. "$(dirname "$0")/lib.sh"
need python3 findmnt
begin figures
MISSING=()
parts=(dirty hot hot-small limits memory scale startup requirement)
[ -z "${HAYATE_TEST_LONG:-}" ] || parts+=(flush checkpoints plots)
if { : <>/dev/fuse; } 2>/dev/null && { is_root || command -v fusermount3 >/dev/null; }; then
    parts+=(awake inside)
else
    # Writers of dirty bytes, and bursts, go through a mount.
    MISSING+=("/dev/fuse cannot be opened by this user: parts awake, inside, dirty, flush")
    parts=("${parts[@]/dirty/}") parts=("${parts[@]/flush/}")
fi
# Its tables are taken from what it prints, as those of the parts that take long are.
[ ! -x "${HAYATE%/*}/examples/transport_speed" ] || parts+=(transport)
if command -v fio >/dev/null; then parts+=(fio); else MISSING+=("fio is not installed: part fio"); fi
for example in limits readers burst; do
    [ -x "${HAYATE%/*}/examples/$example" ] || fail "no example $example beside $HAYATE; build the examples of hayate-tests, fs-client and libio"
done

mkdir "$BOX/figures" "$BOX/work"
cp "$ROOT/docs/performance.md" "$BOX/document.md"
# The marks of a part: what its script may replace.
marks() {
    case $1 in
        limits) printf 'limits %s\n' connections idle opens flight one-file creates client ;;
        hot-small) echo 'hot small' ;;
        memory) printf 'memory %s\n' files extents ;;
        checkpoints) printf 'checkpoints %s\n' burst heat ;;
        requirement | plots | mount) ;;
        *)
            # What the script itself takes from a part's output, or else a mark of the part's name.
            local own
            own=$(awk -F '\t' -v part="$1" '$1 == part { print $2 }' <<<"$PRINTED")
            echo "${own:-$1}"
            ;;
    esac
}
PRINTED=$(python3 "$ROOT/bench/figures.py" --marks)

# short PART: with its smallest sizes.
short() {
    timeout -k 10 300 python3 "$ROOT/bench/figures.py" --quick --only "$1" --hayate "$HAYATE" --dir "$BOX/work" --document "$BOX/document.md" --figures "$BOX/figures" \
        >"$BOX/said" 2>&1 || fail "$1: $(cat "$BOX/said"; tail -20 "$BOX/figures/$1.txt" 2>&1)"
}

for part in ${parts[@]}; do
    timed "$part" short "$part"
    while read -r mark; do
        sed -n "/<!-- perf $mark -->/,/<!-- end of perf $mark -->/p" "$BOX/document.md" >"$BOX/table"
        grep -q '^A short run' "$BOX/table" || fail "$part: no new table at mark '$mark'"
        grep -qE '^\|( [^|]+ \|)+$|^[0-9,]+ (files|clients)' "$BOX/table" || fail "$part: an empty table at mark '$mark': $(cat "$BOX/table")"
    done < <(marks "$part")
    [ -z "$(ls -A "$BOX/work")" ] || fail "$part left $(ls -A "$BOX/work")"
done
# No mark without a script: each is of a part above, or of one that is in the long tier, or of a test.
while read -r mark; do
    known=$(for part in $(python3 "$ROOT/bench/figures.py" --list | awk '{ print $1 }'); do marks "$part"; done; printf '%s\n' 'limits capped' 'checkpoints torch')
    grep -qxF "$mark" <<<"$known" || fail "docs/performance.md has a mark that no part replaces: $mark"
done < <(sed -n 's/^<!-- perf \(.*\) -->$/\1/p' "$ROOT/docs/performance.md")
while read -r mark; do
    grep -qxF "<!-- perf $mark -->" "$ROOT/docs/performance.md" || fail "docs/performance.md has no mark '$mark', which a part of bench/figures.py fills"
done < <(cut -f 2 <<<"$PRINTED")
# No table with figures that nothing makes again, unless the script says why. That it is found: one more in a copy, and a reason whose table is gone.
unmarked() { python3 "$ROOT/bench/figures.py" --unmarked --document "$1" 2>&1; }
said=$(unmarked "$ROOT/docs/performance.md") || fail "docs/performance.md: $said"
{ grep -vF '| 64 KiB | 128 KiB |' "$ROOT/docs/performance.md"; printf '\n| new | rate |\n|---|---|\n| a | 17 |\n\n| new | words |\n|---|---|\n| a | none |\n'; } >"$BOX/more.md"
said=$(unmarked "$BOX/more.md") && fail "a table that nothing makes again is not found"
[ "$(grep -c '^a table with figures' <<<"$said")" = 1 ] && grep -qF 'again: | new | rate |' <<<"$said" && grep -q '^BY_HAND names .* 64 KiB' <<<"$said" || fail "found is something else: $said"
if [ -n "${HAYATE_TEST_LONG:-}" ]; then
    for plot in bandwidth-against-{transfer-size,processes,servers} how-long-operations-took each-server throughput-over-time; do
        grep -q '<svg' "$BOX/figures/$plot.svg" || fail "no plot $plot"
    done
fi
passed
[ ${#MISSING[@]} = 0 ] || skip "shown with what is here; $(IFS=';'; echo "${MISSING[*]}")"
