#!/bin/bash
# Builds soft-iWARP (siw) for the kernel of the guests, if it does not come with it: Debian's does not. From Debian's source of the same version, which is 140 MB
# to fetch; the whole takes about half a minute, once. As root: installs the kernel's headers.
# Result: $D/kernel/lib/modules/VERSION/extra/siw.ko
set -euo pipefail
D=${RDMAVM:?the folder with the kernel}; cd "$D"
v=$(cat kernel/version)
[ -z "$(find "kernel/lib/modules/$v" -name 'siw.ko*' -print -quit)" ] || exit 0
package=$(dpkg-deb -f "debs/linux-image-${v}"_*.deb Version)
source=linux-source-$(cut -d. -f1-2 <<<"$v")
apt-get install -y -qq --no-install-recommends "linux-headers-$v=$package" make gcc xz-utils
box=$(mktemp -d); trap 'rm -rf "$box"' EXIT
cd "$box"
apt-get download "$source=$package"
dpkg-deb --fsys-tarfile "$source"_*.deb | tar -xO "./usr/src/$source.tar.xz" | xz -dc | tar -x --strip-components=5 "$source/drivers/infiniband/sw/siw"
make -j"$(nproc)" -C "/lib/modules/$v/build" M="$box" CONFIG_RDMA_SIW=m modules
mkdir -p "$D/kernel/lib/modules/$v/extra"
cp siw.ko "$D/kernel/lib/modules/$v/extra/"
depmod -b "$D/kernel" "$v" 2>/dev/null
