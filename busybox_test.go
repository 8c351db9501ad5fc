//go:build linux && !pure

package main

import (
	"os"
	"strings"
	"testing"
)

// TestBusyboxInit installs on a host that busybox starts, types what install says, and has the daemon killed.
func TestBusyboxInit(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("22")
	m := boot(t, w.host, busyboxInit, `
rm -f sbin/init
ln -s /bin/busybox sbin/init
echo ::sysinit:/bin/true > etc/inittab
mkdir router
busybox --install -s "$PWD/router"
ln -sf /bin/busybox bin/sh
`)
	w.must(os.WriteFile(m.dir+"/knockd.conf", []byte(hiddenSSH), 0o600))
	said := m.run("/machine/sesame install")
	if want := `put /usr/sbin/sesame
divert the package's /usr/sbin/knockd to /usr/sbin/knockd.distrib
divert the package's /usr/bin/knock to /usr/bin/knock.distrib
link /usr/sbin/knockd to sesame
link /usr/bin/knock to ../sbin/sesame
put /etc/init.d/sesame
next:
  chmod 600 /etc/knockd.conf
  sed -i '\|/usr/sbin/knockd|d' /etc/inittab
  echo ::respawn:/usr/sbin/knockd --keep /var/lib/sesame/good.conf >> /etc/inittab
  kill -HUP 1
  sesame init ssh --port 22
  sesame try
`; !strings.HasSuffix(said, "\n"+want) {
		t.Errorf("install: got\n%s\nwant\n%s", said, want)
	}
	_, next, _ := strings.Cut(said, "next:\n")
	next, _, _ = strings.Cut(next, "  sesame init")
	m.run("cp /machine/knockd.conf /etc/knockd.conf; set -e\n" + next)
	pid := func() string {
		out, _ := m.output("/router/pidof knockd")
		return strings.TrimSpace(out)
	}
	listens := func() bool { _, err := m.output("sesame status"); return err == nil }
	w.eventually("the daemon's start", listens)
	w.knock(0, hostAddr, "7000", "18000:udp", "9000")
	w.awaitPort(0, hostSSH, reached)
	// The firewall lets in before the journal has the door as open, and what is not open there is closed at the next start.
	w.eventually("the opening", func() bool { return strings.Contains(m.run("sesame status"), "closes in") })
	first := pid()
	m.run("kill -9 " + first)
	w.eventually("a new start", func() bool { p := pid(); return p != "" && p != first && listens() })
	w.wantPort(0, hostSSH, reached)
	m.run("sed -i /respawn/d /etc/inittab; kill -HUP 1")
	w.eventually("the end", func() bool { return pid() == "" })
	w.wantPort(0, hostSSH, hidden)

	// The same by the script, in busybox's shell and with busybox's programs alone.
	script := func(command string, status int) {
		t.Helper()
		out, err := m.output("PATH=/router /etc/init.d/sesame " + command)
		if exitStatus(err) != status {
			t.Errorf("%s: got %v, %s, want exit status %d", command, err, out, status)
		}
	}
	log := func() string { return m.run("cat /var/log/knockd.log") }
	script("stop", 0)
	script("start", 0)
	first = m.run("cat /var/run/knockd.pid")
	script("start", 1)
	m.want("the daemon after another start", m.run("cat /var/run/knockd.pid"), first)
	w.knock(0, hostAddr, "7000", "18000:udp", "9000")
	w.awaitPort(0, hostSSH, reached)
	script("reload", 0)
	w.eventually("the reload", func() bool { return strings.Contains(log(), "re-reading") })
	m.run("echo oops >> /etc/knockd.conf")
	script("reload", 1)
	m.run("sed -i '$d' /etc/knockd.conf")
	script("restart", 0)
	if m.run("cat /var/run/knockd.pid") == first {
		t.Error("restart: the daemon is the same")
	}
	m.run("cp -a /usr/sbin/sesame /tmp/new; mv /tmp/new /usr/sbin/sesame") // an upgrade meanwhile
	script("stop", 0)
	m.run("! test -e /var/run/knockd.pid")
	w.wantPort(0, hostSSH, hidden)
	m.run("sleep 1000 >/dev/null 2>&1 & echo $! > /var/run/knockd.pid")
	script("stop", 0) // and nobody else's process is ended
	m.run("kill $(cat /var/run/knockd.pid) && rm /var/run/knockd.pid")
	script("sing", 2)
	if n := strings.Count(log(), "re-reading"); n != 1 {
		t.Errorf("reloads: got %d, want 1", n)
	}
	m.run("sesame uninstall")
}
