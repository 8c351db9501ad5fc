//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// blocks returns the fenced code blocks of a document in one language.
func blocks(t *testing.T, file, language string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	if found == nil {
		t.Fatalf("%s has no ```%s block", file, language)
	}
	return found
}

// demoMachine is this machine with a network, /tmp and /run of its own, where nobody but a demo changes anything.
type demoMachine struct {
	*testing.T
	in []string // a command line that runs another one there
}

func newDemoMachine(t *testing.T) *demoMachine {
	t.Helper()
	needRoot(t)
	w := &world{T: t}
	cmd := exec.Command("unshare", "-m", "-n", "sh", "-ec",
		"mount -t tmpfs -o mode=1777 tmpfs /tmp; mount -t tmpfs -o mode=755 tmpfs /run; echo ready; exec sleep 1000000")
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	t.Cleanup(func() { kill(cmd) })
	_, err = out.Read(make([]byte, 1))
	w.must(err)
	return &demoMachine{t, []string{"nsenter", "-m", "-n", "-t", fmt.Sprint(cmd.Process.Pid)}}
}

// demo is `sesame demo` there, as a user. The test binary is where it cannot be reached: it is handed over on
// descriptor 3.
func (m *demoMachine) demo(uid int) *exec.Cmd {
	m.Helper()
	demo := sesame("sesame", "demo")
	f, err := os.Open(demo.Path)
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { _ = f.Close() })
	argv := slices.Concat(m.in, []string{"-S", fmt.Sprint(uid), "-G", fmt.Sprint(uid), "/proc/self/fd/3", "demo"})
	cmd := exec.Command(argv[0], argv[1:]...)
	// What would be in /run is there: on a file system of the demo's own.
	cmd.Env, cmd.ExtraFiles = append(demo.Env, "SESAME_TEST_ROOT=/run"), []*os.File{f}
	return cmd
}

// look shows what a demo must not change: the firewall, the interfaces, the mounts, and files of its own.
func (m *demoMachine) look() string {
	m.Helper()
	argv := slices.Concat(m.in, []string{"sh", "-c", "iptables -S; ip -o link; cat /proc/self/mounts; ls -A /run /tmp; ls -d /etc/*sesame*; true"})
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		m.Fatal(err)
	}
	return string(out)
}

// TestDemo runs the demo as root and as nobody: it prints what the README's picture shows, and leaves nothing behind.
func TestDemo(t *testing.T) {
	picture, err := os.ReadFile("docs/demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, line := range regexp.MustCompile("(?m)^<text .*</text>$").FindAllString(string(picture), -1) {
		want += html.UnescapeString(regexp.MustCompile("<[^>]*>").ReplaceAllString(line, "")) + "\n"
	}
	m := newDemoMachine(t)
	before := m.look()
	for _, uid := range []int{0, 65534} {
		out, err := m.demo(uid).CombinedOutput()
		if got := "$ make demo\n" + string(out); got != want {
			t.Errorf("demo as user %d: %v, got\n%s\nwant what the picture has (make demo-svg):\n%s", uid, err, got, want)
		}
	}
	if after := m.look(); after != before {
		t.Errorf("the demo changed the machine: got\n%s\nwant\n%s", after, before)
	}
}

// TestDemoWithIptables runs the demo where nft does not work.
func TestDemoWithIptables(t *testing.T) {
	needRoot(t)
	file, err := exec.LookPath("nft")
	if err != nil {
		t.Fatal(err)
	}
	demo := sesame("sesame", "demo")
	cmd := exec.Command("unshare", "-m", "sh", "-c", "mount --bind /dev/null $(readlink -f "+file+") && exec "+demo.Path+" demo")
	cmd.Env = demo.Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"firewall: iptables, as nft is not installed; no rule of this host closes a port", "port 3389: open", "and is closed again."} {
		if !strings.Contains(string(out), want) {
			t.Errorf("got %s, want %q in it", out, want)
		}
	}
}

