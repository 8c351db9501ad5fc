#!/bin/sh
# Installs what is missing of the programs named, with the system's package manager.
# usage: needs.sh PROGRAM[|PROGRAM] ...     a|b: one of them is enough, and the first one is installed
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

package() { # the package of a program, by package manager
	case $1:$2 in
	*:nft) echo nftables ;;
	*:systemd-analyze) echo systemd ;;
	dnf:shellcheck) echo ShellCheck ;;
	apt-get:ip | apk:ip) echo iproute2 ;;
	dnf:ip) echo iproute ;;
	apt-get:nc | apk:nc) echo netcat-openbsd ;;
	dnf:nc) echo nmap-ncat ;;
	*:knock | *:knockd) [ "$1" = dnf ] && echo knock || echo knockd ;;
	dnf:ssh | dnf:ssh-keygen) echo openssh-clients ;;
	*:ssh | *:ssh-keygen) echo openssh-client ;;
	dnf:sysctl) echo procps-ng ;;
	*:sysctl) echo procps ;;
	apt-get:xz) echo xz-utils ;;
	apt-get:qemu-system-mipsel | dnf:qemu-system-mipsel) echo qemu-system-mips ;;
	apt-get:qemu-* | dnf:qemu-*) echo qemu-user ;;
	*:modprobe) echo kmod ;;
	apt-get:fwknop) echo fwknop-client ;;
	apt-get:fwknopd) echo fwknop-server ;;
	*:fwknopd) echo fwknop ;;
	apk:telnet) echo busybox-extras ;;
	apk:oathtool) echo oath-toolkit-oathtool ;;
	*) echo "$2" ;;
	esac
}

missing=
for need in "$@"; do
	found=
	for program in $(echo "$need" | tr '|' ' '); do
		if command -v "$program" >/dev/null 2>&1; then found=yes; fi
	done
	[ -n "$found" ] || missing="$missing ${need%%|*}"
done
[ -n "$missing" ] || exit 0

for manager in apt-get apk dnf; do
	command -v $manager >/dev/null 2>&1 || continue
	packages=
	for program in $missing; do
		p=$(package $manager "$program")
		case "$packages " in *" $p "*) ;; *) packages="$packages $p" ;; esac
	done
	root=
	if [ "$(id -u)" != 0 ]; then
		root=sudo
		command -v sudo >/dev/null 2>&1 || break
	fi
	echo "installing with $manager:$packages"
	# shellcheck disable=SC2086 # several packages
	case $manager in
	apt-get) # it waits for dpkg's lock, and not for that of its lists
		tries=60
		until said=$($root env LC_ALL=C apt-get update -qq 2>&1); do
			tries=$((tries - 1))
			if [ $tries = 0 ] || [ "${said#*Could not get lock}" = "$said" ]; then
				echo "$said" >&2
				exit 1
			fi
			sleep 5
		done
		$root env DEBIAN_FRONTEND=noninteractive apt-get install -o DPkg::Lock::Timeout=300 -y -qq --no-install-recommends $packages >/dev/null
		;;
	apk) $root apk add -q $packages ;;
	dnf) $root dnf install -y -q $packages ;;
	esac
	exit 0
done
echo "missing:$missing: install them, or run as root" >&2
exit 1
