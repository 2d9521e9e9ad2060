#!/bin/bash
# Tiny initramfs: busybox + only the modules that are needed to reach the 9p root.
# usage: mkinitrd.sh OUT.cpio [extra modules to pack...]
set -euo pipefail
D=${RDMAVM:?the folder with the kernel}; here=$(dirname "$(readlink -f "$0")")
out=$1; shift; v=$(cat $D/kernel/version)
r=$(mktemp -d); trap 'rm -rf $r' EXIT
mkdir -p $r/{bin,proc,sys,dev,mod,host,ovl,root}
cp /bin/busybox $r/bin/busybox   # busybox-static
for a in sh cp mount insmod mkdir cat ls ln chroot switch_root umount echo sleep ip modprobe dd printf poweroff sync; do ln -s busybox $r/bin/$a; done
i=0
for m in virtio_pci 9pnet_virtio 9p overlay ${RDMA_MODS-crc32_generic crc32_pclmul rdma_rxe rdma_ucm virtio_net veth dummy} "$@"; do
  modprobe -d $D/kernel -S $v --show-depends $m | awk '$1=="insmod"{print $2}'
done | awk '!s[$0]++' > $r/mod/list.abs
while read f; do cp "$f" $r/mod/; basename "$f"; done < $r/mod/list.abs > $r/mod/list; rm $r/mod/list.abs
cp $here/init $here/stage2 $r/; chmod +x $r/init $r/stage2
(cd $r; find . | cpio -o -H newc --quiet) > $out
ls -la $out >&2
