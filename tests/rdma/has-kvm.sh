#!/bin/bash
# Whether guests start with KVM: by starting one that ends at once. /dev/kvm may be there and be of no use, as in a virtual machine.
# env: RDMAVM, ACCEL (qemu's arguments that are tried)
set -u
D=${RDMAVM:?the folder with the kernel}
ACCEL=${ACCEL:--accel kvm -cpu host}
[[ $ACCEL != *kvm* || -w /dev/kvm ]] || exit 1
timeout "${LIMIT:-8}" qemu-system-x86_64 $ACCEL -M pc -m 512 -nodefaults -display none -no-reboot \
  -device isa-debug-exit,iobase=0x501,iosize=1 -kernel $D/kernel/vmlinux -initrd ${INITRD:-$D/initrd.cpio} \
  -append "quiet panic=-1 probe" </dev/null >/dev/null 2>&1
# The guest writes 42; qemu makes 2 n + 1 of it.
[ $? = 85 ]
