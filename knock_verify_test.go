//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// clientRun is what a call of the client has come to.
type clientRun struct {
	status         int
	stdout, stderr string
}

// call runs our client at client i.
func (w *world) call(i int, args ...string) (r clientRun) {
	w.Helper()
	return w.callCmd(i, sesame("sesame", append([]string{"knock"}, args...)...))
}

func (w *world) callCmd(i int, cmd *exec.Cmd) (r clientRun) {
	w.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	w.must(w.clients[i].start(cmd))
	r.status = exitStatus(cmd.Wait())
	r.stdout, r.stderr = stdout.String(), stderr.String()
	return r
}

// wantCall compares what a call came to with a status and patterns of the whole standard output and standard error.
func (w *world) wantCall(r clientRun, status int, stdout, stderr string) {
	w.Helper()
	for _, x := range []struct{ name, got, want string }{{"standard output", r.stdout, stdout}, {"standard error", r.stderr, stderr}} {
		if !regexp.MustCompile(`\A` + x.want + `\z`).MatchString(x.got) {
			w.Errorf("%s: got %q, want %q", x.name, x.got, x.want)
		}
	}
	if r.status != status {
		w.Errorf("exit status: got %d, want %d", r.status, status)
	}
}

// stayedShut is what the client says at last, as a pattern: what may be wrong.
const stayedShut = `port \d+ stayed shut: check the sequence and the port; after wrong knocks, the daemon ignores an address for a while, 25 s by default; knocks [^\n]*\n`

// debianKnockd starts Debian's knockd on the host.
func (w *world) debianKnockd(config string) {
	w.Helper()
	file := w.TempDir() + "/knockd.conf"
	w.must(os.WriteFile(file, []byte("[options]\n\tlogfile = "+file+".log\n"+config), 0o600))
	cmd := exec.Command("knockd", "-i", "eth0", "-c", file, "-v")
	stderr, err := os.Create(file + ".err") // and no pipe, which its sleeping children would hold
	w.must(err)
	w.Cleanup(func() { _ = stderr.Close() })
	cmd.Stderr = stderr
	r := w.daemon(cmd, file, file+".log")
	r.await("starting up")
}

