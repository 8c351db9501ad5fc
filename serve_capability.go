//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// missingCapability names what the process lacks (capabilities(7)). As root in a container it may have less than root.
func missingCapability(c *Config) error {
	effective, err := capabilities()
	if err != nil {
		return nil // what needs it will tell
	}
	var missing []string
	if effective&(1<<unix.CAP_NET_RAW) == 0 {
		missing = append(missing, "CAP_NET_RAW (to see packets)")
	}
	if effective&(1<<unix.CAP_NET_ADMIN) == 0 && c.native() {
		missing = append(missing, "CAP_NET_ADMIN (for Open_Ports)")
	}
	if missing == nil {
		return notHandedOn(c)
	}
	return fmt.Errorf("missing: %s: run it as root, or give it what is missing", strings.Join(missing, " and "))
}

// notHandedOn is an error for doors with Open_Ports if the process has capabilities that the firewall's programs do not
// get. A file's capabilities are not inherited, and clear those that are (ambient).
func notHandedOn(c *Config) error {
	effective, err := capabilities()
	ambient, _ := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, unix.CAP_NET_ADMIN, 0, 0)
	if err != nil || effective == 0 || os.Geteuid() == 0 || ambient == 1 || !c.native() {
		return nil
	}
	const caps = "+net_admin,+net_raw"
	file, _ := os.Executable()
	return fmt.Errorf("Open_Ports needs iptables or nft, which do not get the capabilities of this file: setcap -r %s, and start it by "+
		"a unit with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW, or by setpriv --reuid=%d --clear-groups --inh-caps=%s --ambient-caps=%s",
		file, os.Geteuid(), caps, caps)
}

// capabilities are the effective ones that a daemon makes use of, a bit for each.
func capabilities() (effective uint32, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	err = unix.Capget(&header, &have[0])
	return have[0].Effective & (1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_ADMIN), err
}

// hideMemory keeps the sequences from other processes of a user (PR_SET_DUMPABLE). Then the process's files in /proc are
// root's. What is root's is root's anyway, and in a container start-stop-daemon may need them.
func hideMemory() {
	if os.Geteuid() != 0 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
}
