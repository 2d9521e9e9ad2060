#!/usr/bin/env bash
# Goal: what fio wrote, it reads back, by every way that it has to read and write. Method: fio puts a checksum, its place and a sequence into each block
# and looks for them: at once, and again through a second mount of the same cluster. HAYATE_E2E_ROUNDS multiplies the sizes.
. "$(dirname "$0")/lib.sh"
need fio
need_fuse
begin fio
M=$BOX/c/m
MEGABYTES=$((6 * ${HAYATE_E2E_ROUNDS:-1}))

# run_fio MOUNT NAME OPTION...: four processes with a file each, 4 to 64 KiB at a time.
run_fio() {
    local mount=$1 name=$2; shift 2
    (cd "$BOX" && timeout -k 5 240 fio --name="$name" --directory="$mount" --numjobs=4 --size=${MEGABYTES}m --bsrange=4k-64k --randrepeat=1 \
        --verify=crc32c --verify_fatal=1 --fallocate=none --group_reporting --output="$BOX/fio.out" "$@" 2>"$BOX/fio.err") \
        || fail "fio $name at ${mount##*/}: $(cat "$BOX/fio.err" "$BOX/fio.out" | grep -vE '^ +(slat|clat|lat|cpu|IO depths|submit|complete|\|)' | head -30)"
    ! grep -E 'verify: bad|err= *[1-9]' "$BOX/fio.out" "$BOX/fio.err" || fail "fio $name at ${mount##*/}"
}

# both NAME OPTION...: written and verified here, verified there.
both() {
    run_fio "$M" "$@"
    run_fio "$BOX/c/other" "$@" --verify_only
    mounted "$M"
}

every_way() {
    both sequential --rw=write --ioengine=psync
    both random --rw=randwrite --ioengine=psync
    both mixed --rw=randrw --ioengine=psync --fsync=50
    both mapped --rw=randrw --ioengine=mmap
    both ring --rw=randrw --ioengine=io_uring --iodepth=8
    both ring-direct --rw=randrw --ioengine=io_uring --iodepth=8 --direct=1
    both threads --rw=randwrite --ioengine=pvsync --thread --overwrite=1
}

cluster_up c
mount_on c "$M"
mount_on c "$BOX/c/other"
timed "fio, seven ways, $MEGABYTES MiB in each of four files, read on two mounts" every_way
python3 "$E2E/manifest.py" "$M" >"$BOX/shown"
drain c
python3 "$E2E/manifest.py" "$BOX/c/tier" | diff "$BOX/shown" - || fail "the tier is not what the mount showed"
passed
