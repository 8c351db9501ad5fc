//go:build linux && !pure

package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// sharedLines are install's and uninstall's lines on manuals and completion, whose folders may be there already.
var sharedLines = regexp.MustCompile(`(?m)^((put|make|link|remove) )?/usr/local/share\b.*\n`)

// want compares what a command printed, but for sharedLines.
func (m *bootedHost) want(what, got, want string) {
	m.Helper()
	got = sharedLines.ReplaceAllString(got, "")
	if got != want {
		m.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
	}
}

const installedOnDebian = `put /usr/local/sbin/sesame
divert the package's /usr/sbin/knockd to /usr/sbin/knockd.distrib
link /usr/sbin/knockd to /usr/local/sbin/sesame
divert the package's /usr/bin/knock to /usr/bin/knock.distrib
link /usr/bin/knock to /usr/local/sbin/sesame
link /usr/local/sbin/knockd to sesame
link /usr/local/bin/knock to ../sbin/sesame
put /etc/systemd/system/sesame.service
put /etc/systemd/system/knockd.service
put /etc/logrotate.d/knockd
run systemctl daemon-reload
next:
  chmod 600 /etc/knockd.conf
  systemctl stop knockd
  systemctl enable sesame
  systemctl restart sesame
  sesame init ssh --port 22
  sesame try
`

// newKnockd makes a package of knockd, newer than the one that is here: with its files and scripts, and a daemon that
// is told from the old one by what it ends in.
const newKnockd = `
mkdir -p /machine/new/DEBIAN
dpkg -L knockd | while read -r f; do [ -d "$f" ] || [ ! -e "$f" ] || cp -a --parents "$f" /machine/new; done
printf '\nnewer\n' >> /machine/new/usr/sbin/knockd
dpkg-query -W -f 'Package: knockd\nVersion: 99\nArchitecture: ${Architecture}\nMaintainer: Test <test@localhost>\nDescription: newer\n' knockd > /machine/new/DEBIAN/control
for f in preinst postinst prerm postrm conffiles; do
	[ ! -e /var/lib/dpkg/info/knockd.$f ] || cp -a /var/lib/dpkg/info/knockd.$f /machine/new/DEBIAN/$f
done
dpkg-deb -b /machine/new /machine/new.deb`

// TestInstallOnDebian installs beside Debian's package of knockd, and takes everything back after that was upgraded.
func TestInstallOnDebian(t *testing.T) {
	w := newWorld(t, 1)
	m := boot(t, w.host, systemdInit, "")
	m.run(newKnockd)
	m.want("at first", m.changed(), "")
	const stays = "/etc/knockd.conf is there, and stays as it is\n"
	m.want("a dry run", m.run("/machine/sesame install --dry-run"), stays+installedOnDebian)
	m.want("after a dry run", m.changed(), "")
	m.want("installing", m.run("/machine/sesame install"), stays+installedOnDebian)
	there := ""
	for line := range strings.Lines(installedOnDebian) {
		words := strings.Fields(line)
		switch words[0] {
		case "put", "link":
			there += words[1] + " is there already\n"
		case "divert":
			there += "the diversion of " + words[3] + " is there already\n"
		}
	}
	there = strings.Replace(there, "/etc/systemd", "/etc/knockd.conf is there, and stays as it is\n/etc/systemd", 1)
	m.want("installing again", m.run("/machine/sesame install"), there+installedOnDebian[strings.Index(installedOnDebian, "next:"):])
	for _, page := range []string{"8 sesame", "8 knockd", "5 knockd.conf", "1 knock"} {
		if got := m.run("man -w " + page); !strings.HasPrefix(got, "/usr/local/") {
			t.Errorf("man %s: got %s", page, got)
		}
	}
	const inBash = ". /usr/share/bash-completion/bash_completion 2>/dev/null; for f in sesame knock knockd; do . /usr/local/share/bash-completion/completions/$f; done; complete -p sesame knock knockd"
	m.want("bash", m.run("bash -c '"+inBash+"'"), "complete -o default -F _sesame sesame\ncomplete -o default -F _sesame knock\ncomplete -o default -F _sesame knockd\n")
	ours := m.run("sesame version")
	m.want("the package's names", m.run("/usr/sbin/knockd -V; /usr/bin/knock -V; knockd -V; knock -V"), strings.Repeat(ours, 4))

	m.run("systemctl restart sesame")
	out, err := m.output("sesame uninstall")
	const runs = ": it runs: systemctl stop sesame: "
	if exitStatus(err) != 1 || !strings.HasPrefix(out, "sesame uninstall"+runs) || !strings.HasSuffix(out, ": nothing was taken back\n") {
		t.Errorf("uninstall while the daemon runs: got %v, %s", err, out)
	}
	if out, err = m.output("sesame flush"); exitStatus(err) != 1 || !strings.HasPrefix(out, "sesame flush"+runs) || strings.Count(out, "\n") != 1 {
		t.Errorf("flush while the daemon runs: got %v, %s", err, out)
	}
	m.run("dpkg -i /machine/new.deb")
	m.run("systemctl stop sesame; sesame uninstall")
	m.want("the package's names", m.run("tail -n1 /usr/sbin/knockd; dpkg-divert --list | grep knock; ls /usr/sbin/knockd* /usr/bin/knock*"),
		"newer\n/usr/bin/knock\n/usr/sbin/knockd\n")
	out, err = m.output("/machine/sesame uninstall")
	if exitStatus(err) != 1 || out != "sesame uninstall: nothing was installed here by sesame install: there is no /etc/sesame.installed\n" {
		t.Errorf("uninstall again: got %v, %s", err, out)
	}
}

