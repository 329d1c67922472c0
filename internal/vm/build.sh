#!/bin/bash
# Builds the test kernel, once for each version of this script and of kernel.config, and
# prints where it is. Needs Debian's package source of the kernel (apt-get download), gcc,
# make, flex, bison, bc and xz; it installs what is missing when it may. A build takes 4 to
# 8 minutes on two cores and about 2 GB of temporary space.
#
# The kernel is an ordinary program (User-Mode Linux): no root, no KVM, no container.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
version=6.12

[ "$(uname -sm)" = "Linux x86_64" ] || { echo "vm: User-Mode Linux needs Linux on x86_64, this is $(uname -sm)" >&2; exit 1; }

hash=$(cat kernel.config build.sh | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/gateway-vm/$hash
if [ -x "$dir/linux" ]; then
	echo "$dir/linux"
	exit
fi
mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9 # a second build waits for the first, and finds its kernel
if [ -x "$dir/linux" ]; then
	echo "$dir/linux"
	exit
fi

missing=()
for tool in gcc make flex bison bc xz; do
	command -v "$tool" >/dev/null || missing+=("${tool/#xz/xz-utils}")
done
if [ "${#missing[@]}" -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "vm: the kernel cannot be built: install ${missing[*]} (apt-get install ${missing[*]})" >&2
		exit 1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

work=$(mktemp -d "$dir/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
echo "vm: building the test kernel, 4 to 8 minutes, once" >&2
apt-get -qq -o APT::Sandbox::User=root download "linux-source-$version" || {
	echo "vm: Debian's package linux-source-$version cannot be downloaded: run apt-get update, or look at the network" >&2
	exit 1
}
dpkg-deb --fsys-tarfile linux-source-*.deb | tar -xO "./usr/src/linux-source-$version.tar.xz" | tar -xJ
cd "linux-source-$version"

# The kernel keeps 2696 bytes of floating point state for a task. Processors with AMX have
# 11008, and refuse to restore a part. One copy lies on the kernel's stack, hence
# KERNEL_STACK_ORDER.
sed -i 's/HOST_FP_SIZE, 2696/HOST_FP_SIZE, 12288/' arch/x86/um/user-offsets.c
grep -q 'HOST_FP_SIZE, 12288' arch/x86/um/user-offsets.c

# Its interrupts are 64 and all its own: an input of gpio-sim needs another.
sed -i 's/^\(#define NR_IRQS\t*\)UM_LAST_SIGNAL_IRQ$/\1(UM_LAST_SIGNAL_IRQ + 256)/' arch/um/include/asm/irq.h
grep -q '+ 256' arch/um/include/asm/irq.h

# gpio-sim raises its interrupts from the tick: a tick of 1 ms brings an edge in 1 to 2 ms.
sed -i '/^config HZ$/,/default/ s/default 100$/default 1000/' arch/um/Kconfig

KCONFIG_ALLCONFIG=$here/kernel.config make -s ARCH=um allnoconfig
# kconfig drops what it cannot have without a word: look whether everything is there.
while read -r want; do
	grep -qxF "$want" .config || { echo "vm: the kernel does not take $want" >&2; exit 1; }
done < <(grep '^CONFIG_' "$here/kernel.config")
grep -qx 'CONFIG_HZ=1000' .config || { echo "vm: the tick is not 1 ms" >&2; exit 1; }
nice make -s ARCH=um -j"$(nproc)" linux >make.log 2>&1 || {
	tail -n 20 make.log >&2
	exit 1
}
strip -o "$dir/linux.new" linux
mv "$dir/linux.new" "$dir/linux" # whole or not at all
echo "$dir/linux"
