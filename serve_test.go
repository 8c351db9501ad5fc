//go:build linux && !pure

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

const hostSSH = hostAddr + ":22"

// articleFirst and articleSecond are the configurations that first users copy, word for word.
const articleFirst = `[options]
	logfile = /var/log/knockd.log
[openSSH]
	sequence    = 7000,8000,9000
	seq_timeout = 10
	tcpflags    = syn
	command     = /usr/sbin/iptables -A INPUT -s %IP% -j ACCEPT
[closeSSH]
	sequence    = 9000,8000,7000
	seq_timeout = 10
	tcpflags    = syn
	command     = /usr/sbin/iptables -D INPUT -s %IP% -j ACCEPT
`

const articleSecond = `[options]
	logfile = /var/log/knockd.log
[openSSHandRDP]
	sequence      = 1941,1942,1945
	seq_timeout   = 5
	start_command = /usr/sbin/iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; /usr/sbin/iptables -I INPUT -s %IP% -p tcp --dport 3389 -j ACCEPT
	cmd_timeout   = 500
	tcpflags      = syn
	stop_command  = /usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; /usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 3389 -j ACCEPT
`

func TestArticleFirst(t *testing.T) {
	w := newWorld(t, 2)
	w.listen("22")
	w.must(w.host.run("iptables", "-P", "INPUT", "DROP"))
	d := w.serve(articleFirst)
	w.wantPort(0, hostSSH, filtered)
	w.knock(0, hostAddr, "7000", "8000", "9000")
	w.awaitPort(0, hostSSH, reached)
	w.wantPort(1, hostSSH, filtered)
	w.knock(0, hostAddr, "9000", "8000", "7000")
	w.awaitPort(0, hostSSH, filtered)
	d.stop()
}

// TestArticleSecond follows the article, but for the 500 s, which the daemon's end cuts short. The same door with a
// short Cmd_Timeout is what the demo shows.
func TestArticleSecond(t *testing.T) {
	w := newWorld(t, 2)
	w.listen("22", "3389")
	before, err := w.host.output("iptables", "-S")
	w.must(err)
	for _, port := range []string{"22", "3389"} {
		w.must(w.host.run("iptables", "-A", "INPUT", "-i", "eth0", "-p", "tcp", "-m", "tcp", "--dport", port, "-j", "DROP"))
	}
	d := w.serve(articleSecond)
	w.wantPort(0, hostSSH, filtered)
	w.wantPort(0, hostAddr+":3389", filtered)
	w.knock(0, "-d", "100", hostAddr, "1941", "1942", "1945")
	w.awaitPort(0, hostSSH, reached)
	w.awaitPort(0, hostAddr+":3389", reached)
	w.wantPort(1, hostSSH, filtered)
	w.wantPort(1, hostAddr+":3389", filtered)
	d.stop()
	w.wantPort(0, hostSSH, filtered)
	w.wantPort(0, hostAddr+":3389", filtered)
	w.must(w.host.run("iptables", "-F", "INPUT"))
	if after, _ := w.host.output("iptables", "-S"); after != before {
		t.Errorf("rules left over: got %s, want %s", after, before)
	}
}

// TestKnocksOpen knocks in many ways, with whatever people have, each on a door of its own, one after the other.
func TestKnocksOpen(t *testing.T) {
	many := "7001,7002:udp,7003,7004,7005,7006,7007,7008,7009,7010,7011,7012,7013,7014,7015,7016," +
		"7017,7018,7019,7020,7021,7022,7023,7024,7025,7026,7027,7028,7029,7030,7031,7032"
	for _, tt := range []struct{ name, door, knock string }{
		{"Debian's knock", "sequence = 7000,8000,9000\n tcpflags = syn", "knock 10.9.0.1 7000 8000 9000"},
		{"Debian's knock, UDP and mixed", "sequence = 7100:udp,7101,7102:udp", "knock -d 20 10.9.0.1 7100:udp 7101:tcp 7102:udp"},
		{"nc", "sequence = 7200,8200,9200\n tcpflags = syn", "for p in 7200 8200 9200; do nc -z -w 1 10.9.0.1 $p || true; done"},
		{"nc, UDP", "sequence = 7300:udp,8300:udp", "for p in 7300 8300; do echo | nc -u -q 0 -w 1 10.9.0.1 $p; done"},
		{"telnet", "sequence = 7400,8400,9400\n tcpflags = syn", "for p in 7400 8400 9400; do telnet 10.9.0.1 $p </dev/null || true; done"},
		{"nmap", "sequence = 7500,8500,9500\n tcpflags = syn", "for p in 7500 8500 9500; do nmap -n -Pn --max-retries 0 -p $p 10.9.0.1; done"},
		{"nmap -sT", "sequence = 7600,8600,9600", "for p in 7600 8600 9600; do nmap -n -Pn -sT --max-retries 0 -p $p 10.9.0.1; done"},
		{"bash", "sequence = 7700,8700,9700\n tcpflags = syn", "for p in 7700 8700 9700; do (echo > /dev/tcp/10.9.0.1/$p) 2>/dev/null || true; done"},
		{"hping3, syn", "sequence = 7800,8800\n tcpflags = syn", "for p in 7800 8800; do hping3 -q -c 1 -S -p $p 10.9.0.1; done"},
		{"hping3, syn,!ack", "sequence = 7810,8810\n tcpflags = syn,!ack", "hping3 -q -c 1 -S -p 7810 10.9.0.1; hping3 -q -c 1 -S -A -p 7810 10.9.0.1; hping3 -q -c 1 -S -p 8810 10.9.0.1"},
		{"hping3, fin,!ack", "sequence = 7820,8820\n tcpflags = fin,!ack", "hping3 -q -c 1 -F -p 7820 10.9.0.1; hping3 -q -c 1 -S -p 8820 10.9.0.1; hping3 -q -c 1 -F -p 8820 10.9.0.1"},
		{"one knock", "sequence = 7900\n tcpflags = syn", "knock 10.9.0.1 7900"},
		{"32 knocks", "sequence = " + many, "knock -d 2 10.9.0.1 " + strings.ReplaceAll(many, ",", " ")},
		{"8,8,8", "sequence = 8,8,8\n tcpflags = syn", "knock -d 20 10.9.0.1 8 8 8"},
		{"IPv6", "sequence = 7910,8910\n tcpflags = syn", "knock -6 -d 20 fd00:9::1 7910 8910"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.hide()
			name := "door of " + tt.name
			d := w.serve(sshDoor(name, "1", 2, tt.door))
			address := hostSSH
			if strings.Contains(tt.knock, hostAddr6) {
				address = "[" + hostAddr6 + "]:22"
			}
			w.wantPort(0, address, filtered)
			w.from(0, tt.knock)
			d.await(name + ": OPEN SESAME")
			w.awaitPort(0, address, reached)
			w.wantPort(1, address, filtered)
			d.await(name + ": command timeout")
			w.awaitPort(0, address, filtered)
			if n := w.rules("ACCEPT\n"); n != 2 { // the two policies
				t.Errorf("rules left over: got %d lines with ACCEPT, want 2", n)
			}
			d.stop()
		})
	}
}

