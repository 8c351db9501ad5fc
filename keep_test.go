//go:build linux && !pure

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKeptConfiguration starts the daemon with a configuration that is missing or wrong: without --keep it does not
// start; with it, it runs with the one that has last worked, and says so.
func TestKeptConfiguration(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], fmt.Sprintf(nativeDoor, 600))
	good, file, kept := n.config, n.dir+"/knockd.conf", n.dir+"/good.conf"
	n.args = []string{"--keep", kept}
	n.serve().stop()
	if text, err := os.ReadFile(kept); err != nil || string(text) != good {
		t.Fatalf("kept: got %v, %q, want %q", err, text, good)
	}
	if info, err := os.Stat(kept); err != nil || info.Mode() != 0o600 {
		t.Errorf("kept: got %v, %v, want mode 600", err, info.Mode())
	}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	n.must(os.Chtimes(kept, since, since))
	n.serve().stop() // with the same text, which is not written again
	for _, tt := range []struct{ name, config, want string }{
		{"a typo", strings.Replace(good, "hide        = yes", "hide = yez", 1), file + `:5: door "ssh": Hide is yes or no, not "yez": Hide = yes`},
		{"two mistakes", strings.Replace(good, "hide        = yes", "hide = yez\nnonsense = 1", 1), file + `:6: door "ssh": unknown directive "nonsense"`},
		{"a mistake in the secret", strings.Replace(good, "8000", "80000", 1), file + `:2: door "ssh": Sequence: a port is a number from 1 to 65535`},
		{"nothing in it", "", file + ":1: there is no section in it"},
		{"no file", "-", "opening the configuration: open " + file + ": no such file or directory"},
		{"a log that cannot be written", good + "\tLogFile = /dev/null/log\n", "opening the log file: open /dev/null/log: not a directory"},
		{"a one-time file that is missing", good + "[b]\n\tOne_Time_Sequences = /dev/null/once\n\tCommand = true\n",
			file + `:9: door "b": One_Time_Sequences: open /dev/null/once: not a directory`},
		{"no place for the journal", strings.Replace(good, n.dir+"/state", "/dev/null/state", 1), "mkdir /dev/null: not a directory: StateDir"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := func() *running {
				n.must(os.WriteFile(file, []byte(tt.config), 0o600))
				if tt.config == "-" {
					n.must(os.Remove(file))
				}
				_ = os.Remove(n.dir + "/log")
				args := append([]string{"serve", "-c", file, "-i", "eth0", "-s", n.socket}, n.args...)
				if !strings.Contains(tt.config, "LogFile") {
					args = append(args, "-g", n.dir+"/log")
				}
				cmd := sesame("sesame", args...)
				if strings.Contains(tt.config, "LogFile") {
					log, err := os.Create(n.dir + "/log")
					n.must(err)
					defer log.Close()
					cmd.Stderr = log
				}
				return n.daemon(cmd, file, n.dir+"/log")
			}
			n.args = nil
			start().wantExit(1)
			n.args = []string{"--keep", kept}
			d := start()
			d.await("starting up")
			const with = "; running with the configuration of 2026-01-02 03:04:05\n"
			d.await("warning: " + tt.want)
			d.await(with)
			if strings.Contains(d.logged(), "80000") {
				t.Error("a part of the secret is in the log")
			}
			if out, status := n.tool("status", "-s", n.socket); status != 0 || !strings.Contains(strings.SplitN(out, "sesame ", 2)[0], tt.want) ||
				!strings.Contains(out, with+"sesame ") || !strings.Contains(out, "configuration "+kept+", read ") {
				t.Errorf("status: got %d, %s, want %q%s on top", status, out, tt.want, with)
			}
			n.wantPort(0, hostSSH, hidden)
			n.knockOnce(0)
			n.awaitPort(0, hostSSH, reached)
			// A reload refuses it as ever, and takes a good one.
			d.signal(unix.SIGHUP)
			d.await("re-reading config file: " + file)
			n.must(os.WriteFile(file, []byte("# mended\n"+good), 0o600))
			n.eventually("the mended configuration", func() bool {
				d.signal(unix.SIGHUP)
				out, _ := n.tool("status", "-s", n.socket)
				return strings.HasPrefix(out, "sesame ") && strings.Contains(out, "configuration "+file+", read ")
			})
			n.wantPort(0, hostSSH, reached)
			n.eventually("the mended configuration's copy", func() bool {
				text, err := os.ReadFile(kept)
				return err == nil && string(text) == "# mended\n"+good
			})
			d.stop()
			n.must(os.WriteFile(kept, []byte(good), 0o600))
			n.must(os.Chtimes(kept, since, since))
		})
	}
}

