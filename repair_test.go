//go:build linux && !pure

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stranger connects to the host's port 22 from client i every few milliseconds, each time from another port, until stop. That
// returns how long the port was open for it: from the first SYN that was answered to the last one.
func (w *world) stranger(i int) (stop func() (open time.Duration)) {
	w.Helper()
	type attempt struct {
		fd int
		at time.Time
	}
	const every, patience = 3 * time.Millisecond, 200 * time.Millisecond // before another SYN
	ending, ended := make(chan struct{}), make(chan time.Duration)
	go func() {
		var first, last time.Time
		var attempts []attempt
		end := func(n int) {
			for _, a := range attempts[:n] {
				_ = unix.Close(a.fd)
			}
			attempts = attempts[n:]
		}
		err := w.clients[i].do(func() error {
			to := &unix.SockaddrInet4{Port: 22, Addr: [4]byte(net.ParseIP(hostAddr).To4())}
			for {
				select {
				case <-ending:
					end(len(attempts))
					return nil
				case <-time.After(every):
				}
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
					return err
				}
				attempts = append(attempts, attempt{fd, time.Now()})
				if err := unix.Connect(fd, to); err != unix.EINPROGRESS && err != nil {
					return err
				}
				for len(attempts) > 0 && time.Since(attempts[0].at) > patience {
					end(1)
				}
				for _, a := range attempts {
					p := []unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLOUT}}
					if n, _ := unix.Poll(p, 0); n == 0 || p[0].Revents != unix.POLLOUT { // no answer, or refused
						continue
					}
					if first.IsZero() || a.at.Before(first) {
						first = a.at
					}
					if a.at.After(last) {
						last = a.at
					}
				}
			}
		})
		if err != nil {
			w.Errorf("connecting: %v", err)
		}
		open := last.Sub(first)
		if !first.IsZero() {
			open += every
		}
		ended <- open
	}()
	stop = sync.OnceValue(func() time.Duration {
		close(ending)
		return <-ended
	})
	w.Cleanup(func() { stop() })
	return stop
}

// seesCalls puts programs before the real ones that note how they are called.
func (n *nativeTest) seesCalls(programs ...string) (calls func() string) {
	n.Helper()
	n.broken = n.dir + "/bin"
	n.must(os.MkdirAll(n.broken, 0o755))
	for _, program := range programs {
		real, err := exec.LookPath(program)
		n.must(err)
		n.must(os.WriteFile(n.broken+"/"+program, fmt.Appendf(nil, "#!/bin/sh\necho %s \"$@\" >> %s/calls\nexec %s \"$@\"\n", program, n.dir, real), 0o755))
	}
	return func() string {
		text, _ := os.ReadFile(n.dir + "/calls")
		_ = os.Remove(n.dir + "/calls")
		return string(text)
	}
}

// quiet waits until the daemon has called nothing for a while, in which nothing wakes it up to look at the firewall.
func (n *nativeTest) quiet(calls func() string) {
	n.Helper()
	n.eventually("the daemon calls nothing", func() bool {
		_ = calls()
		time.Sleep(2*lookAfter + askEvery)
		return calls() == ""
	})
}

// ourTable is our table of nft's, without what changes by itself.
func (n *nativeTest) ourTable() string {
	text, err := n.host.output(listOurs[0], listOurs[1:]...)
	if err != nil {
		return ""
	}
	return text
}

