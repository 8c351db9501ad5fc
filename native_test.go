//go:build linux && !pure

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const nativeDoor = `[ssh]
	sequence    = 7000,9000,8000
	open_ports  = 22
	cmd_timeout = %d
	hide        = yes
`

// nativeTest is a world whose host has a firewall, and daemons with one state directory, one after the other.
type nativeTest struct {
	*firewallTest
	dir    string
	config string
	socket string
	env    []string // of the daemon, beside the usual
	args   []string // the same: of its command line
	broken string   // a folder of programs that come before the real ones; "": none
}

// newNativeTest makes it for a host. config is the doors', and door the one that ssh is.
func newNativeTest(t *testing.T, host firewallHost, config string) *nativeTest {
	f := &firewallTest{world: newWorld(t, 2)}
	f.listen("22")
	f.must(f.host.run("sh", "-ec", host.rules))
	f.before = f.text()
	n := &nativeTest{firewallTest: f, dir: t.TempDir()}
	n.socket = n.dir + "/control"
	option := host.option
	if option == "" {
		option = "auto"
	}
	n.config = config + "[options]\n\tStateDir = " + n.dir + "/state\n\tFirewall = " + option + "\n"
	return n
}

// start starts the daemon; crash is where it is to be killed, as POINT:N, or "".
func (n *nativeTest) start(crash string) *running {
	n.Helper()
	file, log := n.dir+"/knockd.conf", n.dir+"/log"
	n.must(os.WriteFile(file, []byte(n.config), 0o600))
	_ = os.Remove(log)
	cmd := sesame("sesame", append([]string{"serve", "-c", file, "-i", "eth0", "-g", log, "-s", n.socket}, n.args...)...)
	cmd.Env = append(append(cmd.Env, "SESAME_TEST_CRASH="+crash), n.env...)
	if n.broken != "" {
		cmd.Env = append(cmd.Env, "PATH="+n.broken+":"+os.Getenv("PATH"))
	}
	return n.daemon(cmd, file, log)
}

// awaitRecorded waits until the journal has a door as open: what is not known to be open is closed by the next daemon.
func (n *nativeTest) awaitRecorded() {
	n.Helper()
	n.eventually("the journal", func() bool {
		text, _ := os.ReadFile(n.dir + "/state/journal")
		return strings.Contains(string(text), "\topen\t")
	})
}

func (n *nativeTest) serve() *running {
	n.Helper()
	d := n.start("")
	d.await("starting up")
	return d
}

func (n *nativeTest) knockOnce(i int) {
	n.Helper()
	n.knock(i, "-d20", hostAddr, "7000", "9000", "8000")
}

// tool runs a subcommand on the host.
func (n *nativeTest) tool(args ...string) (out string, status int) {
	n.Helper()
	cmd := sesame("sesame", args...)
	if n.broken != "" {
		cmd.Env = append(cmd.Env, "PATH="+n.broken+":"+os.Getenv("PATH"))
	}
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, &b
	n.must(n.host.start(cmd))
	err := cmd.Wait()
	return b.String(), exitStatus(err)
}

// flushed flushes, and wants the firewall to be what it was at first.
func (n *nativeTest) flushed() {
	n.Helper()
	for range 2 {
		if out, status := n.tool("flush", "-c", n.dir+"/knockd.conf"); status != 0 {
			n.Errorf("flush: exit status %d, %s", status, out)
		}
	}
	n.wantAsBefore()
}

// wantAsBefore wants the firewall to be what it was at first.
func (n *nativeTest) wantAsBefore() {
	n.Helper()
	if got := n.text(); got != n.before {
		n.Errorf("the firewall: got\n%s\nwant what it was\n%s", got, n.before)
	}
}

// nativeHosts are the hosts that the daemon is tried on.
func nativeHosts(t *testing.T, test func(t *testing.T, host firewallHost)) {
	for _, host := range firewallHosts {
		switch host.name {
		case "no rules", "iptables", "iptables-legacy", "iptables-legacy, opened by nft", "fw4", "ufw", "Debian's inet filter":
			t.Run(host.name, func(t *testing.T) { test(t, host) })
		}
	}
}

