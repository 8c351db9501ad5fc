//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStateFolder: no two configurations have one folder.
func TestStateFolder(t *testing.T) {
	for config, want := range map[string]string{
		"/etc/knockd.conf": "/s", "/etc/b.conf": "/s/%2Fetc%2Fb.conf", "/etc/a/b": "/s/%2Fetc%2Fa%2Fb", "/etc/a%2Fb": "/s/%2Fetc%2Fa%252Fb",
	} {
		if got := stateFolder("/s", config); got != want {
			t.Errorf("%s: got %s, want %s", config, got, want)
		}
	}
}

// stateTest is a world whose host has daemons of several configurations, which name no StateDir.
type stateTest struct {
	*world
	dir string // with a folder state, where they keep it, and a configuration for each
}

func newStateTest(t *testing.T) *stateTest {
	w := newWorld(t, 1)
	w.hide()
	return &stateTest{w, t.TempDir()}
}

func (s *stateTest) env(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, "SESAME_TEST_STATE="+s.dir+"/state")
	return cmd
}

// start starts the daemon of a configuration.
func (s *stateTest) start(name, config string) *running {
	s.Helper()
	file, log := s.dir+"/"+name, s.dir+"/"+name+".log"
	s.must(os.WriteFile(file, []byte(config), 0o600))
	_ = os.Remove(log)
	return s.daemon(s.env(sesame("sesame", "serve", "-c", file, "-i", "eth0", "-g", log, "-s", file+".control")), file, log)
}

func (s *stateTest) serve(name, config string) *running {
	s.Helper()
	d := s.start(name, config)
	d.await("starting up")
	return d
}

// open knocks, and wants the door's own line in the log.
func (s *stateTest) open(d *running, ports ...string) {
	s.Helper()
	s.knock(0, append([]string{"-d20", hostAddr}, ports...)...)
	d.await("OPEN SESAME")
	s.awaitPort(0, hostSSH, reached)
}

func (r *running) kill() {
	r.w.Helper()
	r.signal(unix.SIGKILL)
	<-r.ended // when the last thread has, which holds the locks
}

func (s *stateTest) flush(args ...string) (out string, status int) {
	s.Helper()
	cmd := s.env(sesame("sesame", append([]string{"flush"}, args...)...))
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	s.must(s.host.start(cmd))
	status = exitStatus(cmd.Wait())
	return b.String(), status
}

// TestTwoDaemons has two daemons with a configuration each. One closes what the other has left open when it died, and so
// does flush.
func TestTwoDaemons(t *testing.T) {
	s := newStateTest(t)
	doorA, doorB := sshDoor("a", "7000,8000", 600), sshDoor("b", "5000,6000", 600)
	a, b := s.serve("a", doorA), s.serve("b", doorB)
	again := s.daemon(s.env(sesame("sesame", "serve", "-c", s.dir+"/b", "-i", "eth0")), "", "")
	again.wantExit(1) // one configuration is one daemon's
	s.open(b, "5000", "6000")
	a.stop()
	a = s.serve("a", doorA)
	if s.wantPort(0, hostSSH, reached); strings.Contains(a.logged(), ": b: ") {
		t.Error("the door of a daemon that lives was taken over")
	}
	b.kill()
	a.stop()
	a = s.serve("a", doorA)
	a.await("10.9.0.2: b: left open by an earlier daemon: closing it")
	s.awaitPort(0, hostSSH, filtered)
	s.eventually("the other journal's end", func() bool {
		_, err := os.Stat(stateFolder(s.dir+"/state", s.dir+"/b") + "/journal")
		return err != nil
	})
	b = s.serve("b", doorB)
	a.stop()
	s.open(b, "5000", "6000")
	if out, status := s.flush(); status != 1 || !strings.Contains(out, "is held by another daemon, process "+fmt.Sprint(b.cmd.Process.Pid)) {
		t.Errorf("flush beside a daemon: got %d, %q", status, out)
	}
	if out, status := s.flush("-c", s.dir+"/a"); status != 0 {
		t.Errorf("flush for the one that has ended: got %d, %q", status, out)
	}
	s.wantPort(0, hostSSH, reached)
	b.kill()
	if out, status := s.flush("-c", s.dir+"/a"); status != 0 || !strings.Contains(out, "10.9.0.2: b: ") {
		t.Errorf("flush: got %d, %q", status, out)
	}
	s.wantPort(0, hostSSH, filtered)
}

