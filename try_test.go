//go:build linux && !pure

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tryTest is a daemon with a kept configuration that hides nothing, and a changed one in its file, which hides ssh.
type tryTest struct {
	*nativeTest
	daemon   *running
	changed  string
	terminal *os.File // of sesame try; nil: a pipe
}

func newTryTest(t *testing.T) *tryTest {
	n := &tryTest{nativeTest: newNativeTest(t, firewallHosts[0], "[a]\n\tSequence = 1000,3000,2000\n\tStart_Command = true\n")}
	n.args = []string{"--keep", n.dir + "/good.conf"}
	n.daemon = n.serve()
	n.eventually("the kept configuration", func() bool { return n.kept() == n.config })
	n.changed = n.config + fmt.Sprintf(nativeDoor, 600)
	n.daemon.write(n.changed)
	return n
}

func (n *tryTest) kept() string { text, _ := os.ReadFile(n.dir + "/good.conf"); return string(text) }

// try starts sesame try, and waits until the changed configuration is in force.
func (n *tryTest) try(args ...string) (cmd *exec.Cmd, enter io.WriteCloser, said *bufio.Reader) {
	n.Helper()
	cmd = sesame("sesame", append([]string{"try", "-s", n.socket}, args...)...)
	var err error
	if n.terminal != nil {
		cmd.Stdin = n.terminal
	} else {
		enter, err = cmd.StdinPipe()
	}
	n.must(err)
	out, in, err := os.Pipe()
	n.must(err)
	cmd.Stdout, cmd.Stderr = in, in
	n.must(n.host.start(cmd))
	n.must(in.Close())
	n.Cleanup(func() { _, _ = cmd.Process.Kill(), out.Close() })
	said = bufio.NewReader(out)
	if line, err := said.ReadString('\n'); !strings.HasSuffix(line, "/knockd.conf is in force for "+map[bool]string{true: "2m0s\n", false: strings.Join(args, "") + "\n"}[args == nil]) {
		n.Fatalf("try: got %v, %q", err, line)
	}
	n.awaitPort(1, hostSSH, hidden)
	return cmd, enter, said
}

// asBefore wants try to end so, and the daemon to have what it had before.
func (n *tryTest) asBefore(cmd *exec.Cmd, said io.Reader) {
	n.Helper()
	text, _ := io.ReadAll(said)
	err := cmd.Wait()
	if exitStatus(err) != 1 || !strings.Contains(string(text), "it was not kept: the kept configuration is in force again\n") {
		n.Errorf("try: got %v, %q", err, text)
	}
	n.untried()
}

func (n *tryTest) untried() {
	n.Helper()
	n.awaitPort(1, hostSSH, reached)
	if out, _ := n.tool("status", "-s", n.socket); !strings.Contains(out, "/knockd.conf was tried, and not kept: sesame try tries it again; running with the configuration of ") {
		n.Errorf("status: got %s", out)
	}
	if n.kept() != n.config {
		n.Errorf("kept: got %s", n.kept())
	}
}

// isKept wants the changed configuration in force and kept, also after the daemon is killed.
func (n *tryTest) isKept() {
	n.Helper()
	n.wantPort(1, hostSSH, hidden)
	if _, err := os.Stat(n.dir + "/good.conf" + triedSuffix); n.kept() != n.changed || err == nil {
		n.Errorf("kept: got %s, %v", n.kept(), err)
	}
	n.restart()
	n.wantPort(1, hostSSH, hidden)
	if out, _ := n.tool("status", "-s", n.socket); !strings.HasPrefix(out, "sesame ") {
		n.Errorf("status: got %s", out)
	}
}

// restart kills the daemon and starts it again, with the same file.
func (n *tryTest) restart() {
	n.Helper()
	n.daemon.signal(unix.SIGKILL)
	<-n.daemon.ended
	kept := n.config
	n.config = n.changed
	n.daemon = n.start("")
	n.config = kept
	n.daemon.await("starting up")
}