// TestNativeDoor follows a door through its life, and the firewall and status with it.
func TestNativeDoor(t *testing.T) {
	nativeHosts(t, func(t *testing.T, host firewallHost) {
		n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 3))
		var old net.Conn
		if host.old {
			old = n.dial(0, hostAddr)
		}
		d := n.serve()
		if !strings.Contains(d.logged(), "firewall: "+host.reason) {
			t.Errorf("the log has no %q", host.reason)
		}
		if host.old {
			n.wantAlive("a connection older than the daemon", old)
		}
		n.wantPort(0, hostSSH, hidden)
		n.knockOnce(0)
		n.awaitPort(0, hostSSH, reached)
		n.wantPort(1, hostSSH, hidden)
		live := n.dial(0, hostAddr)
		if out, status := n.tool("status", "-s", n.socket); status != 0 || !strings.Contains(out, "10.9.0.2") {
			t.Errorf("status: %d, %s", status, out)
		}
		opened := strings.Count(n.text(), "10.9.0.2")
		n.knockOnce(0) // adds time, and no rule
		d.await("open already")
		n.knock(0, "-6", "-d20", hostAddr6, "7000", "9000", "8000")
		n.awaitPort(0, "["+hostAddr6+"]:22", reached)
		if got := strings.Count(n.text(), "10.9.0.2"); got != opened {
			t.Errorf("the address stands %d times in the firewall after knocking again, want %d", got, opened)
		}
		d.await("10.9.0.2: ssh: closed")
		n.awaitPort(0, hostSSH, hidden)
		d.await("fd00:9::2: ssh: closed")
		if out, _ := n.tool("status", "-s", n.socket); !strings.Contains(out, "no door is open") || strings.Contains(n.text(), "10.9.0.2") || strings.Contains(n.text(), "fd00:9::2") {
			t.Errorf("closed: status says %s, and the firewall has\n%s", out, n.text())
		}
		n.wantAlive("a connection made while the door was open", live)
		d.stop()
		if !strings.HasSuffix(d.logged(), "shutting down: hidden ports stay hidden, and sesame flush removes every trace\n") {
			t.Errorf("the log ends %q", d.logged()[max(0, len(d.logged())-200):])
		}
		n.wantPort(0, hostSSH, hidden)
		n.flushed()
	})
}

// TestNativeTrial ends the daemon by ctrl-C: it leaves no trace, and knows none of an opening.
func TestNativeTrial(t *testing.T) {
	nativeHosts(t, func(t *testing.T, host firewallHost) {
		n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 600))
		d := n.serve()
		n.knockOnce(0)
		n.awaitPort(0, hostSSH, reached)
		began := time.Now()
		d.signal(unix.SIGINT)
		d.wantExit(0)
		if took := time.Since(began); took >= stopDeadline {
			t.Errorf("stopping took %v", took)
		}
		n.wantAsBefore()
	})
}

// crashPoints are where the daemon is killed: what it is told of at that moment, and the how manieth time.
var crashPoints = []string{
	"journal begins:1", "journal written:1", "work begins:1", "work ended:1", "released:1", "ended:1", "journal begins:2", "journal written:2",
	"work begins:2", "work ended:2", "released:2", "ended:2", "journal begins:3", "journal written:3", "journal written:4", "journal written:5",
	"closing:1", "resumed:1",
}

// notReached are the points that do not occur: where there are no commands, or no firewall.
var notReached = map[string][]string{
	"nft":      {"released:1", "released:2", "ended:1", "ended:2", "journal written:4", "journal written:5"},
	"iptables": {"released:1", "released:2", "ended:1", "ended:2", "journal written:4", "journal written:5"},
	"commands": {"work begins:1", "work begins:2", "work ended:1", "work ended:2", "journal written:5"},
}

// TestCrash kills the daemon at every step of opening, lengthening and closing, of the recovery and of its end, and starts
// it again: each time everything is closed in time, and nothing is left over or doubled.
func TestCrash(t *testing.T) {
	const seconds = 2
	commands := fmt.Sprintf(`[ssh]
	sequence      = 7000,9000,8000
	start_command = iptables -w -I INPUT -s %%IP%% -p tcp --dport 22 -j ACCEPT
	cmd_timeout   = %d
	stop_command  = while iptables -w -D INPUT -s %%IP%% -p tcp --dport 22 -j ACCEPT 2>/dev/null; do :; done
`, seconds)
	both := strings.Replace(commands, "start_command = ", "open_ports = 22\n	hide = yes\n	start_command = ", 1)
	byName := map[string]firewallHost{}
	for _, h := range firewallHosts {
		byName[h.name] = h
	}
	for _, tt := range []struct{ name, host, config string }{
		{"nft", "fw4", fmt.Sprintf(nativeDoor, seconds)},
		{"iptables", "iptables", fmt.Sprintf(nativeDoor, seconds)},
		{"commands", "iptables", commands},
		{"iptables and commands", "iptables", both},
	} {
		for _, point := range crashPoints {
			t.Run(tt.name+", "+point, func(t *testing.T) {
				n := newNativeTest(t, byName[tt.host], tt.config)
				d := n.start(point)
				d.await("starting up")
				n.knockOnce(0)
				killed := func() bool {
					select {
					case err := <-d.ended:
						d.ended <- err
						return true
					default:
						return false
					}
				}
				n.eventually("the opening, or the crash", func() bool {
					return killed() || strings.Contains(d.logged(), "open for") || strings.Contains(d.logged(), "command took")
				})
				switch point {
				case "closing:1":
					_ = d.cmd.Process.Signal(unix.SIGTERM)
				case "resumed:1":
					_ = d.cmd.Process.Kill()
					<-d.ended
					d = n.start(point)
				default:
					if !killed() {
						n.knockOnce(0) // to lengthen its time
					}
				}
				n.eventually("the crash, or the closing", func() bool {
					return killed() || strings.Contains(d.logged(), "ssh: closed") || strings.Count(d.logged(), "command took") == 2
				})
				_ = d.cmd.Process.Signal(unix.SIGTERM) // it may have passed the point less often
				if status := exitStatus(<-d.ended); status != -1 && !slices.Contains(notReached[tt.name], point) {
					t.Fatalf("exit status %d: it was not killed", status)
				}
				d = n.serve()
				n.eventually("the closing", func() bool {
					out, _ := n.tool("status", "-s", n.socket)
					return strings.Contains(out, "no door is open")
				})
				n.awaitPort(0, hostSSH, hidden)
				// It opens and closes as ever.
				n.knockOnce(0)
				n.awaitPort(0, hostSSH, reached)
				n.awaitPort(0, hostSSH, hidden)
				d.stop()
				n.flushed()
			})
		}
	}
}

