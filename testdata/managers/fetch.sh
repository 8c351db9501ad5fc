#!/bin/sh
# Fetches Debian packages, with what they need and this machine lacks, and prints the folder that they are in:
# ${XDG_CACHE_HOME:-~/.cache}/sesame/managers/PACKAGE-... It installs nothing. apt checks them by the distribution's signature.
# usage: fetch.sh PACKAGE ...
set -eu
umask 022
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sesame/managers
debs=$cache/$(echo "$*" | tr ' ' -)
# What is lacking depends on what is installed.
wanted="$* $(dpkg-query -W -f '${Package} ' | sha256sum)"

fail() {
	echo "fetch.sh: $1" >&2
	exit 1
}

whole() {
	[ "$(cat "$debs/WANTED" 2>/dev/null)" = "$wanted" ] && (cd "$debs" && sha256sum --status -c SHA256SUMS)
}

mkdir -p "$cache/lists/partial" || fail "cannot write to $cache: set XDG_CACHE_HOME to a folder that can be written"
exec 9>"$cache/lock"
flock 9
if whole; then
	echo "$debs"
	exit 0
fi
new=$cache/new
rm -rf "$new"
mkdir "$new"

# The packages named are fetched even if they are installed: they are to be installed anew, elsewhere.
# shellcheck disable=SC2046,SC2086 # several packages
download() { # apt's options
	plan=$(LC_ALL=C apt-get -q "$@" -s install --no-install-recommends $packages) &&
		lacking=$(echo "$plan" | sed -n 's/^Inst \([^ ]*\).*/\1/p') &&
		(cd "$new" && apt-get -q -o Acquire::Retries=2 -o APT::Sandbox::User="$(id -un)" "$@" download \
			$(printf '%s\n' $packages $lacking | sort -u))
}

# The machine's own package lists, and where it has none or old ones, new ones of our own.
packages=$*
lists="-o Dir::State::Lists=$cache/lists -o Acquire::Languages=none"
if ! download >"$cache/log" 2>&1; then
	# shellcheck disable=SC2086 # several options
	{ apt-get -q -o APT::Sandbox::User="$(id -un)" $lists update && download $lists; } >"$cache/log" 2>&1 || {
		cat "$cache/log" >&2
		fail "$* cannot be fetched: connect this machine to the network, or copy $cache from one where it worked"
	}
fi
printf '%s\n' "$wanted" >"$new/WANTED"
(cd "$new" && sha256sum ./*.deb >SHA256SUMS)
rm -rf "$debs"
mv "$new" "$debs"
echo "$debs"