// TestKeptOneTime has a mistake in a one-time file: its door waits for the mistake to be mended, the others open.
func TestKeptOneTime(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], fmt.Sprintf(nativeDoor, 600))
	n.config += "[once]\n\tOne_Time_Sequences = " + n.dir + "/once\n\tCommand = true\n"
	n.args = []string{"--keep", n.dir + "/good.conf"}
	n.must(os.WriteFile(n.dir+"/once", []byte("1000,2000\n"), 0o600))
	n.serve().stop()
	n.must(os.WriteFile(n.dir+"/once", []byte("oops\n"), 0o600))
	d := n.serve()
	d.await("warning: " + n.dir + "/once:1: Sequence: a port is a number from 1 to 65535; running with the configuration of ")
	d.await("no more sequences left in the one time sequences file for door once --> disabling the door")
	n.wantPort(0, hostSSH, hidden)
	n.knockOnce(0)
	n.awaitPort(0, hostSSH, reached)
	d.stop()
}

// TestKeptInBackground starts it by -d, as scripts do, with a path that is relative to where it is called.
func TestKeptInBackground(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := &detachedDaemon{w: w, dir: w.TempDir()}
	w.must(os.WriteFile(d.dir+"/good.conf", []byte(sshDoor("ssh", "7000,8000", 600)), 0o600))
	w.must(os.WriteFile(d.dir+"/knockd.conf", []byte("oops\n"), 0o600))
	if out, status := d.start("--keep", "good.conf"); status != 0 || !strings.HasPrefix(out, "knockd: warning: "+d.dir+"/knockd.conf:1: ") {
		t.Fatalf("knockd -d: exit status %d, %q", status, out)
	}
	d.pid = strings.TrimSpace(d.read("pid"))
	w.endPid(d.pid)
	d.await("; running with the configuration of ")
	w.knock(0, hostAddr, "7000", "8000")
	w.awaitPort(0, hostSSH, reached)
	d.signal("TERM")
	d.awaitEnd()
}

// TestKeptDoesNotWork has a kept configuration that is missing or wrong, too: the error is that of the one asked for.
func TestKeptDoesNotWork(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	w.must(os.WriteFile(dir+"/c", []byte("oops\n"), 0o600))
	for _, tt := range []struct{ kept, want string }{
		{"", dir + "/c:1: \"oops\" is not a directive: a line is [section], Directive = value or # comment\n"},
		{"[a]\n Colour = red\n", "sesame: the kept configuration does not work either: " + dir + "/kept:2: door \"a\": unknown directive \"Colour\"\n" +
			dir + "/c:1: \"oops\" is not a directive: a line is [section], Directive = value or # comment\n"},
	} {
		_ = os.Remove(dir + "/kept")
		if tt.kept != "" {
			w.must(os.WriteFile(dir+"/kept", []byte(tt.kept), 0o600))
		}
		cmd := sesame("sesame", "serve", "-c", dir+"/c", "--keep", dir+"/kept", "-i", "eth0")
		var out strings.Builder
		cmd.Stderr = &out
		w.must(w.host.start(cmd))
		if status := exitStatus(cmd.Wait()); status != 1 || out.String() != tt.want {
			t.Errorf("got %d, %s\nwant 1, %s", status, out.String(), tt.want)
		}
	}
}