// TestDaemonsStartAtOnce starts daemons at the same moment, after all have crashed: none keeps another from starting.
func TestDaemonsStartAtOnce(t *testing.T) {
	s := newStateTest(t)
	names := []string{"a", "b", "c"}
	for range 5 {
		var all []*running
		for i, name := range names {
			all = append(all, s.start(name, sshDoor(name, fmt.Sprintf("%d000,8000", 4+i), 600)))
		}
		for i, d := range all {
			d.await("starting up")
			s.knock(0, "-d20", hostAddr, fmt.Sprintf("%d000", 4+i), "8000")
			d.await("Stage 2")
		}
		s.eventually("an open door in each journal, and no other", func() bool {
			for _, name := range names {
				text, _ := os.ReadFile(stateFolder(s.dir+"/state", s.dir+"/"+name) + "/journal")
				if strings.Count(string(text), "\t\"eth0\"\t") != 1 || !strings.Contains(string(text), "\topen\t") {
					return false
				}
			}
			return s.rules("-s 10.9.0.2") == len(names)
		})
		for _, d := range all {
			d.kill()
		}
	}
	if out, status := s.flush(); status != 0 || s.rules("-s 10.9.0.2") != 0 {
		t.Errorf("flush: got %d, %q, and %d rules left", status, out, s.rules("-s 10.9.0.2"))
	}
}

// TestStateOfVersionBefore: what an earlier version has left in the folder that was everybody's is taken over by a daemon
// of any configuration: doors close in time, and hidden ports stay hidden.
func TestStateOfVersionBefore(t *testing.T) {
	s := newStateTest(t)
	before := "[options]\n StateDir = " + s.dir + "/state\n Interface = auto\n"
	native := fmt.Sprintf(nativeDoor, 600)
	old := s.serve("old", before+sshDoor("cmd", "4000,3000", 600)+native)
	s.open(old, "7000", "9000", "8000")
	s.knock(0, "-d20", hostAddr, "4000", "3000")
	s.eventually("the command", func() bool { return s.rules("-s 10.9.0.2") == 1 })
	old.kill()
	s.must(os.WriteFile(s.dir+"/state/firewall", []byte("wan7"), 0o600))

	d := s.serve("new", "[options]\n Interface = auto\n"+native)
	d.await("10.9.0.2: ssh: left open by an earlier daemon: closing it")
	d.await("10.9.0.2: cmd: left open by an earlier daemon: closing it")
	s.awaitPort(0, hostSSH, hidden)
	s.open(d, "7000", "9000", "8000")
	folder := stateFolder(s.dir+"/state", s.dir+"/new")
	if text, err := os.ReadFile(folder + "/firewall"); err != nil || string(text) != "wan7" {
		t.Errorf("links of auto: got %q, %v", text, err)
	}
	if _, err := os.Stat(s.dir + "/state/firewall"); err == nil {
		t.Error("the note of the version before is left")
	}
	d.stop()
	s.wantPort(0, hostSSH, hidden)
	if got := s.rules("-s 10.9.0.2"); got != 0 {
		t.Errorf("%d rules are left", got)
	}
	if out, status := s.flush(); status != 0 {
		t.Errorf("flush: got %d, %q", status, out)
	}
	s.wantPort(0, hostSSH, filtered) // by the host's own rule
}

// TestNativeDoorsOfAnother: a daemon without Open_Ports leaves those of one that has died alone, and names them: it must
// not keep that one off the firewall.
func TestNativeDoorsOfAnother(t *testing.T) {
	s := newStateTest(t)
	native := fmt.Sprintf(nativeDoor, 600)
	b := s.serve("b", native)
	s.open(b, "7000", "9000", "8000")
	journal := stateFolder(s.dir+"/state", s.dir+"/b") + "/journal"
	s.eventually("an open door in the journal", func() bool {
		text, _ := os.ReadFile(journal)
		return strings.Contains(string(text), "\topen\t")
	})
	b.kill()
	a := s.serve("a", sshDoor("a", "7000,8000", 600))
	a.await("warning: " + journal + ": a daemon that has ended may have left doors open, which are not closed: " +
		"one has Open_Ports: a daemon with such doors closes it, or sesame flush: ssh for 10.9.0.2")
	s.wantPort(0, hostSSH, reached)
	b = s.serve("b", native)
	b.await("10.9.0.2: ssh: still open")
	b.stop()
	s.wantPort(0, hostSSH, hidden)
}

// TestHiddenByAnother: a daemon without Open_Ports says that ports are hidden by one of another configuration which has
// ended, and leaves them hidden.
func TestHiddenByAnother(t *testing.T) {
	s := newStateTest(t)
	b := s.serve("b", fmt.Sprintf(nativeDoor, 600))
	b.stop()
	a := s.serve("a", sshDoor("a", "7000,8000,9000", 600))
	a.await("warning: ports are still hidden by a daemon that does not run (" + stateFolder(s.dir+"/state", s.dir+"/b") + "): sesame flush shows them again")
	s.wantPort(0, hostSSH, hidden)
	a.stop()
}