// TestDemoForbidden runs the demo as nobody where the system makes no user namespaces: in a chroot, as the kernel's
// create_user_ns refuses there.
func TestDemoForbidden(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	demo := sesame("sesame", "demo")
	// The test binary stands where nobody cannot go: it is handed over on descriptor 3.
	cmd := exec.Command("unshare", "-m", "sh", "-c", "mount --rbind / "+root+" && exec chroot --userspec=65534:65534 "+root+" /proc/self/fd/3 demo 3<"+demo.Path)
	cmd.Env = demo.Env
	out, err := cmd.CombinedOutput()
	want := "this system keeps private networks for root: sudo ./sesame demo\n"
	if exitStatus(err) != 1 || !strings.HasSuffix(string(out), want) || strings.Count(string(out), "\n") != 1 {
		t.Errorf("got %v, %q, want exit status 1 and one line that ends %q", err, out, want)
	}
}

// TestNeeds has make's helper install what is missing, by a package manager that notes what it is asked for, and whose lists
// another one updates at first.
func TestNeeds(t *testing.T) {
	dir := t.TempDir()
	fake := "#!/bin/sh\necho \"$@\" >> " + dir + "/asked\n" +
		"[ $1 != update ] || [ -e " + dir + "/free ] || { echo E: Could not get lock >&2; exit 100; }\n"
	if err := os.WriteFile(dir+"/apt-get", []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/sleep", []byte("#!/bin/sh\ntouch "+dir+"/free\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// As root sudo is not called; else it runs what it is given.
	if err := os.WriteFile(dir+"/sudo", []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		needs []string
		want  string
	}{
		{[]string{"sh", "absent|sh"}, ""},
		{[]string{"absent1|absent2", "sh", "absent3"}, "update -qq\nupdate -qq\ninstall -o DPkg::Lock::Timeout=300 -y -qq --no-install-recommends absent1 absent3\n"},
		{[]string{"absent", "absent"}, "update -qq\nupdate -qq\ninstall -o DPkg::Lock::Timeout=300 -y -qq --no-install-recommends absent\n"},
	} {
		_ = os.Remove(dir + "/asked")
		_ = os.Remove(dir + "/free")
		cmd := exec.Command("sh", append([]string{"needs.sh"}, tt.needs...)...)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if asked, _ := os.ReadFile(dir + "/asked"); string(asked) != tt.want {
			t.Errorf("needs.sh %v: asked for %q, want %q", tt.needs, asked, tt.want)
		}
	}
}

// TestMakeFindsGo: sudo leaves out where Go's own installation is.
func TestMakeFindsGo(t *testing.T) {
	cmd := exec.Command("make", "-s", "--eval", "path: ; @echo $$PATH", "path")
	cmd.Env = []string{"PATH=" + strings.Join(slices.Concat(rootPath, []string{"/usr/bin", "/bin"}), ":")}
	out, err := cmd.CombinedOutput()
	if !strings.HasSuffix(string(out), ":/usr/local/go/bin\n") {
		t.Errorf("got %v, %s", err, out)
	}
}

// TestDemoInterrupted ends the demo by ctrl-C while the door is open.
func TestDemoInterrupted(t *testing.T) {
	m := newDemoMachine(t)
	before := m.look()
	cmd := m.demo(0)
	mark := "SESAME_TEST_MARK=" + t.TempDir()
	cmd.Env = append(cmd.Env, mark)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for buf := make([]byte, 1024); !strings.Contains(text.String(), "port 22: open"); {
		n, err := out.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("the demo ended early: %v: %s", err, text.String())
		}
	}
	_ = cmd.Process.Signal(unix.SIGINT)
	if got := exitStatus(cmd.Wait()); got != 1 {
		t.Errorf("exit status: got %d, want 1", got)
	}
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range environs {
		if env, _ := os.ReadFile(file); bytes.Contains(env, []byte(mark)) {
			t.Errorf("a process of the demo is still there: %s", file)
		}
	}
	if after := m.look(); after != before {
		t.Errorf("the demo changed the machine: got\n%s\nwant\n%s", after, before)
	}
}