// TestWrongKnocks shows that nothing but the sequence opens, and that a knock of another door discards an attempt where it
// is among the decoys.
func TestWrongKnocks(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000,9000", 60, "tcpflags = syn") + sshDoor("other", "9010,7501:udp", 60))
	for _, line := range []string{
		"knock 10.9.0.1 9000 8000 7000",
		"knock 10.9.0.1 7000 9000 8000 9000",
		"knock 10.9.0.1 7000 8000 9010 9000",
		"knock -u 10.9.0.1 7000 8000 9000",
		"knock 10.9.0.1 7000 8000",
		"nmap -n -Pn --max-retries 0 -p 1-1000 10.9.0.1",
	} {
		w.from(0, line)
	}
	w.wantPort(0, hostSSH, filtered)
	w.knock(0, hostAddr, "7000", "8000", "9000")
	w.awaitPort(0, hostSSH, reached)
	if n := strings.Count(d.logged(), "OPEN SESAME"); n != 1 {
		t.Errorf("openings: got %d, want 1", n)
	}
	d.stop()
}

// TestOurKnock uses sesame's own client, with the habits of knock's users.
func TestOurKnock(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000:udp,9000", 60))
	n := 0
	for _, args := range [][]string{
		{hostAddr, "7000", "8000:udp", "9000", "-d", "5", "-v"},
		{"-vd10", hostAddr, "7000:TCP,8000:UDP,9000"},
		{"--delay=10", hostAddr, "7000,", "8000:udp,", "9000"},
		{"-6", "-d", "5", hostAddr6, "7000", "8000:udp", "9000"},
		{"-d", "0", hostAddr, "7000", "8000:udp", "9000"},
	} {
		w.knock(0, args...)
		n++
		w.eventually(fmt.Sprintf("opening %d by knock %v", n, args), func() bool {
			return strings.Count(d.logged(), "OPEN SESAME") == n
		})
	}
	d.stop()
	if got := w.rules("--dport 22 -j ACCEPT"); got != 0 {
		t.Errorf("rules left over: got %d, want 0", got)
	}
}

// TestKnockOpensKnockd opens a door of Debian's knockd by our client, as root and as somebody else.
func TestKnockOpensKnockd(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	config := filepath.Join(t.TempDir(), "knockd.conf")
	w.must(os.WriteFile(config, []byte(sshDoor("ssh", "7000,8000:udp,9000", 1, "tcpflags = syn")), 0o600))
	knockd := exec.Command("/usr/sbin/knockd", "-v", "-i", "eth0", "-c", config)
	out, err := knockd.StdoutPipe()
	w.must(err)
	w.must(w.host.start(knockd))
	t.Cleanup(func() { _ = knockd.Process.Kill(); _ = knockd.Wait() })
	listening := make([]byte, 64)
	if _, err := out.Read(listening); err != nil || !strings.Contains(string(listening), "listening on eth0") {
		t.Fatalf("knockd says %q, %v", listening, err)
	}
	go func() {
		for buf := make([]byte, 4096); ; {
			if _, err := out.Read(buf); err != nil {
				return
			}
		}
	}()
	for _, uid := range []uint32{0, 65534} {
		w.awaitPort(0, hostSSH, filtered)
		cmd := sesame("knock", hostAddr, "7000", "8000:udp", "9000")
		w.as(uid, cmd)
		w.must(w.clients[0].start(cmd))
		if err := cmd.Wait(); err != nil {
			t.Fatalf("knock as user %d: %v", uid, err)
		}
		w.awaitPort(0, hostSSH, reached)
	}
}

