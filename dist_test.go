//go:build linux && !pure

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnit has systemd read the unit. It is no tighter for commands than that of Debian's knockd, and names every
// firewall service that is there before the network.
func TestUnit(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	text := strings.ReplaceAll(systemdUnit, "/usr/local/sbin/knockd", realProgram(t))
	if err := os.WriteFile(dir+"/sesame.service", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", dir+"/sesame.service").CombinedOutput()
	if err != nil || strings.Contains(string(out), "sesame") {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
	after := strings.Fields(strings.Join(regexp.MustCompile(`(?m)^After=.*`).FindAllString(text, -1), " "))
	for _, name := range []string{"ufw", "firewalld", "ferm", "netfilter-persistent", "nftables", "iptables", "ip6tables"} {
		if !slices.ContainsFunc(after, func(unit string) bool { return strings.TrimPrefix(unit, "After=") == name+".service" }) {
			t.Errorf("it does not wait for %s", name)
		}
	}
}

const sandboxed = hiddenSSH + `
[rule]
	Sequence = 7000,18001,9000
	Start_Command = iptables -w -I INPUT -s %IP% -p tcp --dport 23 -j ACCEPT
	Cmd_Timeout = 600
	Stop_Command = iptables -w -D INPUT -s %IP% -p tcp --dport 23 -j ACCEPT
[ufw]
	Sequence = 7000,18002,9000
	Start_Command = echo %IP% > /etc/ufw/user.rules
[files]
	Sequence = 7000,18003,9000
	Start_Command = set -e; echo %IP% > /tmp/x; echo %IP% >> /etc/hosts.allow; mkdir -p /etc/iptables; iptables-save > /etc/iptables/rules.v4; echo %IP% > /root/knocked; echo done
[once]
	One_Time_Sequences = /etc/knockd/once
	Start_Command = echo ${NOTIFY_SOCKET:-nobody}
`

// TestService runs the daemon as systemd does by our unit, from before the network to its end: readiness, sandbox,
// commands, reload, and a new start after a crash.
func TestService(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("22")
	m := boot(t, w.host, systemdInit, `
chroot . /machine/sesame install -s systemd > /dev/null
mkdir -p etc/knockd etc/ufw etc/systemd/system/machine.target.wants
ln -s ../sesame.service etc/systemd/system/machine.target.wants
echo "KNOCKD_OPTS=\"-i eth0\"" > etc/default/knockd
mkdir -p etc/sysconfig
printf "%s\n" "OPTIONS=\"-d\"" "KNOCKD_OPTIONS=\"-v\"" > etc/sysconfig/knockd
echo 7000,18004,9000 > etc/knockd/once
chmod 600 etc/knockd/once
cat > etc/knockd.conf <<E`+"\n"+strings.ReplaceAll(sandboxed, "$", `\$`)+"E\nchmod 600 etc/knockd.conf\n")
	show := func(property, unit string) string {
		return strings.TrimSpace(m.run("systemctl show --value -p " + property + " " + unit))
	}
	log := func() string { return m.run("cat /var/log/knockd.log*") }
	await := func(text string) {
		t.Helper()
		w.eventually(text, func() bool { return strings.Contains(log(), text) })
	}
	began := func(unit string) int { n, _ := strconv.Atoi(show("ActiveEnterTimestampMonotonic", unit)); return n }
	if daemon, network := began("sesame"), began("network-pre.target"); daemon == 0 || daemon > network {
		t.Errorf("the daemon was ready at %d µs, the network was to begin at %d µs", daemon, network)
	}
	w.wantPort(0, hostSSH, hidden)
	if got := m.run("journalctl -o cat -u sesame"); !strings.Contains(got, "knockd: warning: -d is ignored: systemd already runs the daemon in the background\n") {
		t.Errorf("-d: got %s", got)
	}
	m.want("the command line", m.run(`tr '\0' ' ' < /proc/$(systemctl show -p MainPID --value sesame)/cmdline`),
		"/usr/local/sbin/knockd --keep /var/lib/sesame/good.conf -i eth0 -d -v ")
	for _, port := range []string{"18000:udp", "18001", "18002", "18003", "18004"} {
		w.knock(0, hostAddr, "7000", port, "9000")
	}
	w.awaitPort(0, hostSSH, reached)
	await("once: command took")
	await("files: command output: done")
	m.run("grep -q 10.9.0.2 /tmp/x && grep -q 10.9.0.2 /etc/hosts.allow && grep -q filter /etc/iptables/rules.v4 && grep -q 10.9.0.2 /root/knocked")
	await("once: command output: nobody")
	m.run("iptables -S | grep -q 'dport 23' && grep -q 10.9.0.2 /etc/ufw/user.rules && grep -q '^#7' /etc/knockd/once")
	pid := show("MainPID", "sesame")
	caps, _ := strconv.ParseUint(strings.TrimSpace(m.run("sed -n 's/^CapBnd://p' /proc/"+pid+"/status")), 16, 64)
	if want := uint64(1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_MODULE); caps != want {
		t.Errorf("capabilities: got %x, want %x", caps, want)
	}
	const status = "sed -n 's/^NoNewPrivs:.//p; s/^CapPrm:.//p' /proc/%s/task/*/status | sort -u"
	m.want("privileges, with commands", m.run(fmt.Sprintf(status, pid)), "0\n0000000000013000\n")

	m.run("systemctl reload sesame")
	await("re-reading config file: /etc/knockd.conf")
	m.run("logrotate -f /etc/logrotate.d/knockd")
	w.eventually("another log", func() bool { out, _ := m.output("cat /var/log/knockd.log"); return strings.Contains(out, "re-opening") })
	m.run("cp /etc/knockd.conf /tmp/good && echo '[bad]\nSequence = secret' >> /etc/knockd.conf")
	if out, err := m.output("systemctl reload sesame"); err == nil {
		t.Errorf("a reload of a bad file: got %s", out)
	}
	journal := m.run("journalctl --sync; journalctl -o cat -u sesame")
	if want := `door "bad": Sequence: a port is a number from 1 to 65535`; !strings.Contains(journal, want) || strings.Contains(journal, "secret\"") {
		t.Errorf("a reload of a bad file: got %s\nwant %q in it, and no part of a sequence", journal, want)
	}
	if n := strings.Count(log(), "re-reading"); n != 2 || show("MainPID", "sesame") != pid {
		t.Errorf("a reload of a bad file: got %d reloads, or another daemon", n)
	}
	m.run("cp /tmp/good /etc/knockd.conf; kill -9 " + pid)
	w.wantPort(0, hostSSH, reached)
	w.eventually("a new start", func() bool {
		p := show("MainPID", "sesame")
		return p != "0" && p != pid && show("ActiveState", "sesame") == "active"
	})
	m.want("status", m.run("sesame status | grep -c 10.9.0.2"), "2\n")
	m.run("systemctl stop sesame && ! iptables -S | grep 'dport 23'")
	w.wantPort(0, hostSSH, hidden)
	m.want("the result", show("Result", "sesame"), "success")

	// Without commands, it gives up what it does not need.
	m.run("cat > /etc/knockd.conf <<E\n" + hiddenSSH + "E\nsystemctl start sesame")
	m.want("privileges, without commands", m.run(fmt.Sprintf(status, show("MainPID", "sesame"))), "0000000000003000\n1\n")
	w.knock(0, hostAddr, "7000", "18000:udp", "9000")
	w.awaitPort(0, hostSSH, reached)
	m.run("cp /tmp/good /etc/knockd.conf; systemctl reload sesame")
	await("warning: the daemon has given up the privileges of commands, as no door had one: restart it for rule, ufw, files, once")
	w.wantPort(0, hostSSH, reached)
	m.run("systemctl stop sesame && sesame flush")
}

// scripts are the shell scripts of the project.
func scripts(t *testing.T) (files []string) {
	t.Helper()
	all, _ := filepath.Glob("dist/*")
	more, _ := filepath.Glob("dist/openwrt/*")
	for _, file := range append(append(all, more...), "needs.sh") {
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), "#!/") {
			files = append(files, file)
		}
	}
	return files
}

