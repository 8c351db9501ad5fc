//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const keyLine = "\tKey = alice " + aliceSecret + " " + aliceAuth + "\n"

// keyDoor is one that alice's key opens.
const keyDoor = `[ssh]
	open_ports  = 22, 51820:udp, 8443 -> 10.9.0.3:443
	cmd_timeout = 60
	hide        = yes
` + keyLine

// fwknop runs the client of the fwknop package at client i, with alice's keys.
func (w *world) fwknop(i int, line string) {
	w.Helper()
	w.from(i, fmt.Sprintf("HOME=%s fwknop --no-rc-file --no-save-args -D %s --use-hmac --key-base64-rijndael %s --key-base64-hmac %s %s >&2",
		w.TempDir(), hostAddr, aliceSecret, aliceAuth, line))
}

// keyHosts are a host with nft and one with iptables.
func keyHosts(t *testing.T, config string, test func(n *nativeTest)) {
	for _, host := range firewallHosts {
		if host.name == "fw4" || host.name == "iptables" {
			t.Run(host.name, func(t *testing.T) { test(newNativeTest(t, host, config)) })
		}
	}
}

// TestKeyClient opens doors with fwknop's own client, in all its modes, and has refused what is to be.
func TestKeyClient(t *testing.T) {
	keyHosts(t, keyDoor, func(n *nativeTest) {
		d := n.serve()
		n.wantPort(0, hostSSH, hidden)
		opened := 0
		for _, tt := range []struct {
			line    string
			opens   string // as the log has it, and for whom
			refused string // else; "": without a word
		}{
			{line: "-A tcp/22 -a 10.9.0.2", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/22 -s", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/22 -a 10.9.0.3", opens: "10.9.0.3: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/22 -a 10.9.0.2 -f 30", opens: "10.9.0.2: ssh: open for 30s: 22:tcp"},
			{line: "-A tcp/22 -a 10.9.0.2 -f 3000", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A udp/51820,tcp/22 -a 10.9.0.2", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp,51820:udp"},
			{line: "-A tcp/22 -a 10.9.0.2 -U 'An Other'", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/22 -a 10.9.0.2 -m md5", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/22 -a 10.9.0.2 -m sha512", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/22 -a 10.9.0.2 -S 4444", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/22 -a 10.9.0.2 -P udpraw -Q 198.51.100.7", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/22 -a 10.9.0.2 --time-offset-plus 100S", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
			{line: "-A tcp/8443 -a 10.9.0.2 -N 10.9.0.3:443", opens: "10.9.0.2: ssh: open for 1m0s: 8443:tcp -> 10.9.0.3:443"},
			{line: "-A tcp/8443 -a 10.9.0.2 -N 10.9.0.3:443 -f 20", opens: "10.9.0.2: ssh: open for 20s: 8443:tcp -> 10.9.0.3:443"},
			{line: "-A tcp/8443 -a 10.9.0.2 -N 10.9.0.9:443", refused: "it asks for 8443:tcp -> 10.9.0.9,443, which Open_Ports has not"},
			{line: "-A tcp/22 -a 10.9.0.2 --nat-local --nat-port 40022 -D 10.9.0.1", refused: "it is of type 5 (local NAT), and 1 to 4 alone are known"},
			{line: "-a 10.9.0.2 -C 'id > /tmp/never'", refused: "it is a command, and none is ever run"},
			{line: "-A tcp/23 -a 10.9.0.2", refused: "it asks for 23:tcp, which Open_Ports has not"},
			{line: "-A tcp/22,tcp/23 -a 10.9.0.2", refused: "it asks for 23:tcp, which Open_Ports has not"},
			{line: "-A tcp/22 -a 10.9.0.2 --time-offset-plus 300S", refused: " s from this host's, and 120 are allowed: one of the two clocks is wrong, or it was kept back"},
			{line: "-A tcp/22 -a 10.9.0.2 --time-offset-minus 5M", refused: "its time differs by -30"},
			{line: "-A tcp/22 -a 10.9.0.2 -M CFB", refused: "its key is another one than this line's, or it is not AES in CBC mode"},
			{line: "-A tcp/22 -a 10.9.0.2 -M CTR", refused: "its key is another one than this line's, or it is not AES in CBC mode"},
			{line: "-A tcp/22 -a 10.9.0.2 --hmac-digest-type SHA512"},
			{line: "-A tcp/22 -a 10.9.0.2 --hmac-digest-type MD5"},
			{line: "-A tcp/22 -a 10.9.0.2 -p 62202"},
			{line: "-A tcp/22 -a 10.9.0.2", opens: "10.9.0.2: ssh: open for 1m0s: 22:tcp"},
		} {
			switch {
			case tt.opens != "":
				was := strings.Count(d.logged(), tt.opens)
				n.fwknop(0, tt.line)
				n.eventually(tt.line+" opens: "+tt.opens, func() bool { return strings.Count(d.logged(), tt.opens) > was })
				if opened++; strings.HasSuffix(tt.opens, ": 22:tcp") && strings.HasPrefix(tt.opens, "10.9.0.2") {
					n.awaitPort(0, hostSSH, reached)
					n.wantPort(1, hostSSH, hidden)
				}
				closed := strings.Count(d.logged(), "ssh: closed\n")
				if out, status := n.tool("close", "-s", n.socket, "--all"); status != 0 {
					t.Fatalf("close: %s", out)
				}
				n.eventually("the closing", func() bool { return strings.Count(d.logged(), "ssh: closed\n") > closed })
			case tt.refused != "":
				was := strings.Count(d.logged(), tt.refused)
				n.eventually(tt.line+" is refused: "+tt.refused, func() bool { // a line a second
					n.fwknop(0, tt.line)
					return strings.Count(d.logged(), tt.refused) > was
				})
			default:
				n.fwknop(0, tt.line)
			}
		}
		if got := strings.Count(d.logged(), "OPEN SESAME"); got != opened {
			n.Errorf("%d packets have opened it, want %d", got, opened)
		}
		n.wantPort(0, hostSSH, hidden)
		for _, secret := range []string{aliceSecret, aliceAuth} {
			if strings.Contains(d.logged(), secret[:20]) {
				n.Error("the log has a key in it")
			}
		}
		if _, err := os.Stat("/tmp/never"); err == nil {
			n.Error("a command was run")
		}
		d.stop()
	})
}

// capturedKey is a packet of fwknop's client as it is on the wire, sent by hand.
func (n *nativeTest) capturedKey() string {
	n.Helper()
	file := filepath.Join(n.TempDir(), "packet")
	n.fwknop(0, "-T -B "+file+" -A tcp/22 -a 10.9.0.2")
	text, err := os.ReadFile(file)
	n.must(err)
	return strings.TrimSpace(string(text))
}

func (n *nativeTest) sendKey(packet string) {
	n.Helper()
	n.from(0, fmt.Sprintf("printf %%s '%s' > /dev/udp/%s/%d", packet, hostAddr, defaultKeyPort))
}

// TestKeyReplayed sends packets again: at once, after a restart, after a crash at each point where the packet is noted, and
// changed a little. Each opens once at most.
func TestKeyReplayed(t *testing.T) {
	keyHosts(t, strings.Replace(strings.Replace(keyDoor, "60", "1", 1), ", 8443 -> 10.9.0.3:443", "", 1), func(n *nativeTest) {
		refused := func(d *running, packet string) {
			n.Helper()
			was := strings.Count(d.logged(), "the packet is used")
			n.eventually("the refusal", func() bool { n.sendKey(packet); return strings.Count(d.logged(), "the packet is used") > was })
			if strings.Contains(d.logged(), "open for") {
				n.Error("it opens again")
			}
		}
		packets := []string{}
		for _, point := range []string{"", "packet begins:1", "packet written:1", "work begins:1", "work ended:1"} {
			packet := n.capturedKey()
			d := n.start(point)
			d.await("starting up")
			for _, other := range []string{packet + "=", packet + "AAAA", packet[:len(packet)-1] + "A", "A" + packet[1:], keyPrefix + packet} {
				n.sendKey(other)
			}
			n.sendKey(packet)
			n.eventually("the opening, or the crash", func() bool {
				return strings.Contains(d.logged(), "ssh: closed") || len(d.ended) > 0
			})
			if got := strings.Count(d.logged(), "OPEN SESAME"); got > 1 {
				n.Errorf("%s: %d packets have opened it", point, got)
			}
			if point == "" {
				n.sendKey(packet)
				d.await("the packet is used")
			}
			_ = d.cmd.Process.Signal(unix.SIGKILL)
			<-d.ended
			d = n.serve()
			if point == "packet begins:1" { // nothing was open
				n.sendKey(packet)
				d.await("open for")
				d.await("ssh: closed")
				d.stop()
				d = n.serve()
			}
			for _, p := range append(packets, packet) {
				refused(d, p)
			}
			packets = append(packets, packet)
			n.wantPort(0, hostSSH, hidden)
			d.stop()
		}
		n.flushed()
	})
}

// TestKeyCommand has a command know who has come, and a daemon that cannot write opens nothing.
func TestKeyCommand(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], keyDoor)
	n.config = strings.Replace(n.config, "[ssh]", "[ssh]\n\tstart_command = echo user $KNOCK_USER at $KNOCK_DOOR", 1)
	d := n.serve()
	n.fwknop(0, "-A tcp/22 -a 10.9.0.2")
	d.await("command output: user alice at ssh")
	d.stop()
	n.must(os.RemoveAll(n.dir + "/state/packets"))
	n.must(os.Mkdir(n.dir+"/state/packets", 0o700))
	d = n.serve()
	n.fwknop(0, "-A tcp/22 -a 10.9.0.2")
	d.await("ssh: not opened: reading which packets are used: ")
	n.wantPort(0, hostSSH, hidden)
	d.stop()
}