func TestTwoKnockers(t *testing.T) {
	w := newWorld(t, 2)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000,9000", 60, "tcpflags = syn"))
	// Each one's knocks stand between the other's; client 1 ends one short.
	for _, port := range []string{"7000", "8000", "9000"} {
		w.knock(0, hostAddr, port)
		if port != "9000" {
			w.knock(1, hostAddr, port)
		}
	}
	w.awaitPort(0, hostSSH, reached)
	w.wantPort(1, hostSSH, filtered)
	w.knock(1, hostAddr, "9000")
	w.awaitPort(1, hostSSH, reached)
	d.stop()
	w.wantPort(0, hostSSH, filtered)
	w.wantPort(1, hostSSH, filtered)
}

func TestKnockAgainWhileOpen(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000,9000", 2, "tcpflags = syn"))
	w.knock(0, hostAddr, "7000", "8000", "9000")
	d.await("command took")
	opened := time.Now()
	for range 3 {
		w.knock(0, "-d300", hostAddr, "7000", "8000", "9000")
		if n := w.rules("--dport 22 -j ACCEPT"); n != 1 {
			t.Fatalf("rules of the door: got %d, want 1", n)
		}
	}
	d.await("command timeout")
	if open := time.Since(opened); open < 3*time.Second {
		t.Errorf("closed after %v: the time did not start anew", open)
	}
	w.awaitPort(0, hostSSH, filtered)
	if n := strings.Count(d.logged(), "running command"); n != 2 {
		t.Errorf("commands run: got %d, want 2", n)
	}
	d.stop()
}

func TestReloadWhileOpen(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000,9000", 4, "tcpflags = syn"))
	w.knock(0, hostAddr, "7000", "8000", "9000")
	w.awaitPort(0, hostSSH, reached)

	d.write("[ssh]\n sequence = 1234,4321x\n seq_timout = 3\n")
	d.signal(unix.SIGHUP)
	d.await("the configuration stays as it was")
	for _, want := range []string{
		"re-reading config file: " + d.config,
		d.config + `:2: door "ssh": Sequence: a port is a number from 1 to 65535`,
		d.config + `:3: door "ssh": unknown directive "seq_timout" (did you mean Seq_Timeout?)`,
	} {
		if !strings.Contains(d.logged(), want) {
			t.Errorf("log lacks %q", want)
		}
	}
	for _, secret := range []string{"4321x", "1234"} {
		if strings.Contains(d.logged(), secret) {
			t.Errorf("log has a part of the sequence: %q", secret)
		}
	}
	w.knock(0, hostAddr, "7000", "8000", "9000") // the old configuration is in force
	d.await("open already")

	w.must(os.Rename(d.log, d.log+".1")) // logrotate
	d.write(sshDoor("ssh", "5000,6000", 2, "tcpflags = syn"))
	d.signal(unix.SIGHUP)
	d.await("re-opening log file")
	w.knock(0, "-d20", hostAddr, "5000", "6000")
	d.await("open already") // the door is the same one: its time starts anew
	w.knock(0, hostAddr, "7000", "8000", "9000")
	d.await("command timeout")
	w.awaitPort(0, hostSSH, filtered)
	if n := strings.Count(d.logged(), "OPEN SESAME"); n != 1 {
		t.Errorf("openings after the reload: got %d, want 1", n)
	}
	d.stop()
}

// TestReloadKeepsAttempts reloads between two knocks of a sequence.
func TestReloadKeepsAttempts(t *testing.T) {
	w := newWorld(t, 1)
	config := "[a]\n sequence = 7000,8000,9000\n command = true\n"
	d := w.serve(config)
	w.knock(0, hostAddr, "7000", "8000")
	d.await("10.9.0.2: a: Stage 2")
	d.write(config + "[b]\n sequence = 5000,6000\n command = true\n")
	d.signal(unix.SIGHUP)
	d.await("re-opening log file")
	w.knock(0, hostAddr, "9000")
	d.await("10.9.0.2: a: OPEN SESAME")
	w.knock(0, hostAddr, "5000", "6000")
	d.await("10.9.0.2: b: OPEN SESAME")
	d.stop()
}

func TestStopWithThreeDoorsOpen(t *testing.T) {
	w := newWorld(t, 3)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000,9000", 600, "tcpflags = syn"))
	for i := range w.clients {
		w.knock(i, hostAddr, "7000", "8000", "9000")
		w.awaitPort(i, hostSSH, reached)
	}
	began := time.Now()
	d.stop()
	if took := time.Since(began); took >= stopDeadline {
		t.Errorf("stopping took %v: it waited in vain for something", took)
	}
	for i := range w.clients {
		w.wantPort(i, hostSSH, filtered)
	}
	if !strings.HasSuffix(d.logged(), "shutting down\n") {
		t.Errorf("the log does not end with: shutting down")
	}
}