var repairs = []struct {
	name   string
	option string // Firewall
	rules  string // of the host
	lost   string // a shell script that takes something of ours away
	mends  string // the daemon's first call then, which needs no look at the host
}{
	{"nft: table deleted", "nft", "true", "nft delete table inet sesame", "nft -f -"},
	{"nft: ruleset flushed", "nft", fw4Table, "nft flush ruleset", "nft -f -"},
	{"nft: ruleset loaded anew", "nft", fw4Table, `nft list table inet fw4 > $DIR/fw4; { echo flush ruleset; cat $DIR/fw4; } > $DIR/rules; nft -f $DIR/rules`, "nft -f -"},
	{"nft: chains flushed", "nft", "true", "for c in $(nft list table inet sesame | sed -n 's/.*chain \\(.*\\) {/\\1/p'); do nft flush chain inet sesame $c; done", "nft -f -"},
	{"nft: a rule deleted", "nft", "true", "nft delete rule inet sesame input handle $(nft -a list chain inet sesame input | sed -n 's/.*dport.*# handle //p' | tail -1)", "nft -f -"},
	{"nft: a rule inserted", "nft", "true", "nft insert rule inet sesame input tcp dport 22 accept", "nft -f -"},
	{"nft: a set flushed", "nft", "true", "nft flush set inet sesame open4", "nft -f -"},
	{"nft: an element added", "nft", "true", "nft add element inet sesame open4 '{ 10.9.0.3 . tcp . 22 timeout 100s }'", "nft -f -"},
	{"nft beside iptables: rules flushed", "nft", dropByIptables, "iptables -w -F; iptables -w -P INPUT ACCEPT; ip6tables -w -F", "nft -s -t list table inet sesame"},
	{"iptables: rules flushed", "iptables", "iptables -w -A INPUT -j ACCEPT; ip6tables -w -A INPUT -j ACCEPT", "iptables -w -F", "iptables -w -C INPUT -j SESAME"},
	{"iptables: jump deleted", "iptables", "iptables -w -A INPUT -j ACCEPT; ip6tables -w -A INPUT -j ACCEPT", "iptables -w -D INPUT -j SESAME", "iptables -w -C INPUT -j SESAME"},
	{"iptables: a rule before ours", "iptables", "iptables -w -A INPUT -j ACCEPT; ip6tables -w -A INPUT -j ACCEPT", "iptables -w -I INPUT -p tcp --dport 22 -j ACCEPT", "iptables -w -C INPUT -j SESAME"},
	{"iptables: restored", "iptables", "iptables -w -A INPUT -j ACCEPT; ip6tables -w -A INPUT -j ACCEPT; iptables-save > $DIR/saved", "iptables-restore < $DIR/saved", "iptables -w -C INPUT -j SESAME"},
	{"iptables-legacy: jump deleted", "iptables", "V=-legacy; " + dropByIptables, "iptables-legacy -w -P INPUT ACCEPT; iptables-legacy -w -D INPUT -j SESAME", ""},
	{"iptables-legacy: a rule before ours", "iptables", "V=-legacy; " + dropByIptables, "iptables-legacy -w -I INPUT -p tcp --dport 22 -j ACCEPT", ""},
	{"iptables-legacy: jump moved", "iptables", "V=-legacy; " + dropByIptables, "{ echo '*filter'; echo '-D INPUT -j SESAME'; echo '-A INPUT -p tcp --dport 22 -j ACCEPT'; echo '-A INPUT -j SESAME'; echo COMMIT; } | iptables-legacy-restore -w -n", ""},
	{"iptables-legacy: restored", "iptables", "V=-legacy; " + dropByIptables + "iptables-legacy-save | sed s/DROP/ACCEPT/ > $DIR/saved", "iptables-legacy-restore < $DIR/saved", ""},
}

// TestRepair takes away what is ours while a stranger tries to get in all the time and a door is open for somebody else. It
// says for how long the stranger could; at the end all is as it was.
func TestRepair(t *testing.T) {
	for _, test := range repairs {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			n := newNativeTest(t, firewallHost{option: test.option, rules: "DIR=" + dir + "; " + test.rules}, fmt.Sprintf(nativeDoor, 600))
			calls := n.seesCalls("nft", "iptables")
			d := n.serve()
			n.knockOnce(0)
			n.awaitPort(0, hostSSH, reached)
			before := n.ourTable()
			stop := n.stranger(1)
			if test.mends != "" {
				n.quiet(calls)
			}
			n.must(n.host.run("sh", "-ec", "DIR="+dir+"; "+test.lost))
			d.await("another program changed our rules: restored")
			if first, _, _ := strings.Cut(calls(), "\n"); test.mends != "" && first != test.mends {
				n.Errorf("first it ran %s, want %s", first, test.mends)
			}
			n.awaitPort(0, hostSSH, reached)
			n.awaitPort(1, hostSSH, hidden)
			time.Sleep(300 * time.Millisecond)
			t.Logf("put right %d times", strings.Count(d.logged(), "our rules: restored"))
			t.Logf("open for a stranger for %v", stop().Round(time.Millisecond))
			if got := n.ourTable(); got != before && test.lost != "nft flush ruleset" { // where the host closes nothing any more
				n.Errorf("our table: got\n%s\nwant\n%s", got, before)
			}
			if test.mends != "" {
				n.quiet(calls)
			}
			d.stop()
		})
	}
}

