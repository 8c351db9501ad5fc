//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// codesTest is a host with a door that opens by codes, whose clock, and that of our client, is set by the test.
type codesTest struct {
	*nativeTest
	clock string // a file
	now   int64  // that it has
}

func newCodesTest(t *testing.T) *codesTest {
	c := &codesTest{nativeTest: newNativeTest(t, firewallHosts[0], "[ssh]\n\tsequence = 7000, totp\n\ttotp = "+testSecret+"\n\topen_ports = 22\n\tcmd_timeout = 600\n\thide = yes\n")}
	c.config = strings.Replace(c.config, c.dir+"/state", onDisk(t)+"/state", 1)
	c.clock = filepath.Join(c.dir, "clock")
	c.env = append(c.env, "SESAME_TEST_CLOCK="+c.clock)
	c.set(1_900_000_000)
	return c
}

func (c *codesTest) set(now int64) {
	c.Helper()
	c.now = now
	c.must(os.WriteFile(c.clock+".new", fmt.Append(nil, now), 0o600))
	c.must(os.Rename(c.clock+".new", c.clock))
}

// code is oathtool's, some steps from now, as its two ports.
func (c *codesTest) code(steps int64) (ports [2]string) {
	c.Helper()
	out, err := c.host.output("oathtool", "--totp", "-b", testSecret, "-N", fmt.Sprint("@", c.now+30*steps))
	c.must(err)
	if out = strings.TrimSpace(out); len(out) != 6 {
		c.Fatalf("oathtool: got %q", out)
	}
	return [2]string{"20" + out[:3], "20" + out[3:]}
}

// close closes the door, and waits until it is shut for client i.
func (c *codesTest) close(i int) {
	c.Helper()
	if out, status := c.tool("close", "-s", c.socket, "--all"); status != 0 {
		c.Errorf("closing: %s", out)
	}
	c.awaitPort(i, hostSSH, hidden)
}

// refused knocks a code that is used up, from client i: the daemon says so, and the port stays hidden.
func (c *codesTest) refused(d *running, i int, code [2]string) {
	c.Helper()
	line := fmt.Sprintf("10.9.0.%d: ssh: not opened: its code, or a later one, has been used", i+2)
	before := strings.Count(d.logged(), line)
	c.knock(i, "-d20", hostAddr, "7000", code[0], code[1])
	c.eventually("the refusal", func() bool { return strings.Count(d.logged(), line) > before })
	c.wantPort(i, hostSSH, hidden)
}

// client is our client at client 0, with the door's profile.
func (c *codesTest) client(args ...string) clientRun {
	c.Helper()
	cmd := sesame("sesame", append([]string{"knock"}, args...)...)
	cmd.Env = append(cmd.Env, "XDG_CONFIG_HOME="+c.dir, "SESAME_TEST_CLOCK="+c.clock)
	c.must(os.MkdirAll(c.dir+"/sesame", 0o700))
	c.must(os.WriteFile(c.dir+"/sesame/profiles", []byte("[home]\nhost = 10.9.0.1\nsequence = 7000, totp\ntotp = "+testSecret+"\nverify = 22\ntimeout = 1\n"), 0o600))
	return c.callCmd(0, cmd)
}

// TestCodesGuessed has somebody guess, who knows the other knocks: the door asks for two codes in a row, log and status say so, and
// our client has them.
func TestCodesGuessed(t *testing.T) {
	c := newCodesTest(t)
	d := c.serve()
	code := c.code(0)
	wrong := "20999"
	if code[0] == wrong {
		wrong = "20998"
	}
	for range wrongCodes {
		c.knock(1, "-d20", hostAddr, "7000", wrong)
	}
	d.await("ssh: too many wrong codes: until there were none for an hour, it takes 2 codes in a row")
	if out, _ := c.tool("status", "-s", c.socket); !strings.Contains(out, "\nssh takes 2 codes in a row, as wrong ones came: for 3") {
		t.Errorf("the status: %s", out)
	}
	c.knock(0, "-d20", hostAddr, "7000", code[0], code[1])
	d.await("10.9.0.2: ssh: the code is right: the next one is needed, too")
	c.wantPort(0, hostSSH, hidden)
	c.wantCall(c.client("home"), 0, "10.9.0.1 port 22: open in .*\n", "")
	d.stop()
	c.flushed()
}