// TestUninstall takes back what was installed, byte for byte, also after it has run and was enabled.
func TestUninstall(t *testing.T) {
	w := newWorld(t, 1)
	m := boot(t, w.host, systemdInit, "")
	w.must(os.WriteFile(m.dir+"/knockd.conf", []byte(hiddenSSH), 0o600))
	m.run("/machine/sesame install && echo 'KNOCKD_OPTS=\"-c /machine/knockd.conf\"' >> /etc/default/knockd")
	m.run("systemctl enable sesame knockd && systemctl restart sesame && nft list table inet sesame && systemctl stop sesame && nft list table inet sesame")
	m.run("sed -i '$d' /etc/default/knockd")
	m.want("uninstalling", m.run("sesame uninstall"), `nothing of sesame is left in the firewall
remove /etc/logrotate.d/knockd
remove /etc/systemd/system/knockd.service
remove /etc/systemd/system/sesame.service
remove /usr/local/bin/knock
remove /usr/local/sbin/knockd
remove /usr/bin/knock
remove the diversion of /usr/bin/knock
remove /usr/sbin/knockd
remove the diversion of /usr/sbin/knockd
remove /usr/local/sbin/sesame
remove /etc/systemd/system/multi-user.target.wants/sesame.service
remove /etc/systemd/system/multi-user.target.wants/knockd.service
run systemctl daemon-reload
`)
	m.want("the host", m.changed(), "")
	m.want("the firewall", m.run("nft list tables"), "")
	m.want("the folders", m.run("ls -d /run/sesame /var/lib/sesame 2>/dev/null; true"), "")
}

// TestBesideDebianPackage has dpkg do to the package of knockd what may become of it, each with a hidden port and an open
// door, on a host that starts services as it is told to, and boots after each: the port stays hidden, the door open, and
// who knocks gets in.
func TestBesideDebianPackage(t *testing.T) {
	w := newWorld(t, 2)
	w.listen("22")
	m := boot(t, w.host, systemdInit, "rm -f usr/sbin/policy-rc.d")
	w.must(os.WriteFile(m.dir+"/knockd.conf", []byte(hiddenSSH), 0o600))
	m.run(newKnockd)
	m.run("cp /machine/knockd.conf /etc/knockd.conf && systemctl start knockd && systemctl enable knockd && /machine/sesame install")
	// multi-user.target would start what else is on this machine.
	const wanted = "/etc/systemd/system/multi-user.target.wants/sesame.service"
	m.run("mkdir -p /etc/systemd/system/machine.target.wants && ln -s " + wanted + " /etc/systemd/system/machine.target.wants")
	m.run("systemctl stop knockd && systemctl restart sesame")
	opens := func(what string) {
		t.Helper()
		w.eventually(what+": the daemon", func() bool { _, err := m.output("sesame status"); return err == nil })
		w.wantPort(0, hostSSH, hidden)
		w.knock(0, hostAddr, "7000", "18000:udp", "9000")
		w.awaitPort(0, hostSSH, reached)
		w.wantPort(1, hostSSH, hidden)
	}
	opens("at first")
	for _, command := range []string{
		"dpkg -i /machine/new.deb", // an upgrade
		"dpkg -i /machine/new.deb", // and the same again
		"dpkg --remove knockd",
		"dpkg -i /machine/new.deb",
		"dpkg --purge knockd",
	} {
		pid := m.run("systemctl show -p MainPID --value sesame")
		m.run(command)
		if got := m.run("systemctl show -p MainPID --value sesame"); got != pid || pid == "0\n" {
			t.Errorf("%s: process: got %s, want %s", command, got, pid)
		}
		m.want(command+": the service", m.run("systemctl is-active sesame; ls "+wanted), "active\n"+wanted+"\n")
		w.wantPort(0, hostSSH, reached)
		w.wantPort(1, hostSSH, hidden)
		m.reboot()
		opens("a boot after " + command)
	}
	if got := m.run("ls /etc/knockd.conf 2>&1; sesame status"); !strings.Contains(got, "; running with the configuration of ") {
		t.Errorf("after a purge: got %s", got)
	}
}