// TestKernelCloses kills the daemon while a door is open, and does not start it again: with nft the kernel closes it.
func TestKernelCloses(t *testing.T) {
	for _, host := range []string{"no rules", "fw4"} {
		t.Run(host, func(t *testing.T) {
			for _, h := range firewallHosts {
				if h.name != host {
					continue
				}
				n := newNativeTest(t, h, fmt.Sprintf(nativeDoor, 2))
				d := n.serve()
				n.knockOnce(0)
				n.awaitPort(0, hostSSH, reached)
				d.signal(unix.SIGKILL)
				<-d.ended
				n.awaitPort(0, hostSSH, hidden)
				n.flushed()
			}
		})
	}
}

// TestFlushAfterCrash kills the daemon while doors are open, by the firewall and by commands: flush closes them without
// it, whatever the configuration says by then.
func TestFlushAfterCrash(t *testing.T) {
	nativeHosts(t, func(t *testing.T, host firewallHost) {
		n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 600))
		n.config += "[b]\n sequence = 5000,6000\n start_command = touch " + n.dir + "/open\n stop_command = rm " + n.dir + "/open\n cmd_timeout = 600\n"
		d := n.serve()
		n.knockOnce(0)
		n.awaitPort(0, hostSSH, reached)
		live := n.dial(0, hostAddr)
		n.knock(0, "-d20", hostAddr, "5000", "6000")
		d.await("b: command took")
		d.signal(unix.SIGKILL)
		<-d.ended
		n.wantAlive("a connection after kill -9", live)
		n.must(os.WriteFile(n.dir+"/knockd.conf", []byte("[ssh]\n sequence = oops\n[options]\n StateDir = "+n.dir+"/state\n"), 0o600))
		n.flushed()
		if _, err := os.Stat(n.dir + "/open"); err == nil {
			t.Error("the stop command did not run")
		}
	})
}

// TestFlushDamaged damages the journal of a daemon that was killed: flush closes what can still be read, and names the
// doors that it cannot close. So does the next daemon.
func TestFlushDamaged(t *testing.T) {
	config := ""
	for _, door := range []string{"a", "b", "c"} {
		config += fmt.Sprintf("[%s]\n sequence = 5000,6000\n start_command = touch DIR/%[1]s\n stop_command = rm DIR/%[1]s\n cmd_timeout = 600\n", door)
	}
	for _, tt := range []struct {
		name     string
		old, new string // in the journal
		want     string // doors
		left     string // files
	}{
		{"a stop command", "rm DIR/a", "rm_DIR/a", `"a"`, "a"},
		{"a name", `"b"` + "\t", `"b ` + "\t", "one of unknown name", "b"},
		{"two lines, and their names", "\n\"", "\n", "one of unknown name", "abc"},
		{"a newline", "\n\"b", "x\"b", "", "?b"}, // of the line before
		{"the end", "\nend", "\n", "one of unknown name", ""},
	} {
		for _, flush := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, flush %v", tt.name, flush), func(t *testing.T) {
				n := newNativeTest(t, firewallHosts[0], config)
				n.config = strings.ReplaceAll(n.config, "DIR", n.dir)
				d := n.serve()
				n.knock(0, "-d20", hostAddr, "5000", "6000")
				for _, door := range []string{"a", "b", "c"} {
					d.await(door + ": command took")
				}
				d.signal(unix.SIGKILL)
				<-d.ended
				journal := n.dir + "/state/journal"
				text, err := os.ReadFile(journal)
				n.must(err)
				damaged := strings.ReplaceAll(string(text), strings.ReplaceAll(tt.old, "DIR", n.dir), strings.ReplaceAll(tt.new, "DIR", n.dir))
				n.must(os.WriteFile(journal, []byte(damaged), 0o600))

				want := "these doors may still be open, because the journal lines that say how to close them are damaged: " + tt.want
				end := ": see " + journal + ".damaged\n"
				if flush {
					out, status := n.tool("flush", "-c", n.dir+"/knockd.conf")
					if status != 1 || !strings.Contains(out, "\nsesame flush: "+want) || !strings.HasSuffix(out, end) {
						t.Errorf("flush: exit status %d, %s, want 1 and %s...%s", status, out, want, end)
					}
					n.flushed() // the journal is whole again
				} else {
					d = n.serve()
					d.await("] " + want)
					d.await(end)
					n.eventually("the closing", func() bool {
						out, _ := n.tool("status", "-s", n.socket)
						return strings.Contains(out, "no door is open")
					})
					d.stop()
				}
				left := ""
				for _, door := range []string{"a", "b", "c"} {
					if _, err := os.Stat(n.dir + "/" + door); err == nil {
						left += door
					}
				}
				if left != tt.left && (tt.left[0] != '?' || !strings.Contains(left, tt.left[1:])) {
					t.Errorf("not closed: got %q, want %q", left, tt.left)
				}
			})
		}
	}
}