// TestScripts has shellcheck and busybox's shell read every script.
func TestScripts(t *testing.T) {
	files := scripts(t)
	if len(files) < 4 {
		t.Fatalf("scripts: got %v", files)
	}
	for _, file := range files {
		for _, argv := range [][]string{{"shellcheck", "-s", "dash", file}, {"busybox", "ash", "-n", file}} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v: %s", argv, err, out)
			}
		}
	}
}

// TestOpenRC has the script of OpenRC read as openrc-run does, with the options that packages of knockd have.
func TestOpenRC(t *testing.T) {
	needRoot(t)
	script, err := filepath.Abs("dist/sesame.openrc")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ knock, sesame, want string }{
		{"", "", ""},
		{"", "KNOCKD_OPTS='-i ppp0 -v'", "-i ppp0 -v "},
		{"IFACE=eth1\nOPTS=''", "", "-i eth1 "},
		{"OPTS='-d -i eth1 -v'", "KNOCKD_OPTS='-p /run/x'", "-i eth1 -v -p /run/x "},
		{"OPTS='oops", "KNOCKD_OPTS=-v", "-v "},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/knock", []byte(tt.knock), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("unshare", "-m", "busybox", "ash", "-euc", `OPTS='' KNOCKD_OPTS=''
mount -t tmpfs tmpfs /mnt && mkdir -p /mnt/conf.d && cp "$1/knock" /mnt/conf.d && mount --bind /mnt /etc
`+tt.sesame+`
. "$2"
echo "$command $command_args"`, "sh", dir, script).CombinedOutput()
		if want := "/usr/local/sbin/knockd --keep /var/lib/sesame/good.conf " + tt.want + "\n"; err != nil || string(out) != want {
			t.Errorf("%q, %q: got %v, %q, want %q", tt.knock, tt.sesame, err, out, want)
		}
	}
}

// TestExample wants the example to be read without mistakes and to open nothing, and its door to be refused until
// somebody has chosen a sequence.
func TestExample(t *testing.T) {
	c, err := parseConfig("knockd.conf", strings.NewReader(exampleConfig))
	if err != nil || len(c.Doors) != 0 {
		t.Errorf("got %v, %v, want no door", c, err)
	}
	text := regexp.MustCompile(`(?m)^#(\[|\t)`).ReplaceAllString(exampleConfig, "$1")
	_, err = parseConfig("knockd.conf", strings.NewReader(text))
	if want := `knockd.conf:9: door "ssh": Sequence: a port is a number from 1 to 65535, not "CHOOSE"`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("with the # away: got %v, want %s", err, want)
	}
	c, err = parseConfig("knockd.conf", strings.NewReader(strings.Replace(text, "CHOOSE,YOUR:udp,OWN", "7000,18000:udp,9000", 1)))
	if err != nil || len(c.Doors) != 1 || !c.Doors[0].Hide || len(c.Warnings) > 0 {
		t.Errorf("with a sequence: got %v, %v", c, err)
	}
}