// TestReadOnlyFolder has the best folder become read-only while a door is open there: the daemon starts with the next one,
// and names the door.
func TestReadOnlyFolder(t *testing.T) {
	s := newStateTest(t)
	door := sshDoor("a", "7000,8000", 600)
	d := s.serve("a", door)
	s.open(d, "7000", "8000")
	d.kill()
	s.must(os.MkdirAll(s.dir+"/next", 0o700))
	file, log := s.dir+"/a", s.dir+"/second.log"
	start := func(dirs string) *running {
		cmd := s.inMounts("mount --bind "+s.dir+"/state "+s.dir+"/state && mount -o remount,bind,ro "+s.dir+"/state",
			sesame("sesame", "serve", "-c", file, "-i", "eth0", "-g", log))
		cmd.Env = append(cmd.Env, "SESAME_TEST_STATE="+dirs)
		d := s.daemon(cmd, file, log)
		d.await("starting up")
		return d
	}
	d = start(s.dir + "/state:" + s.dir + "/next")
	journal := stateFolder(s.dir+"/state", file) + "/journal"
	d.await("the journal is " + stateFolder(s.dir+"/next", file) + "/journal: ")
	d.await(journal + ": a daemon that has ended may have left doors open, which are not closed: opening the pid file: open ")
	d.await("read-only file system: a for 10.9.0.2\n")
	d.kill()
	s.must(os.Remove(log))
	d = start(s.dir + "/state")
	d.await("warning: doors stay open after a crash, as there is no place for the journal: ")
	d.await(journal + ": a daemon that has ended may have left doors open, which are not closed: there is no folder for this daemon's own journal: a for 10.9.0.2\n")
	s.open(d, "7000", "8000")
	d.stop()
	d = s.serve("a", door) // with all as it was: it is still open, or is being closed
	d.await("10.9.0.2: a: ")
}

// TestOpenPortsWithoutJournal has no place for the journal: doors open and close all the same.
func TestOpenPortsWithoutJournal(t *testing.T) {
	s := newStateTest(t)
	s.must(os.WriteFile(s.dir+"/state", nil, 0o600)) // no folder
	d := s.serve("a", "[a]\n\tsequence = 7000,8000,9000\n\tOpen_Ports = 22\n\tHide = yes\n\tcmd_timeout = 600\n")
	d.await("warning: doors stay open after a crash, as there is no place for the journal: ")
	s.open(d, "7000", "8000", "9000")
	d.stop()
	s.awaitPort(0, hostSSH, hidden)
}

// gameServer is how an image of a game's server starts knockd: as a user, with a capability of the file's. $1 is the folder
// of the test, and $2 what the shell runs in it.
const gameServer = `
mount --bind "$1" /mnt
mount -t tmpfs -o ro tmpfs /run
mount -t tmpfs -o ro tmpfs /var/log
PATH=/usr/sbin:/usr/bin:/sbin:/bin
user() { setpriv --reuid=1000 --regid=1000 --clear-groups env -i HOME=/mnt/home PATH=$PATH "$@"; }
eval "$2"
touch /mnt/ready
exec sleep 1000
`

// serveAsUser starts the daemon by a script, in namespaces of its own, and returns when that is done, with what was
// printed.
func (w *world) serveAsUser(config, script string) (dir, printed string) {
	w.Helper()
	dir = w.TempDir()
	w.must(exec.Command("cp", realProgram(w.T), dir+"/knockd").Run())
	w.must(os.WriteFile(dir+"/game.conf", []byte(config), 0o644))
	w.must(os.Mkdir(dir+"/home", 0o755))
	w.must(os.Chown(dir+"/home", 1000, 1000))
	cmd := exec.Command("unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c", gameServer, "sh", dir, script)
	out, err := os.Create(dir + "/printed")
	w.must(err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	w.must(w.host.start(cmd))
	w.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	w.eventually("the script's end", func() bool { _, err := os.Stat(dir + "/ready"); return err == nil })
	text, err := os.ReadFile(dir + "/printed")
	w.must(err)
	return dir, string(text)
}

// gameDoor is a door as such an image has it, which also closes.
const gameDoor = `[options]
	logfile = /var/log/knockd.log
[unpause]
	sequence = 7000
	seq_timeout = 1
	command = touch /mnt/home/open; grep CapEff /proc/self/status > /mnt/home/caps
	cmd_timeout = 600
	stop_command = rm /mnt/home/open
`

// TestFileCapability starts the daemon as a user, where nothing can be written but the home folder: the door works, and
// there is one warning for each path.
func TestFileCapability(t *testing.T) {
	w := newWorld(t, 1)
	dir, printed := w.serveAsUser(gameDoor, `
setcap cap_net_raw=ep /mnt/knockd
user /mnt/knockd -c /mnt/game.conf -d -i eth0; echo "status $?"
pgrep -x knockd > /dev/null || echo "no process has the name"`)
	want := "knockd: warning: opening the pid file: open /var/run/knockd.pid.lock: read-only file system: -p names another one\n" +
		"knockd: warning: opening the log file: open /var/log/knockd.log: read-only file system: LogFile or -g must name a file that user 1000 can write\n" +
		"knockd: warning: nothing will be logged: LogFile, -g or UseSyslog says where to\n" +
		"status 0\n"
	if printed != want {
		t.Errorf("got\n%s\nwant\n%s", printed, want)
	}
	w.knock(0, hostAddr, "7000")
	var got []byte
	w.eventually("the command", func() bool {
		got, _ = os.ReadFile(dir + "/home/caps")
		return len(got) > 0
	})
	if string(got) != "CapEff:\t0000000000000000\n" {
		t.Errorf("capabilities of the command: got %q", got)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "home/.local/state/sesame/%2Fmnt%2Fgame.conf/journal")); err != nil || !strings.Contains(string(text), "unpause") {
		t.Errorf("the journal: %v, %q", err, text)
	}
}