// TestReadmeConfigurations reads every configuration of the README, and opens and closes a door by each.
func TestReadmeConfigurations(t *testing.T) {
	for _, text := range blocks(t, "README.md", "ini") {
		c, err := parseConfig("README.md", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Warnings) > 0 {
			t.Errorf("the README's configuration has warnings: %v", c.Warnings)
		}
		if c.Doors[0].Behind != nil { // TestReadmeNAS
			continue
		}
		w := newWorld(t, 2)
		w.hide()
		d := w.serve(strings.Replace(text, "= 500\n", "= 2\n", 1))
		w.wantPort(0, hostSSH, hidden)
		w.knock(0, append([]string{hostAddr}, strings.Split(c.Doors[0].sequence(), ",")...)...)
		w.awaitPort(0, hostSSH, reached)
		w.wantPort(1, hostSSH, hidden)
		w.awaitPort(0, hostSSH, hidden)
		d.stop()
	}
}

// TestReadmeNAS runs the README's example of a host behind a router whose own rules let nothing through.
func TestReadmeNAS(t *testing.T) {
	all := blocks(t, "README.md", "ini")
	text := all[slices.IndexFunc(all, func(text string) bool { return strings.Contains(text, "->") })]
	for _, host := range behindHosts {
		t.Run(host.name, func(t *testing.T) {
			f, text := newForwarder(t, host), text
			if host.option != "" {
				text += "\n[options]\n	Firewall = " + host.option + "\n"
			}
			d := f.serve(strings.Replace(text, "= 600\n", "= 8\n", 1), "-s", t.TempDir()+"/control")
			const port, port6 = hostAddr + ":8443", "[" + hostAddr6 + "]:8443"
			guest, stranger := f.dialUDPAt(0, hostAddr6, "8053"), f.dialUDPAt(1, hostAddr6, "8053")
			f.wantPort(0, port, hidden)
			if f.answered(guest) {
				t.Error("hidden: a datagram is answered")
			}
			f.knock(0, "-6", hostAddr6, "7200", "18200:udp", "9200")
			f.eventually("a datagram that is answered", func() bool { return f.answered(guest) })
			if f.answered(stranger) {
				t.Error("open: a stranger's datagram is answered")
			}
			f.knock(0, hostAddr, "7200", "18200:udp", "9200")
			f.awaitPort(0, port, reached)
			f.wantPort(1, port, hidden)
			f.wantPort(0, port6, hidden) // it leads to an IPv4 address
			live := f.dialPort(0, hostAddr, "8443")
			d.await("10.9.0.2: nas: open for 8s: 8443:tcp -> 192.168.77.10:443,8053:udp -> [fd77::10]:5353")
			d.await("10.9.0.2: nas: closed")
			f.awaitPort(0, port, hidden)
			f.wantAlive("a live connection after closing", live)
			d.stop()
			f.wantPort(0, port, hidden)
			if strings.Contains(d.logged(), "warning: firewall") {
				t.Error("there are warnings")
			}
		})
	}
}

// TestReadmeCommands runs the README's commands, in their order, on a host that has Debian's knockd running as it comes. The
// host has the README's address.
func TestReadmeCommands(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("22")
	for _, n := range []*Netns{w.host, w.clients[0]} {
		w.must(n.run("ip", "route", "add", "192.0.2.0/24", "dev", "eth0"))
	}
	w.must(w.host.run("ip", "address", "add", "192.0.2.1/32", "dev", "eth0"))
	m := boot(t, w.host, systemdInit, "")
	m.run("systemctl start knockd")
	client := t.TempDir()
	w.must(os.Symlink(realProgram(t), client+"/knock"))
	for line := range strings.Lines(strings.Join(slices.Concat(blocks(t, "README.md", "sh"), blocks(t, "docs/knockd.md", "sh")), "")) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "/tmp/") {
			t.Errorf("%s: root runs what anybody may have put there", line)
		}
		if !strings.HasPrefix(line, "knock ") {
			m.run("cd /machine && " + line)
			continue
		}
		w.must(w.clients[0].run("sh", "-c", client+"/"+line))
		w.eventually("the opening", func() bool {
			return strings.Contains(m.run("journalctl -o cat -t knockd"), "openSSH: OPEN SESAME")
		})
	}
	if got, want := m.run("readlink -f /usr/sbin/knockd; systemctl is-active sesame"), "/usr/local/sbin/sesame\nactive\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, rule := range []string{"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "--dport 22 -j DROP"} {
		if n := w.rules(rule); n != 2 { // for IPv4 and IPv6
			t.Errorf("rules %q: got %d, want 2", rule, n)
		}
	}
}