// TestCodesOpen has codes knocked by programs that others have written, and by ours. None of them opens twice: not at once, from
// elsewhere, after a restart, or by a clock that was set back; and no log has a code in it.
func TestCodesOpen(t *testing.T) {
	c := newCodesTest(t)
	c.args = []string{"-D"}
	d := c.serve()
	for _, by := range []struct{ name, line string }{
		{"nc", "for p in 7000 %s %s; do nc -w 1 -z 10.9.0.1 $p; sleep 0.02; done; true"},
		{"Debian's knock", "/usr/bin/knock -d 20 10.9.0.1 7000 %s %s"},
		{"curl", "for p in 7000 %s %s; do curl -s -m 1 http://10.9.0.1:$p/; done; true"},
	} {
		c.set(c.now + 60)
		code := c.code([]int64{-1, 0, 1}[len(by.name)%3])
		c.wantPort(0, hostSSH, hidden)
		c.from(0, fmt.Sprintf(by.line, code[0], code[1]))
		c.awaitPort(0, hostSSH, reached)
		c.close(0)
		for i := range c.clients {
			c.refused(d, i, code)
		}
	}
	// Our client finds the code itself, and after a restart the daemon knows what is used.
	c.set(c.now + 60)
	code := c.code(0)
	c.wantCall(c.client("--show", "home"), 0, fmt.Sprintf("10.9.0.1 7000 %s %s\nfor 50 seconds\n", code[0], code[1]), "")
	c.wantCall(c.client("home"), 0, "10.9.0.1 port 22: open in .*\n", "")
	c.wantPort(0, hostSSH, reached)
	c.close(0)
	c.refused(d, 1, code)
	said := ""
	for _, end := range []func(){d.stop, func() {
		d.signal(unix.SIGKILL)
		<-d.ended
	}, func() {
		d.stop()
		c.set(c.now - 3600)
		code = c.code(0)
	}} {
		end()
		said += d.logged() + d.cmd.Stderr.(*bytes.Buffer).String()
		d = c.serve()
		c.refused(d, 1, code)
	}
	d.stop()
	said += d.logged() + d.cmd.Stderr.(*bytes.Buffer).String()
	if ports := regexp.MustCompile(`\b20[0-9]{3}\b`).FindAllString(strings.ReplaceAll(said, "20000-20999:tcp", ""), -1); ports != nil || !strings.Contains(said, "-> 7000:tcp") {
		t.Errorf("the log has the ports of codes in it: %v", ports)
	}
	c.flushed()
}

