//go:build linux

package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// What install puts in place, beside the program itself.
var (
	//go:embed dist/knockd.conf
	exampleConfig string
	//go:embed dist/sesame.service
	systemdUnit string
	//go:embed dist/knockd.service
	systemdForward string
	//go:embed dist/knockd.logrotate
	logrotateFile string
	//go:embed dist/openwrt/sesame.init
	procdScript string
	//go:embed dist/openwrt/sesame.config
	uciExample string
	//go:embed dist/openwrt/sesame.nft
	fw4Include string
	//go:embed dist/openwrt/sesame.upgrade
	sysupgradeHook string
	//go:embed dist/sesame.openrc
	openrcScript string
	//go:embed dist/sesame.sysv
	sysvScript string
	//go:embed dist/knockd.sysv
	sysvForward string
)

// initSystem is what starts the daemon.
type initSystem struct {
	name, sign string // it runs here if the file sign is there
	prefix     string
	items      []item
	enabled    []string // links that stand for it being enabled, as patterns
	run        []string // after a change; nil: nothing
	stop       string   // how a person stops the daemon
	start      string   // lines by which a person starts it
}

// Debian's package stops the service that it knows by its name at each upgrade, and starts nothing. So ours has another
// name, and what stands under the package's forwards to it.
const (
	knockdInitScript = "/etc/init.d/knockd"
	knockdUnit       = "/etc/systemd/system/knockd.service"
	wantedUnits      = "/etc/systemd/system/multi-user.target.wants/"
	knockdDropIns    = knockdUnit + ".d"
	fw4Includes      = "/usr/share/nftables.d/chain-pre/" // by chain
)

var initSystems = []initSystem{
	{"systemd", "/run/systemd/system", "/usr/local", []item{
		{kindExample, defaultConfigFile, exampleConfig, 0o600, ""},
		{kindFile, "/etc/systemd/system/sesame.service", systemdUnit, 0o644, ""},
		{kindFile, knockdUnit, systemdForward, 0o644, ""},
		{kindFile, "/etc/logrotate.d/knockd", logrotateFile, 0o644, ""},
	}, []string{wantedUnits + "sesame.service", wantedUnits + "knockd.service"}, []string{"systemctl", "daemon-reload"},
		"systemctl stop sesame", "systemctl stop knockd\n  systemctl enable sesame\n  systemctl restart sesame"},
	{"procd", "/sbin/procd", "/usr", []item{
		{kindExample, uciFile, uciExample, 0o600, ""},
		{kindFile, "/etc/init.d/sesame", procdScript, 0o755, ""},
		{kindFile, fw4Includes + "input/sesame.nft", fw4Include, 0o644, ""},
		{kindFile, fw4Includes + "forward/sesame.nft", fw4Include, 0o644, ""},
		{kindFile, "/lib/upgrade/sesame.sh", sysupgradeHook, 0o644, ""},
	}, []string{"/etc/rc.d/S19sesame", "/etc/rc.d/K90sesame"}, nil,
		"/etc/init.d/sesame stop",
		"uci set sesame.main.enabled=1\n  uci commit sesame\n  /etc/init.d/sesame enable\n  /etc/init.d/sesame restart"},
	{"openrc", "/run/openrc", "/usr/local", []item{
		{kindExample, defaultConfigFile, exampleConfig, 0o600, ""},
		{kindFile, "/etc/init.d/sesame", openrcScript, 0o755, ""},
	}, []string{"/etc/runlevels/boot/sesame"}, nil,
		"rc-service sesame stop", "rc-update add sesame boot\n  rc-service sesame restart"},
	{"busybox", "/etc/inittab", "/usr", []item{
		{kindExample, defaultConfigFile, exampleConfig, 0o600, ""},
		{kindFile, "/etc/init.d/sesame", sysvScript, 0o755, ""},
	}, nil, nil,
		"take its line out of /etc/inittab and kill -HUP 1, or /etc/init.d/sesame stop",
		"sed -i '\\|/usr/sbin/knockd|d' /etc/inittab\n  echo ::respawn:/usr/sbin/knockd --keep /var/lib/sesame/good.conf >> /etc/inittab\n  kill -HUP 1"},
	{"sysv", "/etc/inittab", "/usr/local", []item{
		{kindExample, defaultConfigFile, exampleConfig, 0o600, ""},
		{kindFile, "/etc/init.d/sesame", sysvScript, 0o755, ""},
		{kindFile, knockdInitScript, sysvForward, 0o755, ""},
	}, []string{"/etc/rc?.d/[SK]??sesame"}, nil,
		"/etc/init.d/sesame stop", "update-rc.d sesame defaults\n  /etc/init.d/sesame restart"},
	{"none", "/", "/usr/local", []item{
		{kindExample, defaultConfigFile, exampleConfig, 0o600, ""},
	}, nil, nil, "kill it", "/usr/local/sbin/knockd -d --keep /var/lib/sesame/good.conf"},
}

// OpenWrt's configuration, and the program for it.
const uciFile, uciProgram = "/etc/config/sesame", "/sbin/uci"

// hasUCI is whether the doors are there.
func hasUCI() bool {
	_, err := os.Stat(uciFile)
	_, noProgram := os.Stat(uciProgram)
	return err == nil && noProgram == nil
}

// notBeside puts before the error of what cannot be done beside a daemon how to stop that one.
func notBeside(err error) error {
	held, isHeld := errors.AsType[*heldError](err)
	if !isHeld {
		return err
	}
	stop := initSystems[slices.IndexFunc(initSystems, initSystem.runs)].stop // the last one always does
	return fmt.Errorf("it runs: %s: %w", stop, held)
}

// next is what is left to a person after install. On a router the daemon does not start without a door; elsewhere it starts
// first, so that it has a configuration to go back to when the door is tried.
func (s initSystem) next() string {
	const door = "sesame init ssh --port 22"
	if s.name == "procd" {
		return door + "\n  " + s.start
	}
	return s.start + "\n  " + door + "\n  sesame try"
}

// runs is whether this machine is started by it.
func (s initSystem) runs() bool {
	if s.name == "busybox" {
		if init, _ := os.Readlink("/sbin/init"); filepath.Base(init) != "busybox" {
			return false
		}
	}
	_, err := os.Stat(s.sign)
	return err == nil
}