// keyProfile is alice's at a client: the host is called home, and home6 over IPv6.
func keyProfile(t *testing.T, more string) *person {
	key := "key = " + aliceSecret + " " + aliceAuth + "\nopen = 22\n" + more
	return newPerson(t, "[home]\nhost = "+hostAddr+"\n"+key+"[home6]\nhost = "+hostAddr6+"\n"+key+
		"[wrong]\nhost = "+hostAddr+"\n"+strings.Replace(key, "key = FJ", "key = FK", 1)+"[stranger]\nhost = "+hostAddr+"\n"+strings.Replace(key, " pPc", " qPc", 1))
}

// asAlice runs the client at client 0.
func (w *world) asAlice(h *person, input string, args ...string) output {
	w.Helper()
	cmd := h.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	w.must(w.clients[0].start(cmd))
	return output{exitStatus(cmd.Wait()), stdout.String(), stderr.String()}
}

// TestKeyKnock opens doors with our own client, over both families.
func TestKeyKnock(t *testing.T) {
	keyHosts(t, strings.Replace(keyDoor, ", 8443 -> 10.9.0.3:443", "", 1)+"[options]\nkey_port = 7777\n", func(n *nativeTest) {
		n.config = strings.Replace(n.config, "[options]\nkey_port = 7777\n[options]", "[options]\nkey_port = 7777\n", 1)
		d, h := n.serve(), keyProfile(t, "key_port = 7777\n")
		for _, tt := range []struct{ args, input, want string }{
			{"home -w 22", "", hostAddr + " port 22: open in "},
			{"home6 -w 22", "", hostAddr6 + " port 22: open in "},
			{"home -w 22 -q -- echo done", "", "done\n"},
			{"home6 -q -W [fd00:9::1]:22", "hello", "hello"},
		} {
			if got := n.asAlice(h, tt.input, strings.Fields(tt.args)...); got.status != 0 || !strings.HasPrefix(got.stdout+got.stderr, tt.want) {
				t.Errorf("%s: got %+v, want %q", tt.args, got, tt.want)
			}
			if out, status := n.tool("close", "-s", n.socket, "--all"); status != 0 {
				t.Fatalf("close after %s: %s", tt.args, out)
			}
			n.eventually("the closing", func() bool {
				return strings.Count(d.logged(), ": open for") == strings.Count(d.logged(), "ssh: closed\n")
			})
		}
		for _, name := range []string{"wrong", "stranger"} {
			got := n.asAlice(h, "", name, "-w", "22", "--timeout", "0.2", "--retries", "1")
			if got.status != 3 || !strings.Contains(got.stderr, "stayed shut: check the keys, the ports and both clocks, which may differ by 120 s: the daemon's log says why it refused a packet") {
				t.Errorf("%s: got %+v", name, got)
			}
		}
		d.await("packet by the key of alice refused: its key is another one than this line's, or it is not AES in CBC mode")
		d.stop()
		n.flushed()
	})
}