// TestNativeNoMore restarts the daemon with a configuration that hides nothing: what was hidden is not any more.
func TestNativeNoMore(t *testing.T) {
	nativeHosts(t, func(t *testing.T, host firewallHost) {
		n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 600))
		n.serve().stop()
		n.wantPort(0, hostSSH, hidden)
		n.config = strings.NewReplacer("open_ports  = 22\n", "command = true\n", "\thide        = yes\n", "", "\tcmd_timeout = 600\n", "").Replace(n.config)
		d := n.serve()
		n.wantAsBefore()
		d.stop()
	})
}

// TestFirewallLock keeps a second daemon off the firewall, until the first one ends.
func TestFirewallLock(t *testing.T) {
	folder := t.TempDir()
	first, err := lockFirewall(folder)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockFirewall(folder); err == nil || !strings.Contains(err.Error(), "one daemon alone can have doors with Open_Ports") {
		t.Errorf("a second one: got %v", err)
	}
	first.remove()
	// Of other network namespaces: one has a daemon, which still runs, and one had.
	theirs, left := filepath.Join(folder, "firewall-1"), filepath.Join(folder, "firewall-2")
	held, err := lockPidFile(theirs, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.remove()
	if err := held.write(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := lockFirewall(folder)
	if err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(folder + "/*"); !slices.Equal(files, []string{theirs, again.path}) && !slices.Equal(files, []string{again.path, theirs}) {
		t.Errorf("lock files: got %q, want those of daemons that run", files)
	}
}

// TestWallClock has a wall clock that jumps a year back and forth all the time: doors close when they must, also after
// kill -9 and another start.
func TestWallClock(t *testing.T) {
	for _, host := range firewallHosts[:2] {
		t.Run(host.name, func(t *testing.T) {
			n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 3))
			n.env = append(n.env, "SESAME_TEST_CLOCK=jumps")
			d := n.serve()
			began := time.Now()
			n.knockOnce(0)
			n.awaitPort(0, hostSSH, reached)
			n.eventually("the opening", func() bool { // in the journal, too
				out, _ := n.tool("status", "-s", n.socket)
				return strings.Contains(out, "closes in")
			})
			d.signal(unix.SIGKILL)
			<-d.ended
			d = n.serve()
			d.await("10.9.0.2: ssh: still open")
			n.wantPort(0, hostSSH, reached)
			d.await("10.9.0.2: ssh: closed")
			if took := time.Since(began); took < 3*time.Second {
				t.Errorf("closed after %v, want 3 s", took)
			}
			n.wantPort(0, hostSSH, hidden)
			if text := d.logged(); !strings.Contains(text, time.Now().AddDate(1, 0, 0).Format("[2006-")) || !strings.Contains(text, time.Now().AddDate(-1, 0, 0).Format("[2006-")) {
				t.Error("the clock did not jump: the test shows nothing")
			}
			d.stop()
			n.flushed()
		})
	}
}

// TestFirewallChanged takes something of ours away while a door is open: it is put right, and what is hidden stays so.
func TestFirewallChanged(t *testing.T) {
	nativeHosts(t, func(t *testing.T, host firewallHost) {
		n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 600))
		d := n.serve()
		n.knockOnce(0)
		n.awaitPort(0, hostSSH, reached)
		n.must(n.host.run("sh", "-ec", host.lost))
		began := time.Now()
		patience := 30 * time.Second // iptables-legacy tells nobody
		for deadline := began.Add(patience); ; time.Sleep(50 * time.Millisecond) {
			// Reached by who has knocked, and by nobody else.
			if probe(n.clients[0], "", hostSSH, probePatience) == reached && probe(n.clients[1], "", hostSSH, probePatience) != reached {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("not put right within %v", patience)
			}
		}
		t.Logf("put right within %v", time.Since(began).Round(time.Millisecond))
		n.eventually("its end", func() bool { return strings.Contains(n.text(), "10.9.0.2") })
		d.stop()
	})
}