// TestVerify knocks at Debian's knockd and at ours, and sees each of the things that a port can come to.
func TestVerify(t *testing.T) {
	const door = "7000,8000:udp,9000"
	for _, daemon := range []struct {
		name  string
		start func(w *world)
	}{
		{"knockd", func(w *world) { w.debianKnockd(sshDoor("ssh", door, 60)) }},
		{"sesame", func(w *world) { w.serve(sshDoor("ssh", door, 60)) }},
	} {
		t.Run(daemon.name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.hide()
			daemon.start(w)
			w.must(w.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit")) // of errors to one client
			right := []string{hostAddr, "7000", "8000:udp", "9000", "-w", "22"}
			wrong := []string{hostAddr, "9000", "8000:udp", "7000", "-w22", "--timeout", "0.4", "--retries=1"}
			w.wantCall(w.call(0, wrong...), 3, "", `10\.9\.0\.1 port 22: filtered \(no answer\)\n`+stayedShut)
			w.wantCall(w.call(0, append(wrong, "-q")...), 3, "", `10\.9\.0\.1 port 22: filtered \(no answer\)\n`)
			w.wantCall(w.call(0, right...), 0, `10\.9\.0\.1 port 22: open in \d+ ms\n`, "")
			w.wantCall(w.call(0, right...), 0, `10\.9\.0\.1 port 22: open, as it was before the knock: still open, or a proxy on the way\n`, "")
			w.wantCall(w.call(0, append(right, "-q")...), 0, "", "")
			// Each reason has its own words, whatever the rule says that hides the port.
			for _, reject := range []struct{ with, want string }{
				{"tcp-reset", `closed \(RST\)`},
				{"icmp-port-unreachable", `unreachable \(port unreachable, ICMP type 3 code 3, from 10\.9\.0\.1\)`},
				{"icmp-host-prohibited", `unreachable \(host prohibited, ICMP type 3 code 10, from 10\.9\.0\.1\)`},
				{"icmp-admin-prohibited", `unreachable \(prohibited by a firewall, ICMP type 3 code 13, from 10\.9\.0\.1\)`},
			} {
				w.must(w.host.run("iptables", "-w", "-I", "INPUT", "-s", "10.9.0.3", "-p", "tcp", "--dport", "22", "-j", "REJECT", "--reject-with", reject.with))
				w.wantCall(w.call(1, wrong...), 3, "", `10\.9\.0\.1 port 22: `+reject.want+`\n`+stayedShut)
			}
			w.must(w.host.run("iptables", "-w", "-F", "INPUT"))
			w.must(w.host.run("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "REJECT", "--reject-with", "tcp-reset"))
			w.wantCall(w.call(1, right...), 0, `10\.9\.0\.1 port 22: open in \d+ ms\n`, "")
		})
	}
}

// TestVerifyIPv6 has the same words for ICMPv6, and an address that no route leads to.
func TestVerifyIPv6(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	w.serve(sshDoor("ssh", "7000,8000:udp,9000", 60))
	wrong := []string{"9000", "-w22", "--timeout=0.4", "--retries=0"}
	w.wantCall(w.call(0, append(wrong, "["+hostAddr6+"]")...), 2, "", `(?s).*is a port and no host.*`)
	w.wantCall(w.call(0, append([]string{"[" + hostAddr6 + "]"}, wrong...)...), 3, "", `fd00:9::1 port 22: filtered \(no answer\)\n`+stayedShut)
	w.must(w.host.run("ip6tables", "-w", "-I", "INPUT", "-p", "tcp", "--dport", "22", "-j", "REJECT", "--reject-with", "icmp6-adm-prohibited"))
	w.wantCall(w.call(0, append([]string{hostAddr6}, wrong...)...), 3, "", `fd00:9::1 port 22: unreachable \(prohibited by a firewall, ICMPv6 type 1 code 1, from fd00:9::1\)\n`+stayedShut)
	w.must(w.host.run("ip6tables", "-w", "-D", "INPUT", "1"))
	w.wantCall(w.call(0, hostAddr6, "7000", "8000:udp", "9000", "-w", "22"), 0, `fd00:9::1 port 22: open in \d+ ms\n`, "")
	w.wantCall(w.call(0, "fd00:10::1", "7000", "-w", "22", "--timeout=0.1"), 1, "", `knocking on fd00:10::1 port 7000: connect: network is unreachable: waiting for the network\n`+
		`sesame knock: knocking on fd00:10::1 port 7000: connect: network is unreachable\n`)
}

// TestVerifyRetry loses 30 % of the packets of both directions: knocking again opens nevertheless.
func TestVerifyRetry(t *testing.T) {
	const runs = 20
	w := newWorld(t, runs)
	w.hide()
	w.serve(sshDoor("ssh", "7000,8000:udp,9000", 60))
	w.must(w.host.run("nft", `add table inet loss; add chain inet loss in { type filter hook prerouting priority -300; };
		add chain inet loss out { type filter hook output priority -300; };
		add rule inet loss in ip protocol { tcp, udp } numgen random mod 10 < 3 drop;
		add rule inet loss out ip protocol { tcp, udp } numgen random mod 10 < 3 drop`))
	opened := 0
	results := make(chan clientRun)
	for i := range runs {
		go func() {
			results <- w.call(i, hostAddr, "7000", "8000:udp", "9000", "-w", "22", "--timeout=1", "--retries=12", "-d", "20")
		}()
		if i%5 == 4 {
			for range 5 {
				if r := <-results; r.status == 0 {
					opened++
				}
			}
		}
	}
	t.Logf("opened in %d of %d runs", opened, runs)
	if opened < runs-1 {
		t.Errorf("opened in %d of %d runs", opened, runs)
	}
}

// TestVerifyLate has the door open later than the first packets of the connection come, as on a slow router.
func TestVerifyLate(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	w.serve("[ssh]\n\tsequence = 7000,8000\n\tcommand = sleep 1; iptables -w -I INPUT -s %IP% -j ACCEPT\n")
	began := time.Now()
	r := w.call(0, hostAddr, "7000", "8000", "-w", "22", "--retries=0")
	w.wantCall(r, 0, `10\.9\.0\.1 port 22: open in [12]\d\d\d ms\n`, "")
	if took := time.Since(began); took < time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestVerifyTerminal shows progress on a terminal, and leaves nothing of it.
func TestVerifyTerminal(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	cmd := sesame("sesame", "knock", hostAddr, "7000", "-w22", "--timeout=0.3", "--retries=1")
	script := exec.Command("script", "-qec", strings.Join(cmd.Args, " "), "/dev/null")
	script.Args[2] = cmd.Path + " " + strings.Join(cmd.Args[1:], " ")
	script.Env = cmd.Env
	r := w.callCmd(0, script)
	for _, want := range []string{"waiting for port 22: 0.0 s (try 1 of 2)", "(try 2 of 2)", "10.9.0.1 port 22: filtered (no answer)\r\n"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("got %q, want %q in it", r.stdout, want)
		}
	}
	// The last line of progress is written over by blanks.
	if want := "\r" + strings.Repeat(" ", 60) + "\r10.9.0.1 port 22: filtered (no answer)\r\nport 22 stayed shut: "; !strings.Contains(r.stdout, want) {
		t.Errorf("got %q, want %q in it", r.stdout, want)
	}
}

// TestKnockThen hands over to a command.
func TestKnockThen(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	w.serve(sshDoor("ssh", "7000,8000:udp,9000", 60))
	knocks := []string{hostAddr, "7000", "8000:udp", "9000"}
	shut := []string{hostAddr, "9000", "-w22", "--timeout=0.2", "--retries=0"}
	// The command has none of the client's sockets, though the last knock's connection may still be kept.
	w.must(w.host.run("iptables", "-w", "-I", "INPUT", "-p", "tcp", "--dport", "9000", "-j", "DROP"))
	r := w.call(0, append(knocks, "-qw22", "--", "sh", "-c", "ls -l /proc/$$/fd")...)
	if r.status != 0 || !strings.Contains(r.stdout, " 1 -> ") || strings.Contains(r.stdout, "socket") {
		t.Errorf("the command's files: got %+v", r)
	}
	w.must(w.host.run("iptables", "-w", "-D", "INPUT", "-p", "tcp", "--dport", "9000", "-j", "DROP"))
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		stdout string
		stderr string
	}{
		{"the command's output and status", append(knocks, "--", "sh", "-c", "echo out; echo err >&2; exit 7"), 7, "out\n", "err\n"},
		{"verified", append(knocks, "-w22", "-v", "--", "echo", "-v", "--", "in"), 0, "-v -- in\n", `hitting tcp [^\n]*\nhitting udp [^\n]*\nhitting tcp [^\n]*\n10\.9\.0\.1 port 22: open[^\n]*\n`},
		{"not open", append(shut, "--", "echo", "in"), 3, "", `10\.9\.0\.1 port 22: filtered \(no answer\)\n` + stayedShut},
		{"no such command", append(knocks, "--", "no-such-command"), 1, "", `sesame knock: running no-such-command: executable file not found in \$PATH\n`},
		{"no command", append(knocks, "--"), 2, "", `sesame knock: a command is needed after --: [^\n]*\n`},
		{"-- before the host", append([]string{"-v", "--"}, knocks...), 0, `(hitting [^\n]*\n){3}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{T: t, host: w.host, clients: w.clients}
			if tt.name == "not open" {
				w.must(w.host.run("iptables", "-w", "-F", "INPUT"))
				w.must(w.host.run("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "DROP"))
			}
			w.wantCall(w.call(0, tt.args...), tt.status, tt.stdout, tt.stderr)
		})
	}
	// It is the same process.
	r = w.call(0, append(knocks, "--", "sh", "-c", "echo $PPID")...)
	if want := fmt.Sprintf("%d\n", os.Getpid()); r.stdout != want {
		t.Errorf("the command's parent is %q, want %q", r.stdout, want)
	}
}

// TestVerifyNetworkBack has the network there only at the second try.
func TestVerifyNetworkBack(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	w.serve(sshDoor("ssh", "7000,8000:udp,9000", 60))
	w.must(w.clients[0].run("ip", "link", "set", "eth0", "down"))
	cmd := sesame("sesame", "knock", hostAddr, "7000", "8000:udp", "9000", "-w22", "-v", "--timeout=2")
	out, err := os.Create(w.TempDir() + "/out")
	w.must(err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	said := func() string {
		text, _ := os.ReadFile(out.Name())
		return string(text)
	}
	w.must(w.clients[0].start(cmd))
	w.eventually("the first try", func() bool { return strings.Count(said(), "hitting") == 3 })
	w.must(w.clients[0].run("ip", "link", "set", "eth0", "up"))
	if status := exitStatus(cmd.Wait()); status != 0 || !strings.Contains(said(), "port 22: open in ") {
		t.Errorf("got exit status %d, %q", status, said())
	}
}

// TestVerifyNearKnock looks at a port that the daemon has for a decoy: not before the knock, and it is said.
func TestVerifyNearKnock(t *testing.T) {
	w := newWorld(t, 1)
	w.serve("[door]\n\tsequence = 7000,8000\n\tcommand = iptables -w -t nat -A PREROUTING -p tcp --dport 7010 -j REDIRECT --to-ports 81\n")
	w.listen("81")
	near := []string{"-w", "7010", hostAddr}
	w.wantCall(w.call(0, append(near, "7000", "8000")...), 0, `10\.9\.0\.1 port 7010: open in \d+ ms\n`, "")
	shut := []string{"--timeout=0.2", "--retries=0", "-w", "7011"}
	w.wantCall(w.call(0, append(append(near, "7001", "8001"), shut...)...), 3, "",
		`10\.9\.0\.1 port 7011: closed \(RST\)\nport 7011 is near a knock, so that [^\n]*\n`+stayedShut)
	// A door of one knock has no decoys.
	w.wantCall(w.call(0, append(append(near, "7001"), shut...)...), 3, "", `10\.9\.0\.1 port 7011: closed \(RST\)\n`+stayedShut)
}

// TestVerifyBarred has somebody who mistyped a sequence knock on the right ports while the daemon ignores that address: the
// last try opens.
func TestVerifyBarred(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.serve(strings.ReplaceAll(sshDoor("ssh", "7000,8000:udp,9000", 60), "seq_timeout   = 5\n", ""))
	w.knock(0, hostAddr, "7001", "7003", "9000")
	right := []string{hostAddr, "7000", "8000:udp", "9000", "-w22"}
	w.wantCall(w.call(0, append(right, "--retries=1", "--timeout=0.5")...), 3, "", `10\.9\.0\.1 port 22: filtered \(no answer\)\n`+stayedShut)
	w.wantCall(w.call(0, right...), 0, `10\.9\.0\.1 port 22: open in \d+ ms\n`, "")
	if n := strings.Count(d.logged(), "OPEN SESAME"); n != 1 {
		t.Errorf("the door opened %d times, want once", n)
	}
}

// TestPatience has the last try put off until the default Seq_Timeout is over, where the time for all tries is longer.
func TestPatience(t *testing.T) {
	var o knockOptions
	o.options()
	for _, tt := range []struct {
		timeout time.Duration
		retries int
		try     int
		since   time.Duration
		want    time.Duration
	}{
		{5 * time.Second, 2, 1, 6 * time.Second, 5 * time.Second}, // 15 s in all
		{10 * time.Second, 2, 0, 0, 10 * time.Second},
		{10 * time.Second, 2, 1, 11 * time.Second, 14 * time.Second},
		{10 * time.Second, 2, 2, 26 * time.Second, 10 * time.Second},
		{30 * time.Second, 0, 0, 0, 30 * time.Second},
		{30 * time.Second, 1, 0, 0, 30 * time.Second},
		{o.timeout, o.retries, o.retries - 1, time.Duration(o.retries-1) * o.timeout, o.timeout},
	} {
		o := knockOptions{timeout: tt.timeout, retries: tt.retries}
		if got := o.patience(tt.try, tt.since); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
	if last := time.Duration(o.retries) * o.timeout; last < defaultSeqTimeout {
		t.Errorf("by default the last try comes after %v, want %v", last, defaultSeqTimeout)
	}
}

// TestVerifyNoNetwork has the client say at once that there is no network, and wait for it.
func TestVerifyNoNetwork(t *testing.T) {
	needRoot(t)
	w := &world{T: t}
	n, out := w.netns(), new(said)
	cmd := sesame("sesame", "knock", "-q", "192.0.2.1", "7000", "-w22", "--timeout=3600")
	cmd.Stdout, cmd.Stderr = out, out
	w.must(n.start(cmd))
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	const want = "knocking on 192.0.2.1 port 7000: connect: network is unreachable: waiting for the network\n"
	w.eventually(want, func() bool { return out.String() == want })
}