// TestKnockdForwards has people say knockd, as they have always done, and mean sesame.
func TestKnockdForwards(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("22")
	m := boot(t, w.host, systemdInit, "")
	w.must(os.WriteFile(m.dir+"/knockd.conf", []byte(hiddenSSH), 0o600))
	m.run("cp /machine/knockd.conf /etc/knockd.conf && /machine/sesame install && systemctl start knockd")
	reloads := func() int { return strings.Count(m.run("cat /var/log/knockd.log"), "re-reading") }
	w.eventually("its start", func() bool { _, err := m.output("sesame status"); return err == nil })
	w.wantPort(0, hostSSH, hidden)
	for n, command := range []string{"restart", "reload", "try-restart", "reload-or-restart", "force-reload"} {
		m.run("systemctl " + command + " knockd")
		w.eventually(command, func() bool { return reloads() == n+1 })
	}
	pid := m.run("systemctl show -p MainPID --value sesame")
	m.run("systemctl stop knockd")
	m.want("after a stop", m.run("systemctl is-active sesame; systemctl show -p MainPID --value sesame"), "active\n"+pid)
	m.run("systemctl start knockd")
	w.eventually("a start", func() bool { return reloads() == 6 })
	m.run("echo oops >> /etc/knockd.conf")
	if out, err := m.output("systemctl reload knockd"); err == nil {
		t.Errorf("a reload of a bad file: got %s", out)
	}
	m.run("systemctl stop sesame; systemctl start knockd")
	w.eventually("a start with a bad file", func() bool {
		out, _ := m.output("sesame status")
		return strings.Contains(out, "; running with the configuration of ")
	})
	// Whoever stops sesame can start it by knockd's name again: the forwarder's own stop goes with it.
	m.run("systemctl stop sesame; cp /machine/knockd.conf /etc/knockd.conf; systemctl start knockd")
	w.eventually("a start after a stop", func() bool { _, err := m.output("sesame status"); return err == nil })
	// A unit of one's own stays, and is not to start a second daemon.
	m.run("cp /etc/systemd/system/knockd.service /tmp/ours; systemctl enable knockd; rm -f /etc/systemd/system/multi-user.target.wants/sesame.service; " +
		"echo '# mine' >> /etc/systemd/system/knockd.service")
	if got := m.run("/machine/sesame install"); !strings.Contains(got, "\n  systemctl disable --now knockd\n  systemctl enable sesame\n") || strings.Contains(got, "link /etc/systemd") {
		t.Errorf("install beside a unit of one's own: got %s", got)
	}
	m.run("cp /tmp/ours /etc/systemd/system/knockd.service")
	// Settings of one's own for the unit belong to the other one now.
	m.run("mkdir /etc/systemd/system/knockd.service.d")
	if got := m.run("/machine/sesame install"); !strings.Contains(got, "next:\n  chmod 600 /etc/knockd.conf\n  mv /etc/systemd/system/knockd.service.d /etc/systemd/system/sesame.service.d\n  systemctl daemon-reload\n  systemctl stop") {
		t.Errorf("install: got %s", got)
	}
}

const hiddenSSH = `[options]
	Interface = eth0
	LogFile = /var/log/knockd.log
[ssh]
	Sequence = 7000,18000:udp,9000
	Open_Ports = 22
	Hide = yes
	Cmd_Timeout = 600
`