// TestIncluded reloads /etc/nftables.conf again and again, which flushes all rules and includes what hides: nobody gets in
// meanwhile, and who has knocked gets in again. The file is there as long as the ports are hidden.
func TestIncluded(t *testing.T) {
	n := newNativeTest(t, firewallHost{option: "nft", rules: "true"}, fmt.Sprintf(nativeDoor, 600))
	rules := n.dir + "/nftables.conf"
	n.must(os.WriteFile(rules, fmt.Appendf(nil, "flush ruleset\n"+
		"table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n"+
		"include \"%s/state/*.nft\"\n", n.dir), 0o600))
	n.must(n.host.run("nft", "-f", rules)) // no file is there
	d := n.serve()
	n.knockOnce(0)
	n.awaitPort(0, hostSSH, reached)
	before := n.ourTable()
	if n.wantPort(1, hostSSH, hidden); before == "" {
		t.Fatal("no table is listed")
	}
	stop := n.stranger(1)
	for range 20 {
		n.must(n.host.run("nft", "-f", rules))
		time.Sleep(20 * time.Millisecond)
	}
	d.await("our rules: restored")
	n.awaitPort(0, hostSSH, reached)
	if open := stop(); open != 0 {
		t.Errorf("while the rules were loaded a stranger got in for %v", open)
	}
	n.eventually("our table as it was", func() bool { return n.ourTable() == before })
	d.stop()
	n.must(n.host.run("nft", "flush", "ruleset")) // as at a boot
	n.must(n.host.run("nft", "-f", rules))
	n.wantPort(0, hostSSH, hidden)
	n.tool("flush", "-c", n.dir+"/knockd.conf")
	n.must(n.host.run("nft", "-f", rules))
	n.wantPort(0, hostSSH, reached)
}

// manyRules are n rules of iptables-restore, each for another source, on a host that drops the rest.
func manyRules(n int) string {
	var s strings.Builder
	s.WriteString("*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n")
	for i := range n {
		fmt.Fprintf(&s, "-A INPUT -s 198.%d.%d.%d/32 -p tcp -m tcp --dport %d -m comment --comment abuse-%d -j DROP\n", 18+i>>16, i>>8&255, i&255, 1+i%1000, i)
	}
	s.WriteString("COMMIT\n")
	return s.String()
}

// kubeRules are the rules of kube-proxy for n services, as iptables-restore takes them.
func kubeRules(n int) string {
	var chains, rules strings.Builder
	for i := range n {
		id, addr := fmt.Sprintf("%016X", uint64(i)*0x9e3779b97f4a7c15), fmt.Sprintf("10.%d.%d.%d", 96+i>>16, i>>8&255, i&255)
		name := fmt.Sprintf("-m comment --comment \"default/svc-%d:http cluster IP\"", i)
		fmt.Fprintf(&chains, ":KUBE-SVC-%s - [0:0]\n:KUBE-SEP-%s - [0:0]\n", id, id)
		fmt.Fprintf(&rules, "-A KUBE-SERVICES -d %s/32 -p tcp %s -m tcp --dport 80 -j KUBE-SVC-%s\n", addr, name, id)
		fmt.Fprintf(&rules, "-A KUBE-SVC-%s ! -s 10.244.0.0/16 -d %s/32 -p tcp %s -m tcp --dport 80 -j KUBE-MARK-MASQ\n", id, addr, name)
		fmt.Fprintf(&rules, "-A KUBE-SVC-%s -m comment --comment \"default/svc-%d:http -> 10.244.1.2:8080\" -j KUBE-SEP-%s\n", id, i, id)
		fmt.Fprintf(&rules, "-A KUBE-SEP-%s -s 10.244.1.2/32 %s -j KUBE-MARK-MASQ\n", id, name)
		fmt.Fprintf(&rules, "-A KUBE-SEP-%s -p tcp %s -m tcp -j DNAT --to-destination 10.244.1.2:8080\n", id, name)
	}
	return "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n" + chains.String() +
		"-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n" +
		"-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n" + rules.String() + "COMMIT\n" +
		"*filter\n:KUBE-FIREWALL - [0:0]\n:KUBE-NODEPORTS - [0:0]\n-A INPUT -m comment --comment \"kubernetes health check rules\" -j KUBE-NODEPORTS\n" +
		"-A INPUT -j KUBE-FIREWALL\n-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\nCOMMIT\n"
}

