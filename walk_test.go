//go:build linux && !pure

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal runs a line on the host, on a terminal of its own, and returns its keys and what it shows.
func (m *bootedHost) terminal(line string) (cmd *exec.Cmd, keys io.WriteCloser, shown func() string) {
	m.Helper()
	cmd = m.command("exec script -qec '" + line + "' /dev/null")
	keys, err := cmd.StdinPipe()
	if err != nil {
		m.Fatal(err)
	}
	screen, err := os.CreateTemp(m.TempDir(), "")
	if err != nil {
		m.Fatal(err)
	}
	defer screen.Close()
	cmd.Stdout, cmd.Stderr = screen, screen
	if err := cmd.Start(); err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { kill(cmd) })
	return cmd, keys, func() string { text, _ := os.ReadFile(screen.Name()); return string(text) }
}

// TestWalk goes from the copied file to an ssh login through the hidden port, by the README's quick start, on a Debian that
// has knockd's package as it comes; and with mistakes on the way, after which all is as before.
func TestWalk(t *testing.T) {
	steps := strings.Split(strings.TrimSpace(blocks(t, "README.md", "quickstart")[0]), "\n")
	initLine, addLine, _ := strings.Cut(steps[2], " | ")
	// Here nobody logs in to the server yet.
	initLine = strings.TrimPrefix(initLine, "$ ssh -t admin@192.0.2.1 sudo ")
	if got, want := steps[1:], []string{"# systemctl enable --now sesame", "$ ssh -t admin@192.0.2.1 sudo sesame init ssh --port 22 | sesame add home >> ~/.ssh/config",
		"# sesame try", "$ ssh admin@home"}; !slices.Equal(got, want) {
		t.Fatalf("the README has %q, want %q", got, want)
	}
	w := newSSHWorld(t)
	w.must(w.host.run("ip", "route", "add", "default", "via", "10.9.0.2", "dev", "eth0"))
	m := boot(t, w.host, systemdInit, "")
	// multi-user.target would start what else is on this machine.
	m.run("cd /machine && " + strings.TrimPrefix(steps[0], "# ") + " && systemctl enable sesame && systemctl restart sesame && mkdir -p /etc/systemd/system/machine.target.wants && " +
		"ln -s /etc/systemd/system/sesame.service /etc/systemd/system/machine.target.wants")
	up := func() {
		t.Helper()
		w.eventually("the daemon", func() bool { _, err := m.output("sesame status"); return err == nil })
	}
	up()
	w.wantPort(0, hostSSH, reached)

	// The wrong port, and nobody confirms it.
	m.run(strings.Replace(initLine, "22", "2022", 1) + " > /dev/null")
	cmd, _, shown := m.terminal("sesame try 3s")
	w.eventually("the end of the trial", func() bool { return strings.Contains(shown(), "it was not kept: ") })
	_ = cmd.Wait()
	w.wantPort(0, hostSSH, reached)
	m.run(`sed -i '/^\[ssh\]/,$d' /etc/knockd.conf`)

	// The right port. What is typed on the client is what the server has told.
	told := m.command(initLine)
	var line, words bytes.Buffer
	told.Stdout, told.Stderr = &line, &words
	w.must(told.Run())
	if !strings.Contains(words.String(), "\nThen try it here, before it is kept: sesame try\n") {
		t.Errorf("init says %s", words.String())
	}
	added := w.client(strings.TrimSuffix(addLine, " >> ~/.ssh/config"), line.Bytes())
	w.must(os.WriteFile(w.dir+"/ssh_config", []byte(added.stdout+"\tIdentityFile "+w.dir+"/id\n"), 0o600))
	in := func(what string) {
		t.Helper()
		w.awaitPort(0, hostSSH, hidden)
		var r clientRun
		w.eventually(what+": a login", func() bool { // it may not be hidden yet when it is knocked on
			r = w.client(strings.Replace(steps[4], "$ ssh admin@", "ssh root@", 1)+" echo in", nil)
			return r.status == 0 && r.stdout == "in\n"
		})
		m.run("sesame close --all")
	}

	// The terminal is closed.
	cmd, keys, _ := m.terminal("sesame try 1h")
	in("tried")
	w.must(cmd.Process.Signal(unix.SIGKILL)) // and so its terminal is gone
	_ = keys.Close()
	w.awaitPort(0, hostSSH, reached)

	// The host loses its power.
	_, _, _ = m.terminal("sesame try 1h")
	in("tried again")
	m.reboot()
	up()
	w.wantPort(0, hostSSH, reached)

	cmd, keys, shown = m.terminal("sesame try")
	in("tried once more")
	_, _ = io.WriteString(keys, "\n")
	w.eventually("its end", func() bool { return strings.Contains(shown(), "/etc/knockd.conf is kept\r\n") })
	_ = cmd.Wait()
	in("kept")
	m.reboot()
	up()
	in("kept, after a reboot")
}
