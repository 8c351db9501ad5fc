# Stands in for OpenWrt's /lib/functions/network.sh. A network that is up has its device in /tmp/up.
# shellcheck shell=dash
network_flush_cache() { :; }
network_get_device() {
	unset "$1"
	[ -e "/tmp/up/$2" ] && eval "$1=\$(cat /tmp/up/\$2)"
}