// TestTryKeep has the configuration kept by Enter, and by another session.
func TestTryKeep(t *testing.T) {
	n := newTryTest(t)
	cmd, enter, said := n.try()
	_, _ = io.WriteString(enter, "\n")
	text, _ := io.ReadAll(said)
	if err := cmd.Wait(); err != nil || !strings.HasSuffix(string(text), "/knockd.conf is kept\n") {
		t.Errorf("try: got %v, %q", err, text)
	}
	n.isKept()
	if out, status := n.tool("try", "-s", n.socket, "--keep"); status != 1 || !strings.Contains(out, "nothing is being tried: "+n.dir+"/knockd.conf is in force\n") {
		t.Errorf("keep without a trial: got %d, %s", status, out)
	}
	if out, status := n.tool("try", "-s", n.socket); status != 1 || !strings.Contains(out, "there is nothing to try: ") {
		t.Errorf("a trial of what is kept: got %d, %s", status, out)
	}
}

func TestTryKeepElsewhere(t *testing.T) {
	n := newTryTest(t)
	cmd, _, said := n.try("10s")
	if out, status := n.tool("try", "-s", n.socket, "--keep"); status != 0 || !strings.HasSuffix(out, "/knockd.conf is kept\n") {
		t.Errorf("keep: got %d, %s", status, out)
	}
	text, _ := io.ReadAll(said)
	if err := cmd.Wait(); exitStatus(err) != 1 || !strings.HasSuffix(string(text), "nothing is being tried: "+n.dir+"/knockd.conf is in force\n") {
		t.Errorf("try: got %v, %q", err, text)
	}
	n.isKept()
}

// TestTryBack has each way in which nobody keeps it: a connection that has come in by knocking lives on, and so does one
// from before.
func TestTryBack(t *testing.T) {
	for _, tt := range []struct {
		name, time string
		do         func(n *tryTest, cmd *exec.Cmd, enter io.Closer)
	}{
		{"time is over", "2s", func(*tryTest, *exec.Cmd, io.Closer) {}},
		{"end of input", "1h0m0s", func(_ *tryTest, _ *exec.Cmd, enter io.Closer) { _ = enter.Close() }},
		{"terminal gone", "1h0m0s", func(_ *tryTest, cmd *exec.Cmd, _ io.Closer) { _ = cmd.Process.Signal(unix.SIGHUP) }},
		{"ctrl-C", "1h0m0s", func(_ *tryTest, cmd *exec.Cmd, _ io.Closer) { _ = cmd.Process.Signal(unix.SIGINT) }},
		{"a log is rotated", "4s", func(n *tryTest, _ *exec.Cmd, _ io.Closer) { n.daemon.signal(unix.SIGHUP) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newTryTest(t)
			before := n.connect(1)
			cmd, enter, said := n.try(tt.time)
			n.knockOnce(0)
			n.awaitPort(0, hostSSH, reached)
			during := n.connect(0)
			tt.do(n, cmd, enter)
			n.asBefore(cmd, said)
			for _, conn := range []net.Conn{before, during} {
				n.alive(conn)
			}
			// A rotation of the log does not take it up, and neither does a start.
			n.daemon.signal(unix.SIGHUP)
			n.daemon.await("the configuration stays as it was")
			n.wantPort(1, hostSSH, reached)
			n.restart()
			n.untried()
			n.daemon.write(n.changed + "# once more\n")
			n.daemon.signal(unix.SIGHUP)
			n.awaitPort(1, hostSSH, hidden)
		})
	}
}

// TestTryKilled kills what can be killed.
func TestTryKilled(t *testing.T) {
	t.Run("try", func(t *testing.T) {
		n := newTryTest(t)
		cmd, _, _ := n.try("2s")
		n.must(cmd.Process.Kill())
		_ = cmd.Wait()
		n.untried()
	})
	t.Run("daemon", func(t *testing.T) {
		n := newTryTest(t)
		cmd, _, said := n.try("5s")
		n.restart()
		n.asBefore(cmd, said)
	})
	t.Run("daemon, and the kept configuration broken", func(t *testing.T) {
		n := newTryTest(t)
		n.try("1h0m0s")
		n.must(os.WriteFile(n.dir+"/good.conf", []byte("oops\n"), 0o600))
		n.restart()
		n.daemon.await("/knockd.conf was tried, and not kept: sesame try tries it again, but the kept configuration does not work\n")
		n.wantPort(1, hostSSH, hidden)
		n.eventually("a kept configuration that works", func() bool { return n.kept() == n.changed })
	})
}

