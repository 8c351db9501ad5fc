//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unsafe"

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
	effective, _ := capabilities()
	ambient, _ := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, unix.CAP_NET_ADMIN, 0, 0)
	if effective == 0 || os.Geteuid() == 0 || ambient == 1 || !c.native() {
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

// giveUpPrivileges leaves the process, for good, with what it takes to see packets and to change the firewall
// (capabilities(7)), and its children with no more. It is for a daemon that runs no commands, as those may need anything.
// given is false where it could not be done, which is no reason not to run.
func giveUpPrivileges(c *Config) (given bool) {
	if c.commands() != nil {
		return false
	}
	keep := uint64(1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW)
	if slices.ContainsFunc(c.files(), ofAnother) { // as at a reload
		keep |= 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if unix.Capget(&header, &have[0]) != nil {
		return false
	}
	for i := range have {
		bits := uint32(keep >> (32 * i))
		have[i].Effective &= bits
		have[i].Permitted &= bits
		have[i].Inheritable &= bits
	}
	// Both belong to threads. With cgo, as in the tests, the runtime does not know all of them.
	if _, _, failed := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); failed != 0 {
		return false
	}
	_, _, failed := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&have)), 0)
	return failed == 0
}

// ofAnother reports whether a file, or the folder it is in, belongs to another user. No path belongs to nobody.
func ofAnother(path string) bool {
	return path != "" && slices.ContainsFunc([]string{path, filepath.Dir(path)}, func(path string) bool {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		stat, known := info.Sys().(*syscall.Stat_t)
		return known && int(stat.Uid) != os.Geteuid()
	})
}
