//go:build linux && !pure

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFilesOfAnother has a configuration that is not root's: after a reload it is still read, and the log written. The
// privileges for that are kept.
func TestFilesOfAnother(t *testing.T) {
	program := realProgram(t)
	for _, tt := range []struct {
		name, chown string
		capPrm      string
	}{
		{"root's", "", "0000000000003000"},
		{"the configuration", "knockd.conf", "000000000000300b"},
		{"the folder", ".", "000000000000300b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNativeTest(t, firewallHost{}, fmt.Sprintf(nativeDoor, 60))
			config, log := n.dir+"/knockd.conf", n.dir+"/log"
			n.must(os.WriteFile(config, []byte(n.config), 0o600))
			if tt.chown != "" {
				n.must(os.Chown(filepath.Join(n.dir, tt.chown), 65534, 65534))
			}
			d := n.daemon(exec.Command(program, "serve", "-c", config, "-i", "eth0", "-g", log, "-s", n.socket), config, log)
			d.await("starting up")
			status := func() string {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
				return string(text)
			}
			n.eventually("the privileges", func() bool { return strings.Contains(status(), "CapPrm:\t"+tt.capPrm+"\n") })
			n.must(os.Rename(log, log+".1"))
			d.signal(unix.SIGHUP)
			d.await("re-opening log file")
			if strings.Contains(d.logged(), "denied") {
				t.Errorf("got %s", d.logged())
			}
			n.knockOnce(0)
			n.awaitPort(0, hostSSH, reached)
			d.stop()
		})
	}
}