// TestTryTypedAhead has lines that were meant for another program: pasted into the terminal along with the command, and
// during the trial.
func TestTryTypedAhead(t *testing.T) {
	n := newTryTest(t)
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	n.must(err)
	keyboard := os.NewFile(uintptr(fd), "/dev/ptmx")
	defer keyboard.Close()
	n.must(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	n.must(err)
	n.terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	n.must(err)
	defer n.terminal.Close()
	_, err = io.WriteString(keyboard, "\n\n")
	n.must(err)
	cmd, _, said := n.try("2s")
	n.asBefore(cmd, said)

	n.terminal = nil
	cmd, enter, said := n.try("3s")
	_, err = io.WriteString(enter, "uci commit\n")
	n.must(err)
	n.asBefore(cmd, said)
}

// TestTryChanged has the file changed during a trial: a reload does not take that up, nor does Enter keep it.
func TestTryChanged(t *testing.T) {
	n := newTryTest(t)
	cmd, enter, said := n.try()
	n.daemon.write("# changed\n" + n.config)
	n.daemon.signal(unix.SIGHUP)
	n.daemon.await("another configuration is being tried: keep it first (sesame try --keep), or wait\n")
	n.wantPort(1, hostSSH, hidden)
	_, _ = io.WriteString(enter, "\n")
	text, _ := io.ReadAll(said)
	if err := cmd.Wait(); err != nil || !strings.HasSuffix(string(text), "what was tried is kept; "+n.dir+"/knockd.conf has changed since, and a reload takes that up\n") {
		t.Errorf("try: got %v, %q", err, text)
	}
	if n.kept() != n.changed {
		t.Errorf("kept: got %s", n.kept())
	}
	n.daemon.signal(unix.SIGHUP)
	n.awaitPort(1, hostSSH, reached)
}

// TestTryRefused has what cannot be tried: what is in force stays.
func TestTryRefused(t *testing.T) {
	n := newTryTest(t)
	n.daemon.write("[a]\n\tSequence = 70000\n")
	for _, tt := range []struct {
		args   string
		status int
		want   string
	}{
		{"", 1, `:2: door "a": Sequence: a port is a number from 1 to 65535` + "\n"},
		{"0", 2, `a time from 1s to 1h is needed, such as 2m, not "0"`},
		{"2h", 2, "a time from 1s to 1h is needed"},
		{"5 6", 2, `unexpected argument "6"`},
		{"--keep 5", 2, "--keep takes no time"},
		{"--keep", 1, "nothing is being tried: "},
	} {
		if out, status := n.tool(append([]string{"try", "-s", n.socket}, strings.Fields(tt.args)...)...); status != tt.status || !strings.Contains(out, tt.want) {
			t.Errorf("try %s: got %d, %s, want %d and %q", tt.args, status, out, tt.status, tt.want)
		}
	}
	n.wantPort(1, hostSSH, reached)
	n.daemon.stop()
	if out, status := n.tool("try", "-s", n.socket); status != 1 || !strings.Contains(out, "no daemon answers on ") {
		t.Errorf("without a daemon: got %d, %s", status, out)
	}
	n.args = nil
	n.daemon = n.serve()
	n.daemon.write(n.changed)
	if out, status := n.tool("try", "-s", n.socket); status != 1 || !strings.Contains(out, "start it with --keep") {
		t.Errorf("without a kept configuration: got %d, %s", status, out)
	}
	n.wantPort(1, hostSSH, reached)
}

// connect makes a connection from a client to the host's ssh.
func (n *tryTest) connect(i int) (conn net.Conn) {
	n.Helper()
	n.must(n.clients[i].do(func() (err error) {
		conn, err = net.DialTimeout("tcp", hostSSH, 10*time.Second)
		return err
	}))
	n.Cleanup(func() { _ = conn.Close() })
	n.alive(conn)
	return conn
}

// alive sends something, which comes back.
func (n *tryTest) alive(conn net.Conn) {
	n.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := conn.Write([]byte("x"))
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	if err != nil {
		n.Errorf("a live connection was cut: %v", err)
	}
}