// TestAwkwardCommands has commands that hang, fail and print a megabyte beside an ordinary door.
func TestAwkwardCommands(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	marker := filepath.Join(t.TempDir(), "marker")
	hanging := filepath.Join(t.TempDir(), "pid")
	d := w.serve(sshDoor("ssh", "7000,8000", 60) + `
[hangs]
	sequence = 7100,8100
	start_command = echo $KNOCK_IP $KNOCK_DOOR $KNOCK_FAMILY $KNOCK_INTERFACE > ` + marker + `; sleep 1000
	stop_command = rm ` + marker + `
	cmd_timeout = 600
[fails]
	sequence = 7200,8200
	command = echo what is wrong >&2; exit 3
[prints]
	sequence = 7300,8300
	command = head -c 1000000 /dev/zero | tr '\0' x
[stop hangs]
	sequence = 7400,8400
	start_command = true
	cmd_timeout = 600
	stop_command = echo $$ > ` + hanging + `; exec sleep 30
`)
	for _, first := range []int{7100, 7200, 7300, 7400} {
		w.knock(0, "-d20", hostAddr, fmt.Sprint(first), fmt.Sprint(first+1000))
	}
	d.await("fails: command returned non-zero status code (3)")
	d.await("fails: command output: what is wrong")
	d.await("prints: command output: xxxxx")
	d.await("prints: command output: 995904 bytes more")
	d.await("stop hangs: command took")
	w.eventually("the hanging command's first half", func() bool {
		text, _ := os.ReadFile(marker)
		return string(text) == "10.9.0.2 hangs 4 eth0\n"
	})
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	w.awaitPort(0, hostSSH, reached)
	if info, err := os.Stat(d.log); err != nil || info.Size() > 20000 {
		t.Errorf("log: %v, %v", info.Size(), err)
	}

	began := time.Now()
	d.stop()
	if took := time.Since(began); took < stopDeadline {
		t.Errorf("stopping with a stop command that hangs took %v, want %v", took, stopDeadline)
	}
	if want := "stop hangs: command did not end within 10s: echo "; !strings.Contains(d.logged(), want) {
		t.Errorf("log lacks %q", want)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("the hanging door's stop command did not run")
	}
	w.wantPort(0, hostSSH, filtered)
	w.must(exec.Command("sh", "-c", "kill $(cat "+hanging+")").Run())
}

// TestSignalStorm sends hundreds of SIGHUPs while a door is open, SIGTERM among them, and more while it closes: the
// door closes, and the exit status is 0.
func TestSignalStorm(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000", 600))
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	w.awaitPort(0, hostSSH, reached)
	for range 300 {
		d.signal(unix.SIGHUP)
	}
	d.signal(unix.SIGTERM)
	for range 20 {
		_ = d.cmd.Process.Signal(unix.SIGHUP)
	}
	d.wantExit(0)
	w.wantPort(0, hostSSH, filtered)
}

// TestReloadUnderTraffic reloads again and again, with other interfaces, while somebody knocks.
func TestReloadUnderTraffic(t *testing.T) {
	w := newWorld(t, 1)
	config := func(link string) string {
		return "[options]\n interface = " + link + "\n[a]\n sequence = 7000,8000\n command = true\n"
	}
	dir := t.TempDir()
	w.must(os.WriteFile(dir+"/c", []byte(config("eth0")), 0o600))
	d := w.daemon(sesame("sesame", "serve", "-c", dir+"/c", "-g", dir+"/log"), dir+"/c", dir+"/log")
	d.await("starting up")
	for i := range 40 {
		d.write(config([]string{"eth0", "eth0,lo", "any"}[i%3]))
		d.signal(unix.SIGHUP)
		w.knock(0, "-d0", hostAddr, "7000", "8000")
	}
	opened := func() int { return strings.Count(d.logged(), "OPEN SESAME") }
	before := opened()
	w.eventually("an opening after the last reload", func() bool {
		w.knock(0, "-d0", hostAddr, "7000", "8000")
		return opened() > before
	})
	w.eventually("few open files, once the commands have ended", func() bool {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
		return err == nil && len(fds) <= 20
	})
	d.stop()
}

// TestOneTimeWithoutInterface uses a one-time sequence while another interface that is named is away: the next one comes
// into force all the same.
func TestOneTimeWithoutInterface(t *testing.T) {
	w := newWorld(t, 1)
	once := filepath.Join(t.TempDir(), "once")
	w.must(os.WriteFile(once, []byte(" 7001,7002\n 8003,8004\n"), 0o600))
	w.must(w.host.run("ip", "link", "add", "ppp0", "type", "bridge"))
	w.must(w.host.run("ip", "link", "set", "ppp0", "up"))
	dir := t.TempDir()
	w.must(os.WriteFile(dir+"/c", []byte("[a]\n one_time_sequences = "+once+"\n command = true\n"), 0o600))
	d := w.daemon(sesame("sesame", "serve", "-i", "eth0,ppp0", "-c", dir+"/c", "-g", dir+"/log"), dir+"/c", dir+"/log")
	d.await("starting up")
	w.must(w.host.run("ip", "link", "delete", "ppp0"))
	w.knock(0, "-d20", hostAddr, "7001", "7002")
	d.await("interface ppp0 does not exist yet: waiting for it")
	w.eventually("the opening by the next sequence", func() bool {
		w.knock(0, "-d20", hostAddr, "8003", "8004")
		return strings.Count(d.logged(), "OPEN SESAME") == 2
	})
	d.stop()
}

// TestInterfaceMadeAnew deletes the interface and makes another one of its name: SIGHUP listens on that.
func TestInterfaceMadeAnew(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[a]\n sequence = 7000,8000\n command = true\n")
	w.must(w.host.run("ip", "link", "delete", "eth0"))
	w.must(w.host.link("eth0", w.clients[0], "eth1"))
	w.must(w.host.run("ip", "address", "add", "10.8.0.1/24", "dev", "eth0"))
	w.must(w.clients[0].run("ip", "address", "add", "10.8.0.2/24", "dev", "eth1"))
	d.signal(unix.SIGHUP)
	d.await("re-opening log file")
	w.knock(0, "-d20", "10.8.0.1", "7000", "8000")
	d.await("10.8.0.2: a: OPEN SESAME")
	d.stop()
}