// TestFileCapabilityNamed: a path that was named is fatal.
func TestFileCapabilityNamed(t *testing.T) {
	w := newWorld(t, 1)
	_, printed := w.serveAsUser(gameDoor, `
setcap cap_net_raw=ep /mnt/knockd
user /mnt/knockd -c /mnt/game.conf -d -i eth0 -p /var/run/knockd.pid; echo "status $?"
user /mnt/knockd -c /mnt/game.conf -d -i eth0 -g /var/log/knockd.log 2>&1 | tail -n 1
sed '/options/a StateDir = /var/lib/sesame' /mnt/game.conf > /mnt/named.conf
user /mnt/knockd -c /mnt/named.conf -d -i eth0 2>&1 | tail -n 1`)
	lines := strings.Split(printed, "\n")
	for i, want := range []string{"knockd: opening the pid file: ", "status 1", "knockd: opening the log file: open /var/log/knockd.log: ", "knockd: "} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) || i == 3 && !strings.HasSuffix(lines[i], ": StateDir names another folder") {
			t.Errorf("line %d: want %q, got\n%s", i, want, printed)
		}
	}
}

// TestAmbientCapabilities starts a daemon with Open_Ports as a user. With capabilities of the file it says what it takes;
// with what it says, the door opens. Its memory is nobody's.
func TestAmbientCapabilities(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	const says = "Open_Ports needs iptables or nft, which do not get the capabilities of this file: setcap -r /mnt/knockd, and start it by a unit with " +
		"AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW, or by setpriv --reuid=1000 --clear-groups --inh-caps=+net_admin,+net_raw --ambient-caps=+net_admin,+net_raw\n"
	dir, printed := w.serveAsUser(fmt.Sprintf(nativeDoor, 600)+"[options]\n firewall = nft\n", `
setcap cap_net_raw,cap_net_admin=ep /mnt/knockd
user /mnt/knockd -c /mnt/game.conf -t 2>&1 >/dev/null | grep Open_Ports
user /mnt/knockd -c /mnt/game.conf -d -i eth0; echo "status $?"
setcap -r /mnt/knockd
setpriv --reuid=1000 --clear-groups --inh-caps=+net_admin,+net_raw --ambient-caps=+net_admin,+net_raw env HOME=/mnt/home /mnt/knockd -c /mnt/game.conf -d -i eth0 -g /mnt/home/log 2>/dev/null
echo "status $?"
user pkill -HUP -x knockd
user cat /proc/$(pgrep -x knockd)/environ > /dev/null 2>&1 && echo "others of its user can read its memory"`)
	const pid = "knockd: warning: opening the pid file: open /var/run/knockd.pid.lock: read-only file system: -p names another one\n"
	if want := "warning: /mnt/game.conf: " + says + pid + "knockd: " + says + "status 1\nstatus 0\n"; printed != want {
		t.Errorf("got\n%s\nwant\n%s", printed, want)
	}
	w.knock(0, "-d20", hostAddr, "7000", "9000", "8000")
	w.awaitPort(0, hostSSH, reached)
	log, _ := os.ReadFile(dir + "/home/log")
	if text := string(log); !strings.Contains(text, "re-opening log file") || strings.Contains(text, "the configuration stays as it was") {
		t.Errorf("the reload: got\n%s", text)
	}
}
