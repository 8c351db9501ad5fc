//go:build linux && !pure

package main

import (
	"os"
	"strings"
	"testing"
)

// TestFwknopCommands moves over from Debian's fwknopd by the commands of docs/fwknop.md, word for word, in their order: a
// client, which is fwknop's own, stays as it is.
func TestFwknopCommands(t *testing.T) {
	w := newWorld(t, 2)
	w.hide()
	m := boot(t, w.host, systemdInit, "")
	m.run(`cat > /etc/fwknop/access.conf <<'END'
SOURCE                  ANY
REQUIRE_SOURCE_ADDRESS  Y
KEY_BASE64              ` + aliceSecret + `
HMAC_KEY_BASE64         ` + aliceAuth + `
END
echo 'PCAP_INTF eth0;' > /etc/fwknop/fwknopd.conf
sed -i 's/START_DAEMON=.*/START_DAEMON="yes"/' /etc/default/fwknop-server
rm -f /etc/knockd.conf
systemctl enable --now fwknop-server`)
	home := t.TempDir()
	stanza := "[server]\nSPA_SERVER " + hostAddr + "\nACCESS tcp/22\nALLOW_IP 10.9.0.2\nUSE_HMAC Y\nKEY_BASE64 " + aliceSecret + "\nHMAC_KEY_BASE64 " + aliceAuth + "\n"
	w.must(os.WriteFile(home+"/.fwknoprc", []byte(stanza), 0o600))
	client := strings.TrimSpace(strings.Join(blocks(t, "docs/fwknop.md", "client"), ""))
	sends := func() { w.from(0, "HOME="+home+" "+client+" >&2") }
	w.eventually("fwknopd opens the door", func() bool {
		sends()
		return cameAs(probe(w.clients[0], "", hostSSH, probePatience), reached)
	})
	for line := range strings.Lines(strings.Join(blocks(t, "docs/fwknop.md", "sh"), "")) {
		said := m.run("cd /machine && " + strings.TrimSpace(line))
		if strings.Contains(line, "--from") && !strings.Contains(said, "fwknopd still runs") {
			t.Errorf("%s: it says %s", line, said)
		}
	}
	w.eventually("the door is shut", func() bool {
		return m.run("iptables -S; true") != "" && !strings.Contains(m.run("iptables -S"), "FWKNOP_INPUT -s")
	})
	w.awaitPort(0, hostSSH, hidden)
	sends()
	w.awaitPort(0, hostSSH, reached)
	w.wantPort(1, hostSSH, hidden)
	if got := m.run("journalctl -o cat -t knockd"); !strings.Contains(got, "10.9.0.2: fwknop1: OPEN SESAME by the key of fwknop") {
		t.Errorf("the log has %s", got)
	}
	for _, text := range blocks(t, "docs/fwknop.md", "ini") {
		if c, err := parseConfig("fwknop.md", strings.NewReader(text)); err != nil || len(c.Warnings) > 0 {
			t.Errorf("got %v, %q", err, c.Warnings)
		}
	}
}