// TestLongLists: however many rules a host has, serve starts, who has knocked gets in, and flush leaves no trace. It says how
// long that takes and how much memory.
func TestLongLists(t *testing.T) {
	for _, test := range []struct{ name, tool, rules string }{
		{"60,000 rules", "iptables-nft", manyRules(60000)},
		{"60,000 rules, legacy", "iptables-legacy", manyRules(60000)},
		{"12,000 services", "iptables-nft", kubeRules(12000)},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := t.TempDir() + "/rules"
			if err := os.WriteFile(file, []byte(test.rules), 0o600); err != nil {
				t.Fatal(err)
			}
			n := newNativeTest(t, firewallHost{rules: test.tool + "-restore < " + file}, fmt.Sprintf(nativeDoor, 600))
			began := time.Now()
			d := n.start("")
			patiently := func(what string, condition func() bool) { // nft and iptables take seconds on a busy machine
				t.Helper()
				for deadline := time.Now().Add(4 * time.Minute); !condition(); time.Sleep(50 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("waited in vain for: %s", what)
					}
				}
			}
			patiently("its start", func() bool { return strings.Contains(d.logged(), "starting up") })
			t.Logf("started within %v", time.Since(began).Round(time.Millisecond))
			n.wantPort(0, hostSSH, hidden)
			began = time.Now()
			n.must(n.host.run("nft", "delete", "table", "inet", "sesame"))
			patiently("what was taken away", func() bool { return strings.Contains(d.logged(), "our rules: restored") })
			t.Logf("put right within %v", time.Since(began).Round(time.Millisecond))
			n.knockOnce(0)
			patiently("an open port", func() bool { return probe(n.clients[0], "", hostSSH, probePatience) == reached })
			n.must(n.host.run(test.tool, "-w", "-A", "INPUT", "-p", "tcp", "--dport", "25", "-j", "DROP")) // a look
			time.Sleep(3 * time.Second)
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
			n.must(err)
			for line := range strings.Lines(string(text)) {
				if strings.HasPrefix(line, "VmHWM:") || strings.HasPrefix(line, "VmRSS:") {
					t.Log(strings.Join(strings.Fields(line), " "))
				}
			}
			d.stop()
			began = time.Now()
			out, status := n.tool("flush", "-c", n.dir+"/knockd.conf")
			if status != 0 {
				t.Errorf("flush: exit status %d, %s", status, out)
			}
			t.Logf("flushed within %v", time.Since(began).Round(time.Millisecond))
			if text, _ := n.host.output(test.tool, "-w", "-S"); strings.Contains(text, "sesame") || n.ourTable() != "" {
				t.Error("flush has left something")
			}
		})
	}
}

// TestForwardedLater has somebody begin to forward a hidden port, on a host where nobody did, while the rules of others are
// not to be looked at for a long time, as the look before was slow: the port is hidden at once.
func TestForwardedLater(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("80")
	dir := w.TempDir()
	w.must(os.WriteFile(dir+"/ip6tables", fmt.Appendf(nil, "#!/bin/sh\nsleep 0.5\necho >> %s/looks\nPATH=${PATH#*:} exec ip6tables \"$@\"\n", dir), 0o700))
	looks := func() int {
		text, _ := os.ReadFile(dir + "/looks")
		return len(text)
	}
	d := w.serveIn("export PATH="+dir+":$PATH", "[web]\n\tsequence = 7000,8000,9000\n\tOpen_Ports = 8080\n\tHide = yes\n\tcmd_timeout = 600\n")
	d.await("starting up")
	before := looks()
	w.must(w.host.run("nft", "add table ip filter; add chain ip filter input { type filter hook input priority 0; }"))
	w.eventually("a look", func() bool { return looks() == 2*before })
	time.Sleep(quietTime) // it has ended
	w.must(w.host.run("nft", "add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; }; add rule ip nat pre tcp dport 8080 redirect to :80"))
	w.awaitPort(0, hostAddr+":8080", hidden)
	w.wantPort(0, hostAddr+":80", reached)
	if looks() != 2*before {
		t.Error("it was looked at the rules first")
	}
}