// breaks puts a program before the real one: where its arguments match a pattern of the shell's, and as long as the file
// broken is there, it fails with the status.
func (n *nativeTest) breaks(program, pattern string, status int) (mend func()) {
	n.Helper()
	n.broken = n.dir + "/bin"
	n.must(os.MkdirAll(n.broken, 0o755))
	real, err := exec.LookPath(program)
	n.must(err)
	n.must(os.WriteFile(n.dir+"/broken", nil, 0o600))
	n.must(os.WriteFile(n.broken+"/"+program, fmt.Appendf(nil, "#!/bin/sh\n[ ! -e %s/broken ] || case \"$*\" in %s) exit %d;; esac\nexec %s \"$@\"\n",
		n.dir, pattern, status, real), 0o755))
	return func() { n.must(os.Remove(n.dir + "/broken")) }
}

// TestHiddenStaysAtFailedStart stops the daemon, and starts it where the firewall does not work for a moment: it does not
// start, and what was hidden stays hidden.
func TestHiddenStaysAtFailedStart(t *testing.T) {
	for program, host := range map[string]firewallHost{"nft": firewallHosts[0], "iptables-restore": firewallHosts[1]} {
		t.Run(host.name, func(t *testing.T) {
			n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 600))
			n.serve().stop()
			mend := n.breaks(program, "-w*|-f*", 1)
			n.start("").wantExit(1)
			n.wantPort(0, hostSSH, hidden)
			mend()
			n.serve().stop()
			n.flushed()
		})
	}
}

// TestHalfOpened has the firewall let somebody in and then fail: he is shut out again, and nothing is left.
func TestHalfOpened(t *testing.T) {
	n := newNativeTest(t, firewallHosts[1], fmt.Sprintf(nativeDoor, 600))
	mend := n.breaks("ip6tables-restore", "*", 1)
	mend()
	d := n.serve()
	n.must(os.WriteFile(n.dir+"/broken", nil, 0o600))
	n.must(n.host.run("ip6tables", "-w", "-F", "SESAME"))
	n.must(n.host.run("iptables", "-w", "-F", "SESAME"))
	n.knockOnce(0)
	d.await("OPEN SESAME")
	n.eventually("a failure", func() bool { return strings.Contains(d.logged(), "firewall: ip6tables-restore") })
	mend()
	n.eventually("the end of all openings that failed", func() bool {
		out, _ := n.tool("status", "-s", n.socket)
		return strings.Contains(out, "no door is open") || strings.Contains(out, "closes in")
	})
	d.stop()
	n.wantPort(0, hostSSH, hidden)
	if strings.Contains(n.text(), "-A SESAME -s") {
		t.Errorf("left over: %s", n.text())
	}
	n.flushed()
}

// TestToolDoesNotAnswer has iptables fail to list its rules while a door is open and the configuration is read anew: its
// rules are not forgotten.
func TestToolDoesNotAnswer(t *testing.T) {
	for _, host := range firewallHosts[1:3] {
		t.Run(host.name, func(t *testing.T) {
			n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 3))
			n.breaks(host.name, "*-S*", 1)()
			d := n.serve()
			n.knockOnce(0)
			n.awaitPort(0, hostSSH, reached)
			n.must(os.WriteFile(n.dir+"/broken", nil, 0o600))
			d.signal(unix.SIGHUP)
			d.await("re-reading config file")
			d.await("command timeout")
			n.must(os.Remove(n.dir + "/broken"))
			d.await("10.9.0.2: ssh: closed")
			n.awaitPort(0, hostSSH, hidden)
			d.stop()
			n.flushed()
		})
	}
}

// TestReloadRefusedAtLast has a reload fail after it has chosen another firewall, for want of memory for another link's
// packets: status goes on to name the one in force.
func TestReloadRefusedAtLast(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], fmt.Sprintf(nativeDoor, 600))
	n.must(n.host.link("eth1", n.clients[1], "eth1"))
	d := n.serve()
	firewall := func(want string) {
		t.Helper()
		if out, _ := n.tool("status", "-s", n.socket); !strings.Contains(out, "\nfirewall: "+want) {
			t.Errorf("status: got %s, want firewall: %s", out, want)
		}
	}
	firewall("nft")
	n.must(os.WriteFile(n.dir+"/knockd.conf", []byte(strings.Replace(n.config, "Firewall = auto", "Firewall = iptables\n\tRing_Size = 64", 1)+
		"[other]\n sequence = 5000,6000\n open_ports = 80\n interface = eth1\n"), 0o600))
	limit := func(as string) {
		n.must(exec.Command("prlimit", "--pid", fmt.Sprint(d.cmd.Process.Pid), "--as="+as).Run())
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.cmd.Process.Pid))
	n.must(err)
	pages, err := strconv.Atoi(strings.Fields(string(maps))[0])
	n.must(err)
	// Too little for the other ring of 32 MB, and enough for threads: with -race each has a stack of 8 MB.
	limit(fmt.Sprint(pages*os.Getpagesize()+28<<20) + ":")
	d.signal(unix.SIGHUP)
	d.await("mapping the ring: cannot allocate memory")
	d.await("the configuration stays as it was")
	firewall("nft")
	limit("unlimited:")
	d.signal(unix.SIGHUP)
	n.eventually("another reload", func() bool { return strings.Count(d.logged(), "re-opening log file") == 2 })
	n.eventually("the other firewall", func() bool {
		out, _ := n.tool("status", "-s", n.socket)
		return strings.Contains(out, "\nfirewall: iptables")
	})
	d.stop()
}