// TestBlockedLog has a log that nobody reads: the door opens and closes all the same.
func TestBlockedLog(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	config := filepath.Join(t.TempDir(), "c")
	w.must(os.WriteFile(config, []byte(sshDoor("ssh", "7000,8000", 600)), 0o600))
	cmd := sesame("sesame", "serve", "-i", "eth0", "-c", config)
	r, full, err := os.Pipe()
	w.must(err)
	defer r.Close()
	cmd.Stderr = full
	d := w.daemon(cmd, config, os.DevNull)
	if _, err := r.Read(make([]byte, 4096)); err != nil { // starting up
		t.Fatal(err)
	}
	// Opened again, so that the daemon's own descriptor stays one that blocks.
	filler, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", full.Fd()), unix.O_WRONLY|unix.O_NONBLOCK, 0)
	w.must(err)
	for err == nil {
		_, err = unix.Write(filler, make([]byte, 1))
	}
	_ = unix.Close(filler)
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	w.awaitPort(0, hostSSH, reached)
	d.stop()
	w.wantPort(0, hostSSH, filtered)
}

// TestStopAtFileLimit closes a hundred doors where few files may be open, so that many stop commands cannot be started
// at first.
func TestStopAtFileLimit(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	w.must(os.Chmod(dir, 0o777))
	config := "[a]\n sequence = 7000:udp\n start_command = touch " + dir + "/%IP%\n cmd_timeout = 600\n stop_command = sleep 0.1; rm " + dir + "/%IP%\n"
	d := w.serve(config)
	x := w.wire(0)
	const sources = 100
	for i := range sources {
		x.send(fromClient4.with(func(p *testPacket) { p.from, p.knock = fmt.Sprintf("10.9.1.%d", i+1), Knock{7000, udp} }).bytes())
	}
	files := func() int {
		open, err := filepath.Glob(dir + "/10.*")
		w.must(err)
		return len(open)
	}
	w.eventually("all openings", func() bool { return files() == sources && strings.Count(d.logged(), "command took") == sources })
	// Files are the limit that also holds for root.
	w.must(exec.Command("prlimit", "--pid", fmt.Sprint(d.cmd.Process.Pid), "--nofile=27").Run())
	d.stop()
	if n := files(); n != 0 {
		t.Errorf("doors still open: got %d, want 0", n)
	}
	if !strings.Contains(d.logged(), "too many open files") {
		t.Error("the limit was never reached: the test shows nothing")
	}
}

// TestBusyDoorBesideAnother floods a door of one knock, whose command takes its time, while somebody knocks on another.
func TestBusyDoorBesideAnother(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000", 600) + "[busy]\n sequence = 5555:udp\n command = sleep 0.2\n")
	x := w.wire(0)
	p := fromClient4
	p.knock = Knock{5555, udp}
	b := p.bytes()
	for i := range 5000 {
		binary.BigEndian.PutUint32(b[ipv4OffSource:], 0x0b000000+uint32(i)) // 11.0.0.0
		x.send(b)
	}
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	w.awaitPort(0, hostSSH, reached) // long before the flood's commands have run
	if !strings.Contains(d.logged(), "10.9.0.2: ssh: OPEN SESAME") {
		t.Error("the flood left no room for the other door's line")
	}
	d.signal(unix.SIGTERM)
	<-d.ended
	w.wantPort(0, hostSSH, filtered)
}

// TestSecondSIGTERM sends SIGTERM again and again, as procd does: the stop command runs to its end all the same.
func TestSecondSIGTERM(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	d := w.serve("[a]\n sequence = 7000,8000\n start_command = true\n stop_command = touch " + dir + "/closing; while [ ! -e " + dir +
		"/go ]; do sleep 0.05; done; touch " + dir + "/closed\n cmd_timeout = 600\n")
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	d.await("command took")
	for range 3 {
		d.signal(unix.SIGTERM)
	}
	w.eventually("the stop command", func() bool { _, err := os.Stat(dir + "/closing"); return err == nil })
	d.signal(unix.SIGTERM)
	w.must(os.WriteFile(dir+"/go", nil, 0o600))
	d.wantExit(0)
	if _, err := os.Stat(dir + "/closed"); err != nil {
		t.Errorf("the stop command did not end: %v", err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[a]\n sequence = 7000,8000\n start_command = true\n stop_command = exec sleep 7\n cmd_timeout = 600\n")
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	d.await("command took")
	d.signal(unix.SIGTERM)
	d.await("running command: exec sleep 7")
	d.signal(unix.SIGINT)
	d.wantExit(1)
	if n := strings.Count(d.logged(), "command took"); n != 1 {
		t.Error("it waited for the stop command")
	}
}

// TestLiveConnection shows what the README says: a connection made while the door was open lives on after closing
// only behind a rule that accepts established connections.
func TestLiveConnection(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rule  bool
		alive bool
	}{{"with an ESTABLISHED rule", true, true}, {"without", false, false}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			if tt.rule {
				w.must(w.host.run("iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"))
			}
			w.hide()
			d := w.serve(sshDoor("ssh", "7000,8000", 3, "tcpflags = syn"))
			w.knock(0, "-d20", hostAddr, "7000", "8000")
			d.await("command took")
			var conn net.Conn
			w.must(w.clients[0].do(func() (err error) {
				conn, err = net.DialTimeout("tcp", hostSSH, time.Second)
				return err
			}))
			defer conn.Close()
			echo := func() bool {
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_, err := conn.Write([]byte("x"))
				if err == nil {
					_, err = conn.Read(make([]byte, 1))
				}
				return err == nil
			}
			if !echo() {
				t.Fatal("no answer while the door is open")
			}
			d.await("command timeout")
			w.awaitPort(0, hostSSH, filtered)
			if got := echo(); got != tt.alive {
				t.Errorf("connection alive after closing: got %v, want %v", got, tt.alive)
			}
			d.stop()
		})
	}
}

