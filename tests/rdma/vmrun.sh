#!/bin/bash
# usage: vmrun.sh JOB [OUTDIR]   (JOB: a bash script, by absolute path visible on the host; runs as root in the guest)
# env: MEM(MiB) SMP KVM=1 CPU NETARGS NODE LIMIT(s) EXTRA(qemu args) APPEND
set -uo pipefail
D=${RDMAVM:?the folder with the kernel}; job=$(readlink -f "$1"); out=${2:-$D/out}; mkdir -p "$out"; rm -f "$out/rc"
MEM=${MEM:-1024}; SMP=${SMP:-2}
# Emulated, wide vectors are no gain: with the older processor the same tests take 30 % less.
acc="-accel tcg,thread=multi,tb-size=256 -cpu ${CPU:-Nehalem}"
[ "${KVM:-0}" != 1 ] || acc="-accel kvm -cpu host"
timeout --foreground "${LIMIT:-300}" qemu-system-x86_64 $acc -M pc -m $MEM -smp $SMP -nodefaults -display none -no-reboot -serial stdio \
  -device isa-debug-exit,iobase=0x501,iosize=1 \
  -kernel $D/kernel/vmlinux -initrd ${INITRD:-$D/initrd.cpio} \
  -append "console=ttyS0 quiet nokaslr mitigations=off tsc=reliable no_timer_check panic=-1 audit=0 random.trust_cpu=1 dir=$D job=$job node=${NODE:-0} ${APPEND:-}" \
  -virtfs local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap \
  -virtfs local,path="$out",mount_tag=out,security_model=none \
  ${NETARGS:-} ${EXTRA:-} < /dev/null
q=$?
[ -s "$out/rc" ] && exit "$(cat "$out/rc")"
echo "vmrun: no result from the guest (qemu exit $q)" >&2; exit 99
