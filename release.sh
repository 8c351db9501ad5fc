#!/bin/sh
# Builds the release into build/release, where nothing else is: for each CPU the file and a .tar.gz of it with licence,
# manual and an example configuration, and SHA256SUMS. macOS and Windows have the client alone, and its manual. The same
# source, by the same Go, gives the same bytes.
# usage: release.sh [CPU|OS-CPU ...]    by make, which says how to build: VERSION and GOBUILD
# build/sizes.md is the table of sizes in docs/router.md. Which one is wrong there by more than 5%, or over the budget, is an error.
set -eu
[ $# -gt 0 ] || set -- mips mipsle armv5 armv7 arm64 386 amd64 riscv64 darwin-amd64 darwin-arm64 windows-amd64 windows-arm64
budget=5000000
budget_xz=1300000
date=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
out=$PWD/build/release

rm -rf build/release build/stage
mkdir -p build/release
printf '| linux/ | file, MB | xz, MB |\n|---|---|---|\n' > build/sizes.md
for target in "$@"; do
	cpu=${target##*-} os=linux exe='' with="man dist"
	case $target in
	*-*) os=${target%-*} with=man/knock.1 ;;
	esac
	[ "$os" != windows ] || exe=.exe
	arch=$cpu variant=''
	case $cpu in
	mips*) variant=GOMIPS=softfloat ;;
	armv*) arch=arm variant=GOARM=${cpu#armv} ;;
	esac
	name=sesame-$VERSION-$os-$cpu
	stage=build/stage/$name
	mkdir -p "$stage"
	eval "GOOS=$os GOARCH=$arch $variant $GOBUILD -o '$stage/sesame$exe' ."
	# shellcheck disable=SC2086 # they are words
	for f in LICENSE README.md CHANGELOG.md docs $with; do
		[ ! -e $f ] || cp -R $f "$stage"
	done
	tar -C build/stage --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$date" --format=ustar \
		-cf - "$name" | gzip -9n > "$out/$name.tar.gz"
	cp "$stage/sesame$exe" "$out/$name$exe"
	[ "$os" = linux ] || continue # the table is for routers
	size=$(wc -c < "$stage/sesame")
	xz=$(xz -9c "$stage/sesame" | wc -c)
	echo "$cpu $size $xz" | awk '{ printf "| %s | %.2f | %.2f |\n", $1, $2 / 1e6, $3 / 1e6 }' | tee -a build/sizes.md
	case $cpu in
	mips*)
		if [ "$size" -gt $budget ] || [ "$xz" -gt $budget_xz ]; then
			echo "linux/$cpu: $size bytes, $xz with xz: at most $budget and $budget_xz are allowed" >&2
			exit 1
		fi
		;;
	esac
done
rm -r build/stage
(cd build/release && LC_ALL=C sha256sum -- * > ../SHA256SUMS && mv ../SHA256SUMS .)

awk -F '|' '
	function far(said, is) { return said < .95 * is || said > 1.05 * is }
	NR == FNR { if (FNR > 2) { file[$2] = $3; xz[$2] = $4 } next }
	$2 in file { if (!far($3, file[$2]) && !far($4, xz[$2])) delete file[$2] }
	END { for (cpu in file) { print "docs/router.md: the size for" cpu "is missing, or wrong by more than 5%: make sizes"; exit 1 } }
' build/sizes.md docs/router.md >&2