// TestEveryInterface listens on all of them, and takes a knock on one that is not named.
func TestEveryInterface(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	config := filepath.Join(dir, "c")
	w.must(os.WriteFile(config, []byte("[a]\n sequence = 7000,7001,7002\n command = echo opened by %IP% on $KNOCK_INTERFACE\n"), 0o600))
	cmd := sesame("knockd", "-c", config, "-g"+dir+"/log")
	d := w.daemon(cmd, config, dir+"/log")
	d.await("starting up, listening on any (all interfaces but lo: Interface = any,lo adds it)\n")
	w.must(w.host.run("knock", "127.0.0.1", "7000", "7001", "7002"))
	w.knock(0, hostAddr, "7000", "7001", "7002")
	d.await("opened by 10.9.0.2 on eth0")
	if strings.Contains(d.logged(), "127.0.0.1") {
		t.Error("a knock on lo counts")
	}
	d.write("[options]\n interface = any,lo\n[a]\n sequence = 7000,7001,7002\n command = echo opened by %IP% on $KNOCK_INTERFACE\n")
	d.signal(unix.SIGHUP)
	w.eventually("a knock on lo", func() bool {
		w.must(w.host.run("knock", "127.0.0.1", "7000", "7001", "7002"))
		return strings.Contains(d.logged(), "opened by 127.0.0.1 on lo")
	})
	d.stop()
}

// TestOtherHostsPackets knocks on an address that is not the host's own, and on one that is.
func TestOtherHostsPackets(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[a]\n sequence = 7000,8000\n command = true\n")
	w.must(w.clients[0].run("ip", "route", "add", "198.51.100.0/24", "via", hostAddr))
	w.knock(0, "-d20", "198.51.100.7", "7000", "8000")
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	d.await("OPEN SESAME")
	if n := strings.Count(d.logged(), "Stage 1"); n != 1 {
		t.Errorf("attempts: got %d, want the one on the host's own address", n)
	}
	d.stop()
}

