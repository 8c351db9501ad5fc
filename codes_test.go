//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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
	profiles := t.TempDir()
	c.must(os.Mkdir(profiles+"/sesame", 0o700))
	c.must(os.WriteFile(profiles+"/sesame/profiles", []byte("[home]\nhost = 10.9.0.1\nsequence = 7000, totp\ntotp = "+testSecret+"\nverify = 22\n"), 0o600))
	client := func(i int, args ...string) clientRun {
		cmd := sesame("sesame", append([]string{"knock"}, args...)...)
		cmd.Env = append(cmd.Env, "XDG_CONFIG_HOME="+profiles, "SESAME_TEST_CLOCK="+c.clock)
		return c.callCmd(i, cmd)
	}
	c.set(c.now + 60)
	code := c.code(0)
	c.wantCall(client(0, "--show", "home"), 0, fmt.Sprintf("10.9.0.1 7000 %s %s\nfor 50 seconds\n", code[0], code[1]), "")
	c.wantCall(client(0, "home"), 0, "10.9.0.1 port 22: open in .*\n", "")
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