// TestKeptMisused has an option that is wrong, which a service's file may have: it runs with the kept configuration.
func TestKeptMisused(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], fmt.Sprintf(nativeDoor, 600))
	for _, wrong := range []string{"-z", "eth1", "--interface=eth0/1", "-i"} {
		n.must(os.WriteFile(n.dir+"/good.conf", []byte(n.config), 0o600))
		n.args = []string{"--keep", n.dir + "/good.conf", wrong}
		d := n.start("")
		d.await("; running with the configuration of ")
		n.wantPort(0, hostSSH, hidden)
		n.knockOnce(0)
		n.awaitPort(0, hostSSH, reached)
		d.stop()
	}
}

// TestKeptWithoutLog has the folder of the log gone, which the kept configuration names, too.
func TestKeptWithoutLog(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], fmt.Sprintf(nativeDoor, 600))
	n.must(os.WriteFile(n.dir+"/good.conf", []byte(n.config+"\tLogFile = /dev/null/log\n"), 0o600))
	n.must(os.WriteFile(n.dir+"/knockd.conf", []byte(n.config+"\tLogFile = /dev/null/log\n"), 0o600))
	cmd := sesame("sesame", "serve", "-c", n.dir+"/knockd.conf", "--keep", n.dir+"/good.conf", "-i", "eth0", "-s", n.socket)
	log, err := os.Create(n.dir + "/log")
	n.must(err)
	defer log.Close()
	cmd.Stderr = log
	d := n.daemon(cmd, n.dir+"/knockd.conf", n.dir+"/log")
	d.await("warning: opening the log file: open /dev/null/log: not a directory")
	n.wantPort(0, hostSSH, hidden)
	n.knockOnce(0)
	n.awaitPort(0, hostSSH, reached)
	d.stop()
}

// TestKeptWhenBuilt reloads a configuration that the firewall refuses: it is kept when the firewall has it in the end.
func TestKeptWhenBuilt(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], fmt.Sprintf(nativeDoor, 600))
	kept := n.dir + "/new/good.conf" // in a folder that is made for it
	n.args = []string{"--keep", kept}
	mend := n.breaks("nft", "-f*", 1)
	mend()
	d := n.serve()
	good := n.config
	n.must(os.WriteFile(n.dir+"/broken", nil, 0o600))
	d.write("# another\n" + good)
	d.signal(unix.SIGHUP)
	d.await("firewall: nft -f -: exit status 1")
	if text, err := os.ReadFile(kept); err != nil || string(text) != good {
		t.Errorf("kept: got %v, %q, want %q", err, text, good)
	}
	mend()
	for deadline := time.Now().Add(2 * checkEvery); ; time.Sleep(100 * time.Millisecond) {
		if text, _ := os.ReadFile(kept); string(text) == "# another\n"+good {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not kept once it is in force")
		}
	}
	d.stop()
}

// TestKeepingFails has no place for the copy: the daemon runs, and says what that means.
func TestKeepingFails(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], fmt.Sprintf(nativeDoor, 600))
	n.args = []string{"--keep", "/dev/null/good.conf"}
	d := n.serve()
	d.await("warning: keeping the configuration: ")
	d.stop()
}

// badFiles spoils a service's configuration in several ways, and has the service start again each time, by restart and by
// a boot: the port stays hidden, whoever knocks gets in, and status and log say what is wrong.
func (m *bootedHost) badFiles(w *world, spoils []spoiled, start func(boot bool)) {
	m.Helper()
	for _, s := range spoils {
		m.run(s.by)
		for _, boot := range []bool{false, true} {
			if boot {
				m.reboot()
			}
			start(boot)
			w.eventually(fmt.Sprintf("%s, boot %v: status", s.by, boot), func() bool {
				out, _ := m.output("sesame status")
				return strings.HasPrefix(out, s.said) && strings.Contains(out, "; running with the configuration of ")
			})
			w.wantPort(0, hostSSH, hidden)
			w.knock(0, hostAddr, "7000", "18000:udp", "9000")
			w.awaitPort(0, hostSSH, reached)
			m.run("sesame close --all")
			w.awaitPort(0, hostSSH, hidden)
		}
	}
}

type spoiled struct{ by, said string }