// TestTarget opens the way to a host behind this one, by knocks on that host, over both families.
func TestTarget(t *testing.T) {
	w := newWorld(t, 2)
	behind := w.netns()
	w.must(w.host.link("lan", behind, "eth0"))
	for _, step := range []struct {
		in   *Netns
		line string
	}{
		{w.host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; ip address add 198.51.100.1/24 dev lan; ip address add fd00:98::1/64 dev lan nodad"},
		{behind, "ip address add 198.51.100.7/24 dev eth0; ip address add fd00:98::7/64 dev eth0 nodad; ip route add default via 198.51.100.1; ip -6 route add default via fd00:98::1"},
		{w.clients[0], "ip route add default via 10.9.0.1; ip -6 route add default via fd00:9::1"},
		{w.clients[1], "ip route add default via 10.9.0.1; ip -6 route add default via fd00:9::1"},
		{w.host, "for t in iptables ip6tables; do $t -w -A FORWARD -i eth0 -p tcp --dport 22 -j DROP; done"},
	} {
		w.must(step.in.run("sh", "-c", step.line))
	}
	w.must(behind.do(func() error {
		l, err := net.Listen("tcp", ":22")
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	}))
	door := func(name, target, tool string) string {
		return fmt.Sprintf("[%s]\n sequence = 7000,8000,9000\n target = %s\n start_command = %s -w -I FORWARD -s %%IP%% -p tcp --dport 22 -j ACCEPT\n"+
			" cmd_timeout = 600\n stop_command = %[3]s -w -D FORWARD -s %%IP%% -p tcp --dport 22 -j ACCEPT\n", name, target, tool)
	}
	d := w.serve(door("four", "198.51.100.7", "iptables") + door("six", "fd00:98::7", "ip6tables"))
	for _, target := range []string{"198.51.100.7", "fd00:98::7"} {
		ssh := netip.AddrPortFrom(netip.MustParseAddr(target), 22).String()
		w.knock(0, hostAddr, "7000", "8000", "9000") // on this host: nobody's door
		w.wantPort(0, ssh, filtered)
		w.knock(0, target, "7000", "8000", "9000")
		w.awaitPort(0, ssh, reached)
		w.wantPort(1, ssh, filtered)
	}
	if n := strings.Count(d.logged(), "Stage 1"); n != 2 {
		t.Errorf("attempts: got %d, want those on the targets, 2", n)
	}
	d.stop()
	w.wantPort(0, "198.51.100.7:22", filtered)
	w.wantPort(0, "[fd00:98::7]:22", filtered)
}

// TestOnlyIPv4Target asks for a door that -4 keeps shut: the log says so.
func TestOnlyIPv4Target(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[four]\n sequence = 7000,8000\n target = 198.51.100.7\n command = true\n[six]\n sequence = 7000,8000\n target = fd00:98::7\n command = true\n", "-4")
	d.await("warning: " + d.config + `:5: door "six": Target is an IPv6 address, which -4 ignores: it cannot open`)
	if strings.Count(d.logged(), "is an IPv6 address") != 1 {
		t.Error("a warning about the other door, too")
	}
	d.stop()
}

// TestLookup logs names beside addresses, and waits for no name server.
func TestLookup(t *testing.T) {
	w := newWorld(t, 2)
	dir := t.TempDir()
	w.must(os.WriteFile(dir+"/hosts", []byte("10.9.0.2 laptop.lan laptop\n"), 0o644))
	w.must(os.WriteFile(dir+"/resolv.conf", []byte("nameserver 10.9.0.1\n"), 0o644)) // nobody answers there
	w.must(w.host.run("iptables", "-A", "INPUT", "-p", "udp", "--dport", "53", "-j", "DROP"))
	d := w.serveIn("mount --bind "+dir+"/hosts /etc/hosts; mount --bind "+dir+"/resolv.conf /etc/resolv.conf",
		"[a]\n sequence = 7000,8000,9000\n start_command = echo %IP% >> "+dir+"/opened\n cmd_timeout = 1\n stop_command = true\n", "-l")
	w.knock(1, "-d0", hostAddr, "7000", "8000", "9000")
	w.knock(0, "-d0", hostAddr, "7000", "8000", "9000")
	began := time.Now()
	w.eventually("both openings", func() bool {
		opened, _ := os.ReadFile(dir + "/opened")
		return strings.Count(string(opened), "\n") == 2
	})
	if took := time.Since(began); took >= nameTime {
		t.Errorf("opening took %v: it waited for the name", took)
	}
	d.await("10.9.0.2 (laptop.lan): a: command timeout")
	for _, line := range []string{"10.9.0.3: a: Stage 1\n", "10.9.0.2: a: Stage 1\n", "10.9.0.2 (laptop.lan): a: OPEN SESAME\n"} {
		if !strings.Contains(d.logged(), line) {
			t.Errorf("log lacks %q", line)
		}
	}
	d.stop()
}

// nameServer answers all questions at address with one host name, and keeps what was asked.
func (w *world) nameServer(address, name string) (asked func() []string) {
	w.Helper()
	var conn net.PacketConn
	w.must(w.host.do(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	}))
	w.Cleanup(func() { _ = conn.Close() })
	var mu sync.Mutex
	var questions []string
	go func() {
		for b := make([]byte, 512); ; {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			mu.Lock()
			questions = append(questions, q.Name.String())
			mu.Unlock()
			m.Response, m.Additionals = true, nil
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypePTR, Class: q.Class},
				Body:   &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(name)},
			}}
			if answer, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(questions)
	}
}

// TestLookupTellsNothing has a stranger hit knocks and decoys, whose name server sees no question: it would tell which
// ports they are. Whoever has opened a door is asked for.
func TestLookupTellsNothing(t *testing.T) {
	w := newWorld(t, 2)
	dir := t.TempDir()
	w.must(os.WriteFile(dir+"/resolv.conf", []byte("nameserver 127.0.0.1\n"), 0o644))
	asked := w.nameServer("127.0.0.1:53", "owner.test.")
	d := w.serveIn("mount --bind "+dir+"/resolv.conf /etc/resolv.conf",
		"[a]\n sequence = 7000,8000,9000\n seq_timeout = 1\n start_command = true\n cmd_timeout = 1\n stop_command = true\n", "-l")
	w.knock(1, hostAddr, "7000", "8000")
	d.await("10.9.0.3: a: sequence timeout (stage 2)\n")
	w.knock(1, hostAddr, "7000", "7001", "7002")
	d.await("10.9.0.3: a: barred for 1s: it has hit ports near the knocks\n")
	for range 2 { // the second time the name is known
		w.knock(0, hostAddr, "7000", "8000", "9000")
		d.await("10.9.0.2 (owner.test): a: command timeout\n")
		w.must(os.Truncate(d.log, 0))
	}
	w.knock(0, hostAddr, "7000")
	d.await("10.9.0.2: a: Stage 1\n")
	if got, want := asked(), []string{"2.0.9.10.in-addr.arpa."}; !slices.Equal(got, want) {
		t.Errorf("the name server was asked for %q, want %q", got, want)
	}
	d.stop()
}