// TestInstallAlone installs where no knockd is: names in /usr/local alone, and the example. What somebody has changed
// stays.
func TestInstallAlone(t *testing.T) {
	w := newWorld(t, 1)
	m := boot(t, w.host, systemdInit, "")
	m.run("dpkg --purge knockd; rm -rf /usr/local/*")
	m.want("installing", m.run("umask 077; /machine/sesame install -p /usr/local/"), `make /usr/local/sbin
put /usr/local/sbin/sesame
link /usr/local/sbin/knockd to sesame
make /usr/local/bin
link /usr/local/bin/knock to ../sbin/sesame
put /etc/knockd.conf
put /etc/systemd/system/sesame.service
put /etc/systemd/system/knockd.service
put /etc/logrotate.d/knockd
run systemctl daemon-reload
next:
  systemctl stop knockd
  systemctl enable sesame
  systemctl restart sesame
  sesame init ssh --port 22
  sesame try
`)
	m.want("the files", m.run("stat -c '%n %a %U' /usr/local/sbin /usr/local/sbin/sesame /etc/knockd.conf /etc/systemd/system/sesame.service"),
		"/usr/local/sbin 755 root\n/usr/local/sbin/sesame 755 root\n/etc/knockd.conf 600 root\n/etc/systemd/system/sesame.service 644 root\n")
	m.run("systemctl restart sesame && systemctl is-active sesame") // with the example, which opens nothing

	// A newer file, put in place while the daemon runs.
	m.run("cp /machine/sesame /machine/newer && printf '\\nnewer\\n' >> /machine/newer && echo '# mine' | tee -a /etc/knockd.conf >> /etc/systemd/system/sesame.service")
	before := m.run("systemctl show -p MainPID sesame")
	m.want("a newer file", m.run("/machine/newer install"), `/usr/local/sbin/knockd is there already
/usr/local/bin/knock is there already
/etc/knockd.conf is there, and stays as it is
/etc/systemd/system/sesame.service is there, has other text, and stays as it is
/etc/systemd/system/knockd.service is there already
/etc/logrotate.d/knockd is there already
put /usr/local/sbin/sesame
run systemctl daemon-reload
next:
  systemctl stop knockd
  systemctl enable sesame
  systemctl restart sesame
  sesame init ssh --port 22
  sesame try
`)
	m.want("the daemon", m.run("systemctl show -p MainPID sesame; sesame status >/dev/null && tail -n1 /usr/local/sbin/sesame"), before+"newer\n")
	m.run("(cat /machine/newer; echo) > /tmp/another && mv /tmp/another /usr/local/sbin/sesame && chmod 755 /usr/local/sbin/sesame")
	if got := m.run("/machine/newer install"); !strings.Contains(got, "\nput /usr/local/sbin/sesame\n") {
		t.Errorf("over a program that was copied there: got\n%s", got)
	}
	m.want("uninstalling", m.run("systemctl stop sesame; sesame uninstall"), `nothing of sesame is left in the firewall
remove /usr/local/sbin/sesame
remove /etc/logrotate.d/knockd
remove /etc/systemd/system/knockd.service
/etc/systemd/system/sesame.service was changed, and stays
/etc/knockd.conf was changed, and stays
remove /usr/local/bin/knock
remove /usr/local/bin
remove /usr/local/sbin/knockd
remove /usr/local/sbin
run systemctl daemon-reload
`)
	m.run("test ! -e /etc/sesame.installed && grep mine /etc/knockd.conf /etc/systemd/system/sesame.service")
}