// differences are the entries of the list in docs/knockd.md, "Different from knockd", by their beginnings, and what shows them.
var differences = []struct {
	entry string
	tests []func(*testing.T)
}{
	{"One knocker's mistakes and timeouts", tests(TestDifferentFromKnockd, TestTwoKnockers, TestFloodOfFirstKnocks)},
	{"One source may be at several doors", tests(TestDifferentFromKnockd)},
	{"Knocks of other doors change nothing", tests(TestDifferentFromKnockd, TestGuestLearnsNothing, TestGuestOnTheWire)},
	{"A hit on a port near a knock", tests(TestMatcherBars, TestMatcherBarsNetworks, TestScansOpenNothing, TestBarOnTheWire, TestReaderStray)},
	{"A hidden port may refuse at once", tests(TestHiddenPortIsLastKnock, TestHiddenLooksClosed)},
	{"A repeat of the knock just matched", tests(TestDifferentFromKnockd, TestCopiesOfOneSYN)},
	{"A wrong knock that is the first one", tests(TestDifferentFromKnockd)},
	{"A reload does not end attempts", tests(TestReloadKeepsAttempts, TestReloadWhileOpen)},
	{"VLAN tags, IPv6 extension headers", tests(TestShapesOfPackets)},
	{"IPv4 packets that the kernel would drop", tests(TestForgedSource)},
	{"It waits for an interface that is not there", tests(TestInterfaceComesLater, TestLinksChange, TestEveryInterface)},
	{"Knocking again while a door", tests(TestKnockAgainWhileOpen, TestStartCommandFails)},
	{"A command without a Stop_Command", tests(TestDoors, TestBusyDoorBesideAnother)},
	{"Stop commands run when the daemon stops", tests(TestStopWithThreeDoorsOpen, TestAwkwardCommands, TestCrash, TestDoors)},
	{"A port that is not a number", tests(TestMistakes, TestServeRefuses)},
	{"The service is called `sesame`", tests(TestBesideDebianPackage, TestKnockdForwards, TestKeptConfiguration, TestBadFileUnderSystemd)},
	{"`-g` and `-p` win", tests(TestCommandLineWins)},
	{"`-d` returns when the daemon listens", tests(TestDetached, TestDetachRefused)},
	{"The log says how long a command took", tests(TestLogBesideKnockd, TestFloodOfFirstKnocks, TestLookup, TestSyslog)},
	{"`-l` looks up the names", tests(TestLookup, TestLookupTellsNothing)},
	{"A used one-time sequence", tests(TestUseOneTime, TestOneTimeReadOnly)},
	{"`knock` waits 50 ms", tests(TestKnock, TestOurKnock)},
}

func tests(all ...func(*testing.T)) []func(*testing.T) { return all }

// TestReadmeDifferences has a test for each entry of the list, and an entry for each test: what is listed is shown.
func TestReadmeDifferences(t *testing.T) {
	text, err := os.ReadFile("docs/knockd.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "\n## Different from knockd\n")
	list, _, _ = strings.Cut(list, "\n## ")
	var entries []string
	for line := range strings.Lines(list) {
		if entry, ok := strings.CutPrefix(line, "- "); ok {
			entries = append(entries, entry)
		}
	}
	if len(entries) != len(differences) {
		t.Fatalf("entries: got %d, want %d", len(entries), len(differences))
	}
	for i, d := range differences {
		if !strings.HasPrefix(entries[i], d.entry) {
			t.Errorf("entry %d: got %q, want one that begins %q", i, entries[i], d.entry)
		}
		for _, test := range d.tests {
			if test == nil {
				t.Errorf("%s: no test", d.entry)
			}
		}
	}
}