// TestServeRefuses starts nothing and changes nothing where something is wrong.
func TestServeRefuses(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	w := &world{T: t}
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		w.must(os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	readable := file("readable", "[a]\n sequence = 7000,8000\n command = true\n")
	w.must(os.Chmod(readable, 0o644))
	good := file("good", "[a]\n sequence = 7000,8000\n command = true\n")
	w.must(unix.Mkfifo(dir+"/pipe", 0o600))
	for _, tt := range []struct {
		name   string
		args   []string
		nobody bool
		status int
		want   string
	}{
		{"no configuration", []string{"-c", dir + "/none"}, false, 1, "opening the configuration: open " + dir + "/none: no such file or directory"},
		{"unreadable configuration", []string{"-c", good}, true, 1, "permission denied"},
		{"bad configuration", []string{"-c", file("bad", "[a]\nsequence = x\n")}, false, 1, dir + `/bad:2: door "a": Sequence: a port is a number from 1 to 65535`},
		{"no CAP_NET_RAW", []string{"-c", "/proc/self/fd/4"}, true, 1, "missing: CAP_NET_RAW (to see packets): run it as root, or give it what is missing"},
		{"log not writable", []string{"-c", good, "-i", "lo", "-g", dir + "/no/log"}, false, 1, "opening the log file: open " + dir + "/no/log: no such file or directory"},
		{"log to a pipe that nobody reads", []string{"-c", good, "-i", "lo", "-g", dir + "/pipe"}, false, 1, "opening the log file: open " + dir + "/pipe: no such device or address: a pipe needs"},
		{"one-time sequences in a pipe", []string{"-c", file("piped", "[a]\none_time_sequences = "+dir+"/pipe\n")}, false, 1, dir + `/piped:1: door "a": One_Time_Sequences: ` + dir + "/pipe is not a regular file"},
		{"unknown option", []string{"-c", good, "-x"}, false, 2, `unknown option "-x"`},
		{"bad interface name", []string{"-c", good, "-i", "a/b"}, false, 2, `option -i: "a/b" is no interface`},
		{"an argument", []string{good}, false, 2, "unexpected argument"},
		{"no one-time file", []string{"-c", file("once", "[a]\none_time_sequences = "+dir+"/none\n")}, false, 1, dir + `/once:1: door "a": One_Time_Sequences: open ` + dir + "/none: no such file or directory"},
		{"bad one-time file", []string{"-c", file("wrong", "[a]\none_time_sequences = "+file("lines", " 7000,8000\n 7000,x\n")+"\n")}, false, 1, dir + "/lines:2: Sequence: a port is a number from 1 to 65535\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := sesame("sesame", append([]string{"serve"}, tt.args...)...)
			if tt.nobody {
				w.as(65534, cmd, readable)
			}
			out, err := cmd.CombinedOutput()
			if got := exitStatus(err); got != tt.status {
				t.Errorf("exit status: got %d, want %d", got, tt.status)
			}
			if !strings.Contains(string(out), tt.want) || strings.Count(string(out), "\n") != 1 {
				t.Errorf("got %q, want one line with %q", out, tt.want)
			}
		})
	}
}

// TestStartCommandFails has start commands that fail, wholly and in part, and a door that the firewall opens whatever its
// command does: what may not be open is not said to be, and its owner gets in by knocking again.
func TestStartCommandFails(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	dir := w.TempDir()
	flag, socket := dir+"/flag", dir+"/control"
	door := func(name, sequence, start string) string {
		return fmt.Sprintf("[%s]\n sequence = %s\n cmd_timeout = 6\n %s\n", name, sequence, start)
	}
	const rule = "INPUT -s %IP% -p tcp --dport 22 -j ACCEPT"
	d := w.serve(door("wholly", "7000,8000", "start_command = test -e "+flag+" && iptables -w -I "+rule+"\n stop_command = iptables -w -D "+rule)+
		door("partly", "7100,8100", "start_command = iptables -w -I "+rule+"; ip6tables-of-no-kernel -I\n"+
			" stop_command = iptables -w -D "+rule+"; ip6tables-of-no-kernel -D")+
		door("native", "7200,8200", "open_ports = 22\n start_command = exit 3\n stop_command = exit 4")+
		"[options]\n StateDir = "+dir+"/state\n", "-s", socket)
	status := func(want string) {
		t.Helper()
		cmd := sesame("sesame", "status", "-s", socket)
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), want) && !strings.Contains(d.logged(), "command timeout") { // on a very slow machine
			t.Errorf("status: got %s, want %q", out, want)
		}
	}
	again := func(text string, n int) {
		t.Helper()
		w.eventually(fmt.Sprint(n, " times: ", text), func() bool { return strings.Count(d.logged(), text) == n })
	}

	w.knock(0, "-d20", hostAddr, "7000", "8000")
	d.await("10.9.0.2: wholly: start command failed (status 1): the next knock runs it again")
	status("start command failed (status 1), stop command in ")
	w.wantPort(0, hostSSH, filtered)
	w.must(os.WriteFile(flag, nil, 0o600))
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	w.awaitPort(0, hostSSH, reached)
	status("open for ")
	w.awaitPort(0, hostSSH, filtered)
	if d.await("wholly: command timeout"); w.rules("-s 10.9.0.2/32 ") != 0 {
		t.Error("a rule is left")
	}

	w.knock(0, "-d20", hostAddr, "7100", "8100")
	again("partly: start command failed (status 127)", 1)
	w.wantPort(0, hostSSH, reached)
	w.awaitPort(0, hostSSH, filtered)
	again("partly: command timeout", 1)
	again("partly: closing it has failed 3 times, the last time with status 127: given up", 1)

	w.knock(0, "-d20", hostAddr, "7200", "8200")
	again("native: start command failed (status 3): the ports are open all the same", 1)
	w.wantPort(0, hostSSH, reached)
	w.knock(0, "-d20", hostAddr, "7200", "8200")
	again("native: open already: ", 1)
	w.awaitPort(0, hostSSH, filtered)
	again("native: closing it has failed 3 times, the last time with status 4: given up", 1)
	out, _ := sesame("sesame", "status", "-s", socket).Output()
	if text := string(out); !strings.Contains(text, "no door is open") || !strings.Contains(text, "tried 3 times: status 4") || !strings.Contains(text, "tried 3 times: status 127") {
		t.Errorf("status: got %s, want both doors named", out)
	}
	d.stop()
}