var spoiledConfig = []spoiled{
	{"sed -i 's/Hide = yes/Hide = yez/' /etc/knockd.conf", `/etc/knockd.conf:7: door "ssh": Hide is yes or no, not "yez": Hide = yes`},
	{"rm /etc/knockd.conf", "opening the configuration: open /etc/knockd.conf: no such file or directory: -c names another file"},
}

// install puts sesame and a configuration in place.
func (m *bootedHost) install(w *world, config string) {
	m.Helper()
	w.must(os.WriteFile(m.dir+"/knockd.conf", []byte(config), 0o600))
	m.run("cp /machine/knockd.conf /etc/knockd.conf && chmod 600 /etc/knockd.conf && /machine/sesame install")
}

func TestBadFileUnderSystemd(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("22")
	m := boot(t, w.host, systemdInit, "mkdir -p etc/systemd/system/machine.target.wants; ln -s ../sesame.service etc/systemd/system/machine.target.wants")
	m.install(w, hiddenSSH)
	m.run("systemctl restart sesame")
	m.badFiles(w, spoiledConfig, func(boot bool) {
		if !boot {
			m.run("systemctl restart sesame")
		}
	})
	if got := m.run("cat /var/log/knockd.log"); !strings.Contains(got, "] warning: "+spoiledConfig[0].said+"; running with the configuration of ") {
		t.Errorf("the log: got %s", got)
	}
}

// TestBadFileUnderBusybox is the same on a host that busybox's init starts, by the line that install names.
func TestBadFileUnderBusybox(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("22")
	m := boot(t, w.host, busyboxInit, "rm -f sbin/init; ln -s /bin/busybox sbin/init; echo ::sysinit:/bin/true > etc/inittab")
	m.install(w, hiddenSSH)
	m.run("echo ::respawn:/usr/sbin/knockd --keep /var/lib/sesame/good.conf >> /etc/inittab; kill -HUP 1")
	listens := func() bool { _, err := m.output("sesame status"); return err == nil }
	w.eventually("the daemon's start", listens)
	m.badFiles(w, spoiledConfig, func(boot bool) {
		if !boot { // and init starts it again
			m.run("pid=$(sesame status | sed -n 's/.*process \\([0-9]*\\),.*/\\1/p'); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done")
		}
		w.eventually("the daemon's start", listens)
	})
}