// TestFlushWithoutAnswer has iptables fail to list its rules: flush does not say that nothing is left.
func TestFlushWithoutAnswer(t *testing.T) {
	n := newNativeTest(t, firewallHosts[1], fmt.Sprintf(nativeDoor, 600))
	n.serve().stop()
	mend := n.breaks("iptables", "*-S*", 4)
	if out, status := n.tool("flush", "-c", n.dir+"/knockd.conf"); status != 1 || strings.Contains(out, "nothing of sesame is left") {
		t.Errorf("flush: exit status %d, %s", status, out)
	}
	n.wantPort(0, hostSSH, hidden)
	mend()
	n.flushed()
}

// TestTrialWithCommands ends the daemon by ctrl-C while commands run: it leaves no trace.
func TestTrialWithCommands(t *testing.T) {
	nativeHosts(t, func(t *testing.T, host firewallHost) {
		n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 600)+"[slow]\n sequence = 5000,6000\n open_ports = 23\n start_command = sleep 2\n stop_command = sleep 1\n cmd_timeout = 600\n")
		d := n.serve()
		n.knockOnce(0)
		n.awaitPort(0, hostSSH, reached)
		n.knock(0, "-d20", hostAddr, "5000", "6000")
		d.await("running command: sleep 2")
		d.signal(unix.SIGINT)
		d.wantExit(0)
		n.wantAsBefore()
	})
}

// TestChangedAndKnocked empties the chain that hides, and somebody knocks at once: it is noticed all the same.
func TestChangedAndKnocked(t *testing.T) {
	for host, line := range map[int]string{0: "nft flush chain inet sesame input", 2: "iptables-legacy -w -F INPUT; iptables-legacy -w -P INPUT ACCEPT"} {
		t.Run(firewallHosts[host].name, func(t *testing.T) {
			n := newNativeTest(t, firewallHosts[host], fmt.Sprintf(nativeDoor, 600))
			d := n.serve()
			n.must(n.host.run("sh", "-c", line))
			for range 40 { // and goes on knocking, for longer than iptables-legacy takes to be looked at
				n.knockOnce(0)
				if probe(n.clients[1], "", hostSSH, probePatience) != reached {
					break
				}
				time.Sleep(300 * time.Millisecond)
			}
			n.wantPort(1, hostSSH, hidden)
			d.stop()
		})
	}
}

// TestFirewallComesLater starts the host's firewall while a door is open: it lets in who has knocked, all the same.
func TestFirewallComesLater(t *testing.T) {
	for _, host := range firewallHosts {
		if host.name != "iptables" && host.name != "fw4" && host.name != "Debian's inet filter" {
			continue
		}
		t.Run(host.name, func(t *testing.T) {
			rules := host.rules
			host.rules = "true"
			n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 600))
			d := n.serve()
			n.knockOnce(0)
			n.awaitPort(0, hostSSH, reached)
			n.must(n.host.run("sh", "-ec", rules))
			n.awaitPort(0, hostSSH, reached)
			n.wantPort(1, hostSSH, hidden)
			d.stop()
		})
	}
}

// TestNativeRestored saves the host's rules while a door is open, and restores them later: nobody is in by that.
func TestNativeRestored(t *testing.T) {
	for _, host := range firewallHosts {
		if host.name != "iptables" && host.name != "iptables, opened by nft" {
			continue
		}
		t.Run(host.name, func(t *testing.T) {
			n := newNativeTest(t, host, fmt.Sprintf(nativeDoor, 600))
			d := n.serve()
			n.knockOnce(0)
			n.awaitPort(0, hostSSH, reached)
			saved, err := n.host.output("iptables-save")
			n.must(err)
			n.must(os.WriteFile(n.dir+"/saved", []byte(saved), 0o600))
			if out, status := n.tool("close", "-s", n.socket, "ssh"); status != 0 {
				t.Fatalf("close: %d, %s", status, out)
			}
			n.awaitPort(0, hostSSH, hidden)
			n.must(n.host.run("sh", "-c", "iptables-restore < "+n.dir+"/saved"))
			n.awaitPort(0, hostSSH, hidden)
			n.wantPort(1, hostSSH, hidden)
			n.knockOnce(1)
			n.awaitPort(1, hostSSH, reached)
			d.stop()
			if out, status := n.tool("flush", "-c", n.dir+"/knockd.conf"); status != 0 || strings.Contains(strings.ToLower(n.text()), "sesame") {
				t.Errorf("flush: exit status %d, %s, and left is\n%s", status, out, n.text())
			}
		})
	}
}