// TestKeyFwknopd opens a door of Debian's fwknopd with our client.
func TestKeyFwknopd(t *testing.T) {
	w := newWorld(t, 2)
	w.hide()
	dir := t.TempDir()
	w.must(os.WriteFile(dir+"/fwknopd.conf", []byte("PCAP_INTF eth0;\n"), 0o600))
	w.must(os.WriteFile(dir+"/access.conf", []byte("SOURCE ANY\nOPEN_PORTS tcp/22\nKEY_BASE64 "+aliceSecret+"\nHMAC_KEY_BASE64 "+aliceAuth+"\nFW_ACCESS_TIMEOUT 30\n"), 0o600))
	log, err := os.Create(dir + "/log")
	w.must(err)
	defer log.Close()
	cmd := exec.Command("fwknopd", "-f", "-c", dir+"/fwknopd.conf", "-a", dir+"/access.conf", "-r", dir, "-p", dir+"/pid", "-d", dir+"/digest.cache")
	cmd.Stdout, cmd.Stderr = log, log
	w.must(w.host.start(cmd))
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	said := func() string {
		text, _ := os.ReadFile(dir + "/log")
		return string(text)
	}
	w.eventually("fwknopd", func() bool { return strings.Contains(said(), "Starting fwknopd main event loop") })
	h := keyProfile(t, "")
	w.wantPort(0, hostSSH, hidden)
	if got := w.asAlice(h, "", "home", "-w", "22"); got.status != 0 {
		t.Errorf("got %+v\nfwknopd: %s", got, said())
	}
	w.wantPort(1, hostSSH, hidden)
}

