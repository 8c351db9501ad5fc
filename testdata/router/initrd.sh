#!/bin/sh
# Makes the emulated router: OUT/vmlinuz, OUT/initrd.gz, and OUT/ppp.gz, the same with wg, pppd, teamnl and their libraries.
# usage: initrd.sh DEBS SESAME OUT      DEBS: the folder that fetch.sh prints; SESAME: our file, for mipsle
# OUT has knockd.conf, and links.conf for a router with more links.
set -eu
umask 022
debs=$1 sesame=$2 out=$(cd "$3" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
# What the kernel cannot load by itself is loaded by etc/init.d/rcS.
modules="virtio_net virtio_pci af_packet veth 8021q bonding team_mode_roundrobin vrf ppp_generic ppp_async wireguard nf_tables nft_compat nft_ct
nft_chain_nat nft_nat nft_fib_inet nft_socket nft_limit nft_reject_inet nft_log ip_tables ip6_tables iptable_filter ip6table_filter x_tables xt_tcpudp xt_conntrack
xt_comment xt_mark"

unpacked=$out/unpacked root=$out/root
rm -rf "$unpacked" "$root"
mkdir -p "$unpacked" "$root"
for deb in "$debs"/*.deb; do
	case $deb in
	# The kernel has 200 MB of modules: those of drivers that are not emulated need not be written.
	*/linux-image-*) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$unpacked" --wildcards './boot/vmlinuz-*' '*/modules.*' '*/kernel/net/*' \
		'*/kernel/lib/*' '*/kernel/arch/*' '*/kernel/crypto/*' '*/kernel/drivers/net/*' '*/kernel/drivers/virtio/*' ;;
	*) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$unpacked" ;;
	esac
done
version=$(basename "$unpacked"/lib/modules/*)
mv "$unpacked/boot/vmlinuz-$version" "$out/vmlinuz"

depmod -b "$unpacked" "$version" 2>/dev/null
for module in $modules; do
	modprobe -q -d "$unpacked" -S "$version" --show-depends "$module" || echo "initrd.sh: there is no module $module" >&2
done | sed -n "s,^insmod $unpacked/\([^ ]*\).*,\1,p" | sort -u >"$out/modules"
(cd "$unpacked" && cpio -p -d --quiet "$root") <"$out/modules"
cp "$unpacked/lib/modules/$version"/modules.builtin* "$unpacked/lib/modules/$version/modules.order" "$root/lib/modules/$version/"
depmod -b "$root" "$version"

cp -a "$unpacked/bin" "$root/"
mkdir -p "$root/usr/bin" "$root/usr/sbin"
for program in bin/wg bin/teamnl sbin/xtables-legacy-multi sbin/nft sbin/pppd; do
	cp "$unpacked/usr/$program" "$root/usr/$program"
done
for tool in iptables ip6tables; do
	for name in "" -save -restore; do
		ln -s xtables-legacy-multi "$root/usr/sbin/$tool$name"
	done
done
mkdir -p "$root/usr/lib" "$root/sbin"
cp -a "$unpacked"/lib/mipsel-linux-gnu "$unpacked"/lib/ld* "$root/lib/"
cp -a "$unpacked/usr/lib/mipsel-linux-gnu" "$root/usr/lib/"
rm -rf "$root"/usr/lib/mipsel-linux-gnu/gconv "$root"/usr/lib/mipsel-linux-gnu/engines-3 "$root"/usr/lib/mipsel-linux-gnu/libnl

cp -R "$here/root/." "$root/"
for folder in dev proc sys tmp run etc/ppp var/log var/lib; do mkdir -p "$root/$folder"; done
ln -s /run "$root/var/run"
for name in init modprobe; do ln -s /bin/busybox "$root/sbin/$name"; done
ln -s /bin/busybox "$root/bin/sh"
cp "$sesame" "$root/usr/sbin/sesame"
cp "$out/knockd.conf" "$out/links.conf" "$root/etc/"
chmod 600 "$root"/etc/*.conf
archive() {
	(cd "$root" && cpio -o -H newc -R 0:0 --quiet) | gzip -1
}
(cd "$root" && find . | sort) >"$out/files"
ppp='/pppd$|/bin/(wg|teamnl)$|/lib(atomic|audit|cap|cap-ng|crypt|crypto|dbus-1|gcrypt|gpg-error|lz4|lzma|nl[a-z-]*-3|pam[a-z_]*|pcap|ssl|systemd|team|zstd)[.]so'
grep -vE "$ppp" "$out/files" | archive >"$out/initrd.gz"
grep -E "$ppp" "$out/files" | archive | cat "$out/initrd.gz" - >"$out/ppp.gz"
rm -rf "$unpacked" "$root"