// TestManyOpen has two hundred sources knock at the same moment: each gets in, by both firewalls.
func TestManyOpen(t *testing.T) {
	const sources = 200
	for _, host := range firewallHosts {
		if host.name != "no rules" && host.name != "iptables" {
			continue
		}
		t.Run(host.name, func(t *testing.T) {
			n := newNativeTest(t, host, "[ssh]\n sequence = 7000:udp\n open_ports = 22\n cmd_timeout = 600\n hide = yes\n")
			d := n.serve()
			x := n.wire(0)
			for i := range sources {
				x.send(fromClient4.with(func(p *testPacket) { p.from, p.knock = fmt.Sprintf("10.9.1.%d", i+1), Knock{7000, udp} }).bytes())
			}
			n.eventually("all openings", func() bool { return strings.Count(d.logged(), "ssh: open for") == sources })
			one := "10.9.1."
			if host.name == "iptables" {
				one = "-A SESAME -s " + one // nft shows the rules once more
			}
			if got := strings.Count(n.text(), one); got != sources {
				t.Errorf("sources in the firewall: got %d, want %d", got, sources)
			}
			began := time.Now()
			d.stop()
			if took := time.Since(began); took >= stopDeadline {
				t.Errorf("stopping took %v", took)
			}
			if got := strings.Count(n.text(), "10.9.1."); got != 0 {
				t.Errorf("sources in the firewall at the end: got %d, want none", got)
			}
			n.flushed()
		})
	}
}

// TestNoRoomForJournal fills the state directory: nothing opens, the log says why, and what is open closes.
func TestNoRoomForJournal(t *testing.T) {
	n := newNativeTest(t, firewallHost{rules: "true"}, fmt.Sprintf(nativeDoor, 3))
	n.must(os.MkdirAll(n.dir+"/state", 0o700))
	n.must(os.WriteFile(n.dir+"/knockd.conf", []byte(n.config), 0o600))
	cmd := n.inMounts("mount -t tmpfs -o size=16k,mode=700 tmpfs "+n.dir+"/state",
		sesame("sesame", "serve", "-c", n.dir+"/knockd.conf", "-i", "eth0", "-g", n.dir+"/log", "-s", n.socket))
	d := n.daemon(cmd, n.dir+"/knockd.conf", n.dir+"/log")
	d.await("starting up")
	n.knockOnce(0)
	n.awaitPort(0, hostSSH, reached)
	inside := func(line string) {
		t.Helper()
		n.must(exec.Command("nsenter", "-m", "-t", fmt.Sprint(d.cmd.Process.Pid), "sh", "-c", line).Run())
	}
	inside("cat /dev/zero > " + n.dir + "/state/filler 2>/dev/null; true")
	n.knockOnce(1)
	d.await("10.9.0.3: ssh: not opened: cannot write the journal")
	d.await("no space left on device")
	n.awaitPort(0, hostSSH, hidden)
	n.wantPort(1, hostSSH, hidden)
	if got, _ := n.tool("status", "-s", n.socket); !strings.Contains(got, " look like a port that nobody serves:\nssh  22:tcp  eth0\n") ||
		!strings.Contains(got, "s ago: cannot write the journal\n") {
		t.Errorf("status: got %s", got)
	}
	inside("rm " + n.dir + "/state/filler")
	n.knockOnce(1)
	n.awaitPort(1, hostSSH, reached)
	d.stop()
}

// TestStateDirRefused has a state directory that cannot be: there is no daemon without one, if a door has to be closed.
func TestStateDirRefused(t *testing.T) {
	n := newNativeTest(t, firewallHost{rules: "true"}, fmt.Sprintf(nativeDoor, 3))
	n.must(os.WriteFile(n.dir+"/state", nil, 0o600))
	d := n.start("")
	d.wantExit(1)
	n.wantAsBefore()
}

// TestTwoStateDirs has two daemons side by side, and a third on the first one's directory.
func TestTwoStateDirs(t *testing.T) {
	n := newNativeTest(t, firewallHost{rules: "true"}, fmt.Sprintf(nativeDoor, 600))
	d := n.serve()
	other := n.world.serve("[a]\n sequence = 5000,6000\n start_command = true\n stop_command = true\n cmd_timeout = 600\n[options]\n StateDir = " + n.dir + "/other\n")
	n.knock(0, "-d20", hostAddr, "5000", "6000")
	other.await("a: command took")
	n.knockOnce(0)
	n.awaitPort(0, hostSSH, reached)
	third := filepath.Join(n.dir, "third")
	out, status := n.tool("serve", "-c", n.dir+"/knockd.conf", "-i", "eth0", "-g", third, "-s", third)
	if want := fmt.Sprintf("%s/state is held by another daemon, process %d: ", n.dir, d.cmd.Process.Pid); status != 1 || !strings.Contains(out, want) {
		t.Errorf("a third daemon: exit status %d, %q, want %q", status, out, want)
	}
	if out, status := n.tool("flush", "-c", n.dir+"/knockd.conf"); status != 1 || !strings.Contains(out, "is held by another daemon") {
		t.Errorf("flush beside a daemon: exit status %d, %q", status, out)
	}
	n.wantPort(0, hostSSH, reached)
	other.stop()
	d.stop()
}