// TestBadFileUnderSysv is the same where scripts in /etc/rc?.d are run, with Debian's package of knockd and without.
func TestBadFileUnderSysv(t *testing.T) {
	w := newWorld(t, 2)
	w.listen("22")
	m := boot(t, w.host, noInit, "echo id:2:initdefault: > etc/inittab; rm -f etc/rc?.d/*\n"+
		`mkdir -p etc/sysconfig; printf "%s\n" "OPTIONS=\"-i eth0\"" "KNOCKD_OPTIONS=\"-v\"" > etc/sysconfig/knockd`)
	m.run(newKnockd)
	m.install(w, hiddenSSH)
	// What runs the scripts at a boot (rc(8) of sysvinit) is not here.
	rc := func() { m.run("for s in /etc/rcS.d/S* /etc/rc2.d/S*; do [ ! -x $s ] || $s start || true; done") }
	m.run("update-rc.d sesame defaults; update-rc.d knockd defaults")
	m.want("the links", m.run("cd /etc; ls -d rc?.d/S*sesame rc6.d/K*sesame | sed 's/[0-9][0-9]/NN/'"), "rc6.d/KNNsesame\nrcS.d/SNNsesame\n")
	rc()
	w.wantPort(0, hostSSH, hidden)
	if got := m.run(`tr '\0' ' ' < /proc/$(cat /run/knockd.pid)/cmdline`); !strings.Contains(got, " -i eth0 -v -p /var/run/knockd.pid ") {
		t.Errorf("the options of /etc/sysconfig/knockd: got %s", got)
	}
	m.badFiles(w, spoiledConfig, func(boot bool) {
		if boot {
			rc()
		} else {
			m.run("/etc/init.d/sesame restart")
		}
	})
	// Whoever says knockd means sesame.
	m.run("cp /machine/knockd.conf /etc/knockd.conf")
	pid := m.run("cat /run/knockd.pid")
	for n, command := range []string{"start", "restart", "reload", "force-reload"} {
		m.run("rm -f /var/log/knockd.log; /etc/init.d/knockd " + command)
		w.eventually(command, func() bool {
			out, _ := m.output("cat /var/log/knockd.log")
			return strings.Contains(out, "re-opening log file")
		})
		m.want(fmt.Sprint(command, n), m.run("cat /run/knockd.pid"), pid)
	}
	m.want("stop", m.run("/etc/init.d/knockd stop; cat /run/knockd.pid"), "sesame runs on: /etc/init.d/sesame stop\n"+pid)
	if out, err := m.output("/etc/init.d/knockd sing"); exitStatus(err) != 2 {
		t.Errorf("sing: got %v, %s", err, out)
	}
	for _, command := range []string{"dpkg -i /machine/new.deb", "dpkg --remove knockd", "dpkg --purge knockd"} {
		m.run(command)
		m.want(command, m.run("cat /run/knockd.pid; sesame status >/dev/null"), pid)
		w.wantPort(1, hostSSH, hidden)
		m.reboot()
		rc()
		pid = m.run("cat /run/knockd.pid; sesame status >/dev/null")
		w.wantPort(0, hostSSH, hidden)
		w.knock(0, hostAddr, "7000", "18000:udp", "9000")
		w.awaitPort(0, hostSSH, reached)
	}
	m.run("/etc/init.d/sesame stop")
	w.wantPort(0, hostSSH, hidden)
	m.run("sesame uninstall")
	// The package's own script: dpkg's purge leaves a configuration file that is diverted.
	m.want("what is left", m.run("ls /etc/init.d /etc/rc?.d | grep -e sesame -e knockd; ls -d /var/lib/sesame 2>/dev/null; true"), "knockd\n")
}

// TestBadFileUnderOpenwrt is the same by OpenWrt's script. There, /var is lost with the power.
func TestBadFileUnderOpenwrt(t *testing.T) {
	o := newOpenwrt(t)
	w := o.world
	o.config(uciDoor)
	o.run("PATH=/router /machine/sesame install")
	start := func(boot bool) {
		t.Helper()
		if boot {
			o.run("rm -rf /var/etc /var/lib/sesame /tmp/pid /tmp/procd")
		}
		o.network(wanUp)
		_, _ = o.script("restart")
	}
	start(true)
	w.eventually("the daemon's start", func() bool { _, err := o.output("sesame status"); return err == nil })
	w.eventually("the copy", func() bool { _, err := o.output("test -e " + keptOnRouter); return err == nil })
	o.badFiles(w, []spoiled{
		{"sed -i \"s/option hide '1'/option hide 'yez'/\" /etc/config/sesame", `/var/etc/sesame.conf:8: door "ssh": Hide is yes or no, not "yez": Hide = yes`},
		{"sed -i \"s/option hide 'yez'/option hide 'a$(printf '\\r')b'/\" /etc/config/sesame", "opening the configuration: open /var/etc/sesame.conf: no such file or directory"},
		{"sed -i \"s/option enabled '1'/option enabled '1 list network wan'/\" /etc/config/sesame", "opening the configuration: open /var/etc/sesame.conf: no such file or directory"},
		{"rm /etc/config/sesame", "opening the configuration: open /var/etc/sesame.conf: no such file or directory"},
	}, start)
	if said := o.run("cat /tmp/logd"); !strings.Contains(said, "/etc/config/sesame: it is missing\n") {
		t.Errorf("what the script says: got %s", said)
	}
	// Who turns it off has no copy come to life.
	o.config(strings.Replace(uciDoor, "enabled '1'", "enabled '0'", 1))
	_, _ = o.script("start")
	o.run("rm /etc/config/sesame; test ! -e " + keptOnRouter)
	_, _ = o.script("start")
	o.want("what procd is told", o.run("cat /tmp/procd 2>/dev/null; true"), "")
}
