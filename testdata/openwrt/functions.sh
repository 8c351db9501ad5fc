# Stands in for OpenWrt's /lib/functions.sh, as far as the script uses it. As there, what uci exports, not strictly, is read
# by the functions package, config, option and list, which call config_cb, option_cb and list_cb; and at the end config_cb.
# shellcheck shell=dash disable=SC2034
config_cb() { :; }
option_cb() { :; }
list_cb() { :; }
package() { :; }
config() {
	local cfgtype=$1 name=$2
	CONFIG_SECTION=$name
	config_cb "$cfgtype" "$name"
}
option() {
	local varname=$1 value=$2
	eval "CONFIG_${CONFIG_SECTION}_$varname=\$value"
	option_cb "$varname" "$value"
}
list() {
	local varname=$1 value=$2 len
	config_get len "$CONFIG_SECTION" "${varname}_LENGTH" 0
	len=$((len + 1))
	eval "CONFIG_${CONFIG_SECTION}_${varname}_LENGTH=$len CONFIG_${CONFIG_SECTION}_${varname}_ITEM$len=\$value"
	eval "CONFIG_${CONFIG_SECTION}_$varname=\"\${CONFIG_${CONFIG_SECTION}_$varname:+\$CONFIG_${CONFIG_SECTION}_$varname }\$value\""
	list_cb "$varname" "$value"
}
config_load() {
	local DATA
	CONFIG_SECTION=
	DATA=$(/sbin/uci -P /var/state -S -n export "$1" 2>/dev/null) || return
	eval "$DATA"
	${CONFIG_SECTION:+config_cb}
}
config_get() { eval "$1=\${CONFIG_$2_$3:-\$4}"; }
config_list_foreach() {
	local section=$1 option=$2 function=$3 i=1 len val
	config_get len "$section" "${option}_LENGTH"
	[ -z "$len" ] && return 0
	while [ $i -le "$len" ]; do
		config_get val "$section" "${option}_ITEM$i"
		eval "$function \"\$val\""
		i=$((i + 1))
	done
}
