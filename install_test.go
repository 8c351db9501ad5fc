package main

import (
	"testing"
)

func TestInstall(t *testing.T) {
	w := newWorld(t, 1)
	m := boot(t, w.host, "")
	m.copyProgram()
	t.Logf("%s", m.changed())
	t.Logf("%s", m.run("/machine/sesame install -n"))
	t.Logf("%s", m.changed())
	t.Logf("%s", m.run("/machine/sesame install"))
	t.Logf("%s", m.changed())
	t.Logf("%s", m.run("/machine/sesame install"))
	t.Logf("%s", m.run("cat /etc/sesame.installed; systemctl enable knockd; systemctl restart knockd; systemctl status knockd; ls -la /run/sesame; sesame status; journalctl -o cat --no-pager"))
	out, err := m.output("sesame uninstall")
	t.Logf("%v %s", err, out)
	t.Logf("%s", m.run("systemctl stop knockd; sesame uninstall"))
	t.Logf("%s", m.changed())
}