// TestInstallRefused wants one line, exit status 1, and the host as it was.
func TestInstallRefused(t *testing.T) {
	w := newWorld(t, 1)
	m := boot(t, w.host, noInit, "")
	m.run("cp /machine/sesame /tmp/sesame; chmod 755 /tmp/sesame")
	for _, tt := range []struct{ set, line, want, unset string }{
		{"", "setpriv --reuid 65534 /tmp/sesame install", "sesame install: only root may: sudo /tmp/sesame install", ""},
		{"mount -t tmpfs -o size=1m tmpfs /usr/local", "/tmp/sesame install",
			"sesame install: nothing was installed: write /usr/local/sbin/sesame.sesame-new: no space left on device",
			"ls -A /usr/local; umount /usr/local"},
		{"mount -t tmpfs -o size=4k tmpfs /etc/systemd/system; echo full > /etc/systemd/system/full", "/tmp/sesame install -s systemd",
			"sesame install: nothing was installed: write /etc/systemd/system/sesame.service.sesame-new: no space left on device",
			"rm /etc/systemd/system/full; ls -A /etc/systemd/system; umount /etc/systemd/system"},
		{"mount -t tmpfs tmpfs /usr/local; mkdir /usr/local/sbin; echo other > /usr/local/sbin/knockd", "/tmp/sesame install",
			"sesame install: /usr/local/sbin/knockd is there, and is something else: move it away, or -p names another folder",
			"rm /usr/local/sbin/knockd; rmdir /usr/local/sbin; ls -A /usr/local; umount /usr/local"},
		{"echo file > /etc/sesame.installed", "/tmp/sesame install",
			`sesame install: /etc/sesame.installed: "file" is no line of it: kind, checksum and path`, "rm /etc/sesame.installed"},
		{"mount -t tmpfs tmpfs /usr/local; mount --bind /bin/false /usr/bin/dpkg-divert", "/tmp/sesame install",
			"sesame install: dpkg-divert --truename /usr/sbin/knockd: exit status 1", "ls -A /usr/local; umount /usr/local /usr/bin/dpkg-divert"},
	} {
		m.run("true; " + tt.set)
		out, err := m.output(tt.line)
		if exitStatus(err) != 1 || out != tt.want+"\n" {
			t.Errorf("%s; %s: got %v, %s\nwant %s", tt.set, tt.line, err, out, tt.want)
		}
		m.want("what is left of it", m.run("true; "+tt.unset), "")
		m.want("the host after "+tt.line, m.changed(), "")
	}
	// To look needs no root, also where a file is not to be read.
	dry := m.run("chmod 600 /etc/knockd.conf; setpriv --reuid 65534 /tmp/sesame install -n -s systemd")
	if want := m.run("/tmp/sesame install -n -s systemd"); dry != want || !strings.Contains(dry, "put /usr/local/sbin/sesame\n") {
		t.Errorf("a dry run as nobody: got %s\nwant %s", dry, want)
	}
	out, err := m.output("setpriv --reuid 65534 --regid 65534 --clear-groups /tmp/sesame flush")
	if exitStatus(err) != 1 || !strings.HasSuffix(out, ": run as root\n") || strings.Count(out, "\n") != 1 {
		t.Errorf("flush as nobody: got %v, %s", err, out)
	}
	for _, tt := range []struct{ args, want string }{
		{"-p local", `option -p: "local" is no folder such as /usr/local: letters, digits and /._- may be in it`},
		{"-p /a%b", `option -p: "/a%b" is no folder such as /usr/local: letters, digits and /._- may be in it`},
		{"-s upstart", `option -s: "upstart" is none of systemd, procd, openrc, busybox, sysv, none`},
		{"here", `unexpected argument "here"`},
	} {
		out, err := m.output("/tmp/sesame install " + tt.args)
		if exitStatus(err) != 2 || out != "sesame install: "+tt.want+" (sesame install --help shows what there is)\n" {
			t.Errorf("install %s: got %v, %s, want %s", tt.args, err, out, tt.want)
		}
	}
}

// TestInstallForPackage has make install everything below a folder, as nobody.
func TestInstallForPackage(t *testing.T) {
	needRoot(t)
	program, dir := realProgram(t), t.TempDir()+"/new/folder"
	for range 2 { // over what is there
		dry := exec.Command("make", "--no-print-directory", "-n", "install", "DESTDIR="+dir, "PREFIX=/opt/x")
		dry.Env = append(os.Environ(), "MAKEFLAGS=") // not make test's
		out, err := dry.Output()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		last := lines[len(lines)-1]
		if err != nil || last != "./sesame install --prefix=/opt/x --destdir="+dir {
			t.Fatalf("make -n install: %v, got %q", err, last)
		}
		cmd := exec.Command("sh", "-c", strings.Replace(last, "./sesame", program, 1)+" -s systemd")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	out, err := exec.Command("sh", "-c", "cd "+dir+" && find . ! -type d | sort && grep -h ^Exec etc/systemd/system/*.service").Output()
	if want := `./etc/knockd.conf
./etc/logrotate.d/knockd
./etc/systemd/system/knockd.service
./etc/systemd/system/sesame.service
./opt/x/bin/knock
./opt/x/sbin/knockd
./opt/x/sbin/sesame
./opt/x/share/bash-completion/completions/knock
./opt/x/share/bash-completion/completions/knockd
./opt/x/share/bash-completion/completions/sesame
./opt/x/share/fish/vendor_completions.d/knock.fish
./opt/x/share/fish/vendor_completions.d/knockd.fish
./opt/x/share/fish/vendor_completions.d/sesame.fish
./opt/x/share/man/man1/knock.1
./opt/x/share/man/man5/knockd.conf.5
./opt/x/share/man/man8/knockd.8
./opt/x/share/man/man8/sesame.8
./opt/x/share/zsh/site-functions/_sesame
ExecStart=/bin/systemctl reload-or-restart --no-block sesame.service
ExecReload=/bin/systemctl reload sesame.service
ExecStart=/opt/x/sbin/knockd --keep /var/lib/sesame/good.conf $KNOCKD_OPTS $OPTIONS $KNOCKD_OPTIONS
ExecReload=/opt/x/sbin/knockd -t $KNOCKD_OPTS $OPTIONS $KNOCKD_OPTIONS
ExecReload=/bin/kill -HUP $MAINPID
`; err != nil || string(out) != want {
		t.Errorf("%v: got\n%s\nwant\n%s", err, out, want)
	}
}