// TestCodesWait has a StateDir in memory, as a router's: codes wait for the kernel to say that its clock is synchronised, which it does
// on a machine with an NTP client.
func TestCodesWait(t *testing.T) {
	c := newCodesTest(t)
	folder, err := os.MkdirTemp("/dev/shm", "sesame-test-")
	c.must(err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	c.config = regexp.MustCompile(`StateDir = .*`).ReplaceAllString(c.config, "StateDir = "+folder+"/state")
	d := c.serve()
	d.await("warning: " + folder + "/state is in memory: after a boot, codes open nothing before an NTP client has set the clock")
	code := c.code(0)
	c.knock(0, "-d20", hostAddr, "7000", code[0], code[1])
	out, _ := c.tool("status", "-s", c.socket)
	waits := strings.Contains(out, "\nno code opens a door now: "+folder+"/state is in memory, and the clock is not set yet: is there an NTP client?\n")
	if synced := clockSynced(); waits == synced {
		t.Errorf("the clock is synchronised: %v, and the status: %s", synced, out)
	}
	if waits {
		d.await("10.9.0.2: ssh: not opened: " + folder + "/state is in memory, and the clock is not set yet")
		c.wantPort(0, hostSSH, hidden)
	} else {
		c.awaitPort(0, hostSSH, reached)
		c.refused(d, 1, code)
	}
	d.stop()
	c.flushed()
}

// TestCodesCaptured sends the frames of knocks that have opened the door again, at once and after a restart.
func TestCodesCaptured(t *testing.T) {
	c := newCodesTest(t)
	d := c.serve()
	fd := -1
	c.must(c.clients[0].do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(networkOrder(unix.ETH_P_ALL)))
		}
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link.Index})
	}))
	t.Cleanup(func() { _ = unix.Close(fd) })
	code := c.code(0)
	c.knock(0, "-d20", hostAddr, "7000", code[0], code[1])
	c.awaitPort(0, hostSSH, reached)
	var frames [][]byte
	const ethernet = 14
	for frame := make([]byte, 2000); ; {
		n, err := unix.Read(fd, frame)
		if err != nil {
			break // no more
		}
		var hit Hit
		if n > ethernet && parsePacket(frame[ethernet:n], n-ethernet, &hit) == nil && hit.Flags == flagSYN && slices.Contains([]string{"7000", code[0], code[1]}, fmt.Sprint(hit.Knock.Port)) {
			frames = append(frames, slices.Clone(frame[:n]))
		}
	}
	if len(frames) < 3 {
		t.Fatalf("%d frames were captured, want 3", len(frames))
	}
	c.close(0)
	hits := func() (n int) {
		out, _ := c.tool("status", "-s", c.socket)
		_, rest, _ := strings.Cut(out, ", hits ")
		_, _ = fmt.Sscan(rest, &n)
		return n
	}
	send := func() {
		before := hits()
		for _, frame := range frames {
			_, err := unix.Write(fd, frame)
			c.must(err)
		}
		c.eventually("the frames", func() bool { return hits() == before+len(frames) })
	}
	send()
	c.wantPort(0, hostSSH, hidden)
	if n := strings.Count(d.logged(), "OPEN SESAME"); n != 1 {
		t.Errorf("the log has OPEN SESAME %d times, want once", n)
	}
	d.stop()
	d = c.serve()
	send()
	d.await("10.9.0.2: ssh: not opened: its code, or a later one, has been used")
	c.wantPort(0, hostSSH, hidden)
	d.stop()
	c.flushed()
}

// TestCodesTwo has two clients knock one code at the same time: one of them gets in.
func TestCodesTwo(t *testing.T) {
	c := newCodesTest(t)
	d := c.serve()
	for round := range 5 {
		c.set(c.now + 60)
		code := c.code(0)
		knocked := make(chan error)
		for i := range c.clients {
			go func() { knocked <- c.knockError(i, "-d20", hostAddr, "7000", code[0], code[1]) }()
		}
		for range c.clients {
			c.must(<-knocked)
		}
		c.eventually("both are judged", func() bool { return strings.Count(d.logged(), "OPEN SESAME") == 2*round+2 })
		c.eventually("one is let in", func() bool { return strings.Count(d.logged(), "ssh: open for") > round })
		in := 0
		for i := range c.clients {
			if probe(c.clients[i], "", hostSSH, probePatience) == reached {
				in++
			}
		}
		if in != 1 {
			t.Errorf("%d clients are in, want one", in)
		}
		c.close(0)
		c.awaitPort(1, hostSSH, hidden)
	}
	d.stop()
	c.flushed()
}

// TestCodesKilled kills the daemon at each point after a code was judged: no start after that takes it again.
func TestCodesKilled(t *testing.T) {
	for _, point := range []string{"code used:1", "journal begins:1", "journal written:1", "work begins:1", "work ended:1"} {
		t.Run(point, func(t *testing.T) {
			c := newCodesTest(t)
			d := c.start(point)
			d.await("starting up")
			code := c.code(0)
			c.knock(0, "-d20", hostAddr, "7000", code[0], code[1])
			c.eventually("the crash", func() bool { return len(d.ended) > 0 })
			if status := exitStatus(<-d.ended); status != -1 {
				t.Fatalf("exit status %d: it was not killed", status)
			}
			d = c.serve()
			c.refused(d, 1, code)
			c.set(c.now + 30)
			code = c.code(0)
			c.knock(1, "-d20", hostAddr, "7000", code[0], code[1])
			c.awaitPort(1, hostSSH, reached)
			d.stop()
			c.flushed()
		})
	}
}