// junkKeys are frames with packets of the right shape, that no key has made.
func (x *wire) junkKeys(n int) (packets [][]byte) {
	stranger := &Key{Secret: []byte("x"), Auth: []byte("x")}
	for i := range n {
		data := stranger.seal(clientPackets[0].plain, [8]byte{byte(i), byte(i >> 8)})
		p := testPacket{from: "10.9.0.3", to: hostAddr, fromPort: uint16(1024 + i), knock: Knock{defaultKeyPort, udp}, data: len(data)}
		b := p.bytes()
		copy(b[len(b)-len(data):], data)
		packets = append(packets, b)
	}
	return packets
}

// TestKeyFlood has a stranger send packets of the right shape as fast as he can: of three real ones, one opens the door, and
// sequences are knocked as ever.
func TestKeyFlood(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], strings.Replace(keyDoor, ", 8443 -> 10.9.0.3:443", "", 1)+"[web]\n\tsequence = 7000,9000:udp,8000\n\topen_ports = 80\n\tcmd_timeout = 60\n")
	d := n.serve()
	x, stop, ended := n.wire(1), make(chan struct{}), make(chan int)
	packets := x.junkKeys(500)
	go func() {
		for sent := 0; ; sent++ {
			select {
			case <-stop:
				ended <- sent
				return
			default:
				x.send(packets[sent%len(packets)])
			}
		}
	}()
	began := time.Now()
	for range 3 {
		n.fwknop(0, "-A tcp/22 -a 10.9.0.2")
	}
	d.await("ssh: open for")
	n.eventually("the sequence", func() bool {
		n.knock(0, "-d20", hostAddr, "7000", "9000:udp", "8000")
		return strings.Contains(d.logged(), "web: open for")
	})
	took := time.Since(began)
	close(stop)
	sent := <-ended
	t.Logf("%.0f packets a second, for %v", float64(sent)/took.Seconds(), took)
	if strings.Contains(d.logged(), "10.9.0.3") {
		t.Error("the log has the stranger's packets")
	}
	d.stop()
}

// TestKeyKnockReload has a key come with a reload, and go with another one: the captures stay, whose slots are short.
func TestKeyKnockReload(t *testing.T) {
	n := newNativeTest(t, firewallHosts[0], strings.Replace(nativeDoor, "%d", "60", 1))
	d := n.serve()
	without, _ := os.ReadFile(d.config)
	n.fwknop(0, "-A tcp/22 -a 10.9.0.2")
	reload := func(config string) {
		was := strings.Count(d.logged(), "re-reading config file")
		d.write(config)
		d.signal(unix.SIGHUP)
		n.eventually("the reload", func() bool { return strings.Count(d.logged(), "re-reading config file") > was })
	}
	reload(strings.Replace(string(without), "[ssh]\n", "[ssh]\n"+keyLine, 1))
	n.eventually("the key opens the door", func() bool {
		n.fwknop(0, "-A tcp/22 -a 10.9.0.2")
		return strings.Contains(d.logged(), "ssh: open for 1m0s: 22:tcp")
	})
	n.awaitPort(0, hostSSH, reached)
	if out, status := n.tool("close", "-s", n.socket, "--all"); status != 0 {
		t.Fatal(out)
	}
	d.await("ssh: closed\n")
	reload(strings.Replace(string(without), "7000,9000,8000", "7001,9001,8001", 1))
	opened := strings.Count(d.logged(), "OPEN SESAME by the key")
	knock := func(i int, source string) { // it opens once the reload is in force, and all that came before was looked at
		n.eventually("the new sequence", func() bool {
			n.knock(i, "-d20", hostAddr, "7001", "9001", "8001")
			return strings.Contains(d.logged(), source+": ssh: OPEN SESAME\n")
		})
	}
	knock(0, "10.9.0.2")
	n.fwknop(0, "-A tcp/22 -a 10.9.0.3")
	knock(1, "10.9.0.3")
	if got := strings.Count(d.logged(), "OPEN SESAME by the key"); got != opened {
		t.Error("a key opens that is not there any more")
	}
	d.stop()
	n.flushed()
}
