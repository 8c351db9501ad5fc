//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// codeSteps has, for each secret, the newest step whose code has opened a door, in a file of the folder for the state, and in no other
// one: there codes that are used up would be good again. It has a line for each:
//
//	KEY<tab>STEP<tab>SUM
//
// with the key of the secret, and the line's checksum. Steps only go up. Where the folder is gone after a reboot, no code counts whose
// step has not begun two steps after it: those before it may have been used.
type codeSteps struct {
	path   string
	now    func() time.Duration // since boot
	date   func() time.Time
	synced func() bool // the kernel takes its clock for right
}

var errUsedCode = errors.New("its code, or a later one, has been used: the next one opens it")

// use notes that a code is used, and returns when that is on the disk. With an error it must open nothing.
func (c *codeSteps) use(key string, step uint32) error {
	if why := c.waits(); why != "" {
		return errors.New(why)
	}
	boot := time.Duration(c.date().UnixNano()) - c.now()
	if c.inMemory() && time.Duration(step)*codeTime < boot+2*codeTime {
		return errors.New("its code is from before this boot, or from a minute after it, and may have been used: a later one opens it")
	}
	text, err := os.ReadFile(c.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	next := ""
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, "\t")
		number, _, _ := strings.Cut(rest, "\t")
		newest, err := strconv.ParseUint(number, 10, 32)
		switch {
		case err != nil || line != sealed(name+"\t"+number):
			return fmt.Errorf("%s is damaged: which codes are used is not known: wait two minutes, and delete it", c.path)
		case name != key:
			next += line
		case step <= uint32(newest):
			return errUsedCode
		}
	}
	if err = makeStateDir(filepath.Dir(c.path)); err == nil {
		_, err = writeFile(c.path, []byte(next+sealed(fmt.Sprintf("%s\t%d", key, step))), nil, nil)
	}
	if err != nil {
		return fmt.Errorf("its code cannot be noted as used: %w: %s", err, otherDir)
	}
	return nil
}

// waits says why no code opens a door now, or "".
func (c *codeSteps) waits() string {
	if c.inMemory() && !c.synced() {
		return fmt.Sprintf("%s is in memory, and the clock is not set yet: is there an NTP client?", filepath.Dir(c.path))
	}
	return ""
}

// warning is for people who have doors with codes, or "".
func (c *codeSteps) warning() string {
	if !c.inMemory() {
		return ""
	}
	return fmt.Sprintf("%s is in memory: after a boot, codes open nothing before an NTP client has set the clock, and then those from "+
		"a minute after the boot on: StateDir names a folder on a disk", filepath.Dir(c.path))
}

// inMemory is whether the folder, or the one that it is to be made in, is gone after a reboot (statfs(2)).
func (c *codeSteps) inMemory() bool {
	var fs unix.Statfs_t
	folder := filepath.Dir(c.path)
	for unix.Statfs(folder, &fs) == unix.ENOENT && folder != "/" {
		folder = filepath.Dir(folder)
	}
	return uint32(fs.Type) == unix.TMPFS_MAGIC || uint32(fs.Type) == unix.RAMFS_MAGIC
}

// clockSynced asks the kernel (adjtimex(2)).
func clockSynced() bool {
	var clock unix.Timex
	_, err := unix.Adjtimex(&clock)
	return err == nil && clock.Status&unix.STA_UNSYNC == 0
}