// TestLockHeld has another program hold the firewall's lock while somebody knocks: he gets in when it is free.
func TestLockHeld(t *testing.T) {
	for _, h := range firewallHosts {
		if h.name != "iptables-legacy" {
			continue
		}
		n := newNativeTest(t, h, fmt.Sprintf(nativeDoor, 600))
		n.env = append(n.env, "XTABLES_LOCKFILE="+n.dir+"/lock") // others need the machine's
		d := n.serve()
		lock, err := os.OpenFile(n.dir+"/lock", os.O_RDWR|os.O_CREATE, 0o600)
		n.must(err)
		n.must(unix.Flock(int(lock.Fd()), unix.LOCK_EX))
		n.knockOnce(0)
		d.await("10.9.0.2: ssh: OPEN SESAME")
		n.wantPort(0, hostSSH, hidden)
		n.must(lock.Close())
		n.awaitPort(0, hostSSH, reached)
		d.stop()
	}
}

// pidsCgroup makes a cgroup that limits processes and threads, and returns its folder.
func pidsCgroup(t *testing.T) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} { // cgroups(7), version 1 and 2
		dir, err := os.MkdirTemp(root, "sesame-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		if _, err := os.Stat(dir + "/pids.max"); err == nil {
			return dir
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("there is no cgroup that limits processes: mount the controller pids")
	}
	t.Skip("needs a cgroup with the controller pids: mount -t cgroup -o pids pids /sys/fs/cgroup/pids")
	return ""
}

// TestProcessLimit has no more threads and processes to be had while doors are open. The Go runtime may end the daemon
// then. After the next start, which a service manager sees to, everything is closed in time and nothing is left.
func TestProcessLimit(t *testing.T) {
	if !strings.Contains(systemdUnit, "\nRestart=always\nRestartSec=5\n") {
		t.Error("the service is not started again after 5 s")
	}
	const seconds = 3
	n := newNativeTest(t, firewallHosts[slices.IndexFunc(firewallHosts, func(h firewallHost) bool { return h.name == "iptables" })],
		fmt.Sprintf(nativeDoor, seconds))
	dir := pidsCgroup(t)
	d := n.serve()
	n.must(os.WriteFile(dir+"/cgroup.procs", fmt.Append(nil, d.cmd.Process.Pid), 0))
	n.knockOnce(0)
	n.awaitPort(0, hostSSH, reached)
	now, err := os.ReadFile(dir + "/pids.current")
	n.must(err)
	n.must(os.WriteFile(dir+"/pids.max", now, 0))
	for range 10 { // of all that takes threads or processes
		_ = n.knockError(1, "-d20", hostAddr, "7000", "9000", "8000")
		_ = d.cmd.Process.Signal(unix.SIGHUP)
		_, _ = n.tool("status", "-s", n.socket)
	}
	_ = d.cmd.Process.Kill() // if it did without until now
	d.ended <- <-d.ended
	d = n.serve()
	n.eventually("the closing", func() bool {
		out, _ := n.tool("status", "-s", n.socket)
		return strings.Contains(out, "no door is open")
	})
	for i := range n.clients {
		n.wantPort(i, hostSSH, filtered)
	}
	n.knockOnce(0)
	n.awaitPort(0, hostSSH, reached)
	d.stop()
	n.flushed()
}

// TestWithoutFib has a kernel that knows no fib expression: a port that the host forwards is not hidden, and the log, check
// and status say so.
func TestWithoutFib(t *testing.T) {
	const told = "hidden ports that this host forwards (docker -p, a redirect) are open"
	for _, redirects := range []bool{true, false} {
		t.Run(fmt.Sprintf("redirects %v", redirects), func(t *testing.T) {
			rules := dropByIptables + "iptables -w -I INPUT -p tcp --dport 22 -j ACCEPT\n"
			if redirects {
				rules += "iptables -w -t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 22\n"
			}
			n := newNativeTest(t, firewallHost{rules: rules}, "[web]\n sequence = 7000,9000\n open_ports = 8080\n hide = yes\n")
			nft, err := exec.LookPath("nft")
			n.must(err)
			n.broken = n.dir + "/bin"
			n.must(os.Mkdir(n.broken, 0o755))
			n.must(os.WriteFile(n.broken+"/nft", fmt.Appendf(nil, "#!/bin/sh\ncase \"$*\" in *'-f -') ;; *) exec %s \"$@\";; esac\n"+
				"script=$(cat)\ncase $script in *' fib '*) exit 1;; esac\nprintf '%%s\\n' \"$script\" | %s \"$@\"\n", nft, nft), 0o755))
			d := n.serve()
			if redirects {
				n.wantPort(0, hostAddr+":8080", reached)
			}
			checked, status := n.tool("check", "-c", n.dir+"/knockd.conf")
			asked, _ := n.tool("status", "-s", n.socket)
			for _, text := range []string{d.logged(), checked, asked} {
				if strings.Contains(text, told) != redirects || status != 0 {
					t.Errorf("with a redirect (%v), exit status %d of check: got %s", redirects, status, text)
				}
			}
			d.stop()
		})
	}
}
