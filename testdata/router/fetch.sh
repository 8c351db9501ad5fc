#!/bin/sh
# Fetches the Debian packages that the emulated router is made of, for its CPU (mipsel), and prints the folder they are in:
# ${XDG_CACHE_HOME:-~/.cache}/sesame/router. Packages that are missing or damaged there are fetched again. apt checks them
# by Debian's signature. It has lists and a state of its own here, and installs nothing.
set -eu
umask 022
suite=bookworm # the last Debian with mipsel
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# The kernel, which apt finds the number of; the firewalls with their libraries; wg; teamnl and pppd with their libraries.
wanted="linux-image-4kc-malta busybox-static libc6 libgcc-s1
iptables libxtables12 libip4tc2 libip6tc2 libmnl0 libnftnl11 libnetfilter-conntrack3 libnfnetlink0
nftables libnftables1 libgmp10 libjansson4 libedit2 libtinfo6 libbsd0 libmd0
wireguard-tools
libteam-utils libteam5 libnl-3-200 libnl-cli-3-200 libnl-genl-3-200 libnl-nf-3-200 libnl-route-3-200
ppp libatomic1 libaudit1 libcap-ng0 libcap2 libcrypt1 libdbus-1-3 libgcrypt20 libgpg-error0 liblz4-1 liblzma5 libpam0g
libpcap0.8 libssl3 libsystemd0 libzstd1"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sesame/router

fail() {
	echo "fetch.sh: $1" >&2
	exit 1
}

# whole says whether everything wanted is in the folder $cache/debs, undamaged.
whole() {
	[ "$(cat "$cache/debs/WANTED" 2>/dev/null)" = "$suite $wanted" ] &&
		(cd "$cache/debs" && sha256sum --status -c SHA256SUMS)
}

mkdir -p "$cache" || fail "cannot write to $cache: set XDG_CACHE_HOME to a folder that can be written"
exec 9>"$cache/lock"
flock 9
if whole; then
	echo "$cache/debs"
	exit 0
fi

for program in apt-get dpkg-deb; do
	command -v $program >/dev/null || fail "$program is needed: run this on Debian or a system made from it"
done
[ -r $keyring ] || fail "$keyring is needed: install debian-archive-keyring"
new=$cache/new
rm -rf "$new"
mkdir -p "$new/lists/partial" "$new/archives/partial" "$new/debs"
: >"$new/status"

own() { # apt's options: our folders in place of the system's
	program=$1
	shift
	"$program" -q -o APT::Architecture=mipsel -o APT::Architectures=mipsel -o Acquire::Languages=none \
		-o Dir::State="$new" -o Dir::State::status="$new/status" -o Dir::Cache="$new" \
		-o Dir::Etc::sourcelist="$new/sources.list" -o Dir::Etc::sourceparts=- \
		-o APT::Sandbox::User="$(id -un)" -o APT::Update::Error-Mode=any -o Acquire::Retries=2 \
		-o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@"
}

# Where this machine has its Debian from, if it has; else, and where that has no mipsel, Debian's own servers.
mirrors() {
	apt-get --print-uris update 2>/dev/null |
		sed -n "s,^'\(.*\)/dists/\(bookworm\|trixie\|forky\|sid\|oldstable\|stable\|testing\|unstable\)/InRelease'.*,\1,p" | head -n 1
	echo http://deb.debian.org/debian
}

download() {
	# shellcheck disable=SC2046 # package names
	own apt-get update && kernel=$(own apt-cache show linux-image-4kc-malta | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -n 1) &&
		(cd "$new/debs" && own apt-get download "$kernel" $(echo "$wanted" | tr '\n' ' ' | sed 's/linux-image-4kc-malta//'))
}

for mirror in $(mirrors | uniq); do
	echo "deb [signed-by=$keyring] $mirror $suite main" >"$new/sources.list"
	download >"$new/log" 2>&1 || continue
	printf '%s\n' "$suite $wanted" >"$new/debs/WANTED"
	(cd "$new/debs" && sha256sum ./*.deb >SHA256SUMS)
	rm -rf "$cache/debs"
	mv "$new/debs" "$cache/debs"
	rm -rf "$new"
	echo "$cache/debs"
	exit 0
done
cat "$new/log" >&2
fail "Debian's packages for mipsel cannot be fetched: connect this machine to the network, or copy $cache from one where it worked"
