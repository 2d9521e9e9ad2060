#!/bin/bash
# Download + unpack Debian's generic kernel (the cloud flavour has no rdma_rxe and no 9p).
# Result: $D/kernel/{vmlinux,lib/modules/...,version}
set -euo pipefail
here=$(dirname "$(readlink -f "$0")"); D=${RDMAVM:?the folder with the kernel}; mkdir -p "$D"; cd "$D"
[ -s kernel/vmlinux ] && [ -s kernel/version ] && exit 0
pkg=${KPKG:-$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/{print $2; exit}')}
rm -rf kernel.tmp; mkdir -p debs kernel.tmp
ls debs/${pkg}_*.deb >/dev/null 2>&1 || (cd debs && apt-get download "$pkg" 2>&1 | grep -v unsandboxed)
dpkg-deb --fsys-tarfile debs/${pkg}_*.deb | tar -x -C kernel.tmp \
   --wildcards './boot/vmlinuz*' './boot/config*' './lib/modules/*/modules.*' \
   './lib/modules/*/kernel/drivers/infiniband/core/*' './lib/modules/*/kernel/drivers/infiniband/sw/*' \
   './lib/modules/*/kernel/drivers/virtio/*' './lib/modules/*/kernel/drivers/block/*' \
   './lib/modules/*/kernel/drivers/char/virtio_console.ko' './lib/modules/*/kernel/drivers/char/hw_random/*' \
   './lib/modules/*/kernel/drivers/md/*' './lib/modules/*/kernel/drivers/nvme/*' './lib/modules/*/kernel/drivers/dax/*' './lib/modules/*/kernel/drivers/nvdimm/*' \
   './lib/modules/*/kernel/drivers/net/*.ko' './lib/modules/*/kernel/net/*' \
   './lib/modules/*/kernel/fs/*' './lib/modules/*/kernel/lib/*' './lib/modules/*/kernel/crypto/*' './lib/modules/*/kernel/arch/*' './lib/modules/*/kernel/block/*'
rm -rf kernel; mv kernel.tmp kernel
v=$(ls kernel/lib/modules); echo "$v" > kernel/version
depmod -b kernel "$v" 2>/dev/null
python3 "$here/extract-vmlinux.py" kernel/boot/vmlinuz-"$v" kernel/vmlinux
