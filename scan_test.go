package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// scanDoors are sequences of two, three and four knocks that go up, down and anyhow, far from each other and adjacent.
// In a configuration each has 150 ports for itself: the knocks of others around it would end attempts, too.
var scanDoors = []struct {
	name  string
	ports []int
}{
	{"up2", []int{10, 120}}, {"down2", []int{120, 10}}, {"near2", []int{70, 71}},
	{"up3", []int{10, 70, 120}}, {"down3", []int{120, 70, 10}}, {"any3", []int{70, 130, 10}}, {"near3", []int{70, 71, 72}},
	{"up4", []int{10, 50, 80, 140}}, {"down4", []int{140, 90, 50, 10}}, {"any4", []int{70, 10, 140, 100}},
	{"back4", []int{73, 72, 71, 70}}, {"gaps4", []int{70, 73, 76, 79}},
}

const (
	scanFirst, scanLast = 20000, 20000 + 3*12*150 - 1
	scanReal            = 19000 // and 19500: the knocks of a door that is really knocked on
)

// scanConfig is a configuration with each door over TCP, over TCP with TCPFlags, over UDP, and over both in turn. All
// open the firewall.
func scanConfig(more string) string {
	var s strings.Builder
	door := func(name, sequence string) {
		fmt.Fprintf(&s, "[%s]\n sequence = %s\n command = iptables -w -I INPUT -s %%IP%% -p tcp --dport 22 -j ACCEPT\n %s\n", name, sequence, more)
	}
	door("real", fmt.Sprintf("%d,%d", scanReal, scanReal+500))
	for i, d := range scanDoors {
		sequence := func(first int, protocols ...string) string {
			var knocks []string
			for n, port := range d.ports {
				knocks = append(knocks, fmt.Sprint(first+i*150+port, protocols[n%len(protocols)]))
			}
			return strings.Join(knocks, ",")
		}
		door(d.name+" tcp", sequence(scanFirst, ""))
		door(d.name+" udp", sequence(scanFirst, ":udp"))
		door(d.name+" both", sequence(scanFirst+12*150, "", ":udp"))
		door(d.name+" syn", sequence(scanFirst+2*12*150, "")+"\n tcpflags = syn")
	}
	return s.String()
}

// scanWorld has clients with a hundred addresses each: 10.9.I.1 to 10.9.I.100 and fd00:9::I:1 to fd00:9::I:100 for
// client I-2. The host's policy is to drop, so that a scan need not wait for answers at a bounded rate.
func scanWorld(t *testing.T, clients int) *world {
	w := newWorld(t, clients)
	for i, n := range append([]*Netns{w.host}, w.clients...) {
		w.must(n.run("ip", "route", "add", "10.9.0.0/16", "dev", "eth0"))
		if i > 0 {
			w.must(n.run("sh", "-ec", fmt.Sprintf("i=1; while [ $i -le 100 ]; do echo address add 10.9.%d.$i/32 dev eth0; "+
				"echo address add fd00:9::%d:$i/128 dev eth0 nodad; i=$((i+1)); done | ip -batch -", i+1, i+1)))
		}
	}
	w.must(w.host.run("iptables", "-w", "-A", "INPUT", "-p", "udp", "-j", "DROP"))
	w.must(w.host.run("ip6tables", "-w", "-A", "INPUT", "-p", "udp", "-j", "DROP"))
	return w
}

// knocker knocks again and again while something goes on.
type knocker struct {
	w     *world
	d     *running
	i     int // the client that knocks
	times int
}

// during knocks on the door real as long as cmd runs, at least once, and wants to open it each time.
func (k *knocker) during(cmd *exec.Cmd) {
	w := k.w
	w.Helper()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for pause, before := 100*time.Millisecond, k.times; ; pause = 300 * time.Millisecond {
		select {
		case err := <-ended:
			w.must(err)
			if k.times == before {
				w.Errorf("%v: it ended before anybody knocked", cmd.Args)
			}
			return
		case <-time.After(pause):
			k.times++
			w.knock(k.i, "-d5", hostAddr, fmt.Sprint(scanReal), fmt.Sprint(scanReal+500))
			w.eventually("the opening by a real knock", func() bool { return len(k.d.opened(fmt.Sprintf("10.9.0.%d", k.i+2))) == k.times })
		}
	}
}

// opened lists the doors that a source has opened.
func (r *running) opened(from string) (doors []string) {
	for line := range strings.Lines(r.logged()) {
		if _, text, ok := strings.Cut(line, "] "+from+": "); ok {
			if door, ok := strings.CutSuffix(text, ": OPEN SESAME\n"); ok {
				doors = append(doors, door)
			}
		}
	}
	return doors
}

// TestScans runs nmap's scans, each from an address of its own, over all ports around the knocks: nothing opens, and who
// knocks meanwhile gets in.
func TestScans(t *testing.T) {
	w := scanWorld(t, 3)
	d := w.serve(scanConfig(""))
	scan := func(client, n int, line string) (cmd *exec.Cmd, from string) {
		from = fmt.Sprintf("10.9.%d.%d", client+2, n+1)
		to := hostAddr
		if strings.HasPrefix(line, "-6") {
			from, to = fmt.Sprintf("fd00:9::%d:%d", client+2, n+1), hostAddr6
		}
		if strings.Contains(line, "-sT") { // it takes the address that the kernel takes
			w.must(w.clients[client].run("ip", "route", "replace", to, "dev", "eth0", "src", from))
		} else {
			line = "-e eth0 -S " + from + " " + line
		}
		cmd = exec.Command("nmap", append(strings.Fields(line), "-n", "-Pn", "--send-eth", to)...)
		w.must(w.clients[client].start(cmd))
		return cmd, from
	}
	// It takes 0.4 s for each port, and so it looks at those around one door alone.
	slow, slowFrom := scan(2, 0, "-sS -r -T2 -p 20960-20980")
	knocks := knocker{w: w, d: d, i: 1}
	var sources []string
	for n, line := range []string{
		"-sS -r -T3",
		"-sS -r -T4 --max-retries 1",
		"-sS -r -T5",
		"-sS -T3",
		"-sS -T5",
		"-sT -r",
		"-sT",
		"-sF -r",
		"-sX -r",
		"-sN -r",
		"-sA -r",
		"-sM -r",
		"-sS -r --scanflags SYNACK",
		"-sS -r --scanflags SYNRST",
		"-sU -r",
		"-sU --max-retries 1",
		"-sSU -r",
		"-6 -sS -r",
		"-6 -sU -r",
	} {
		ports := fmt.Sprintf("%d-%d", scanFirst, scanLast)
		if strings.Contains(line, "-sSU") {
			ports = "T:" + ports + ",U:" + ports
		}
		retries := " --max-retries 0"
		if strings.Contains(line, "retries") {
			retries = ""
		}
		began := time.Now()
		cmd, from := scan(0, n, line+retries+" --min-rate 5000 --max-rate 8000 -p "+ports)
		knocks.during(cmd)
		sources = append(sources, from)
		t.Logf("%v: nmap %s", time.Since(began).Round(10*time.Millisecond), line)
		for _, door := range d.opened(from) {
			// A scan in random order opens a door of two knocks about once in ten thousand times.
			if strings.Contains(line, " -r") || !strings.Contains(door, "2 ") {
				t.Errorf("nmap %s opened %s", line, door)
			}
		}
	}
	// And all ports there are, as fast as can be sent.
	x := w.wire(0)
	every := make([]uint16, 65535)
	for i := range every {
		every[i] = uint16(i + 1)
	}
	for n, order := range []func(){func() {}, func() { slices.Reverse(every) }, func() { rand.Shuffle(len(every), func(i, j int) { every[i], every[j] = every[j], every[i] }) }} {
		order()
		p := fromClient4
		p.from = fmt.Sprintf("10.9.2.%d", 90+n)
		sources = append(sources, p.from)
		for _, p.knock.Proto = range []Protocol{tcp, udp} {
			for _, p.knock.Port = range every {
				p.seq++
				x.send(p.bytes())
			}
		}
		if opened := d.opened(p.from); n < 2 && len(opened) > 0 {
			t.Errorf("the scan of all ports opened %v", opened)
		}
	}
	w.must(slow.Wait())
	if opened := d.opened(slowFrom); len(opened) > 0 {
		t.Errorf("the slow scan opened %v", opened)
	}
	w.eventually("the end of the commands", func() bool {
		return strings.Count(d.logged(), "command took") == strings.Count(d.logged(), "OPEN SESAME")
	})
	if w.rules("-s 10.9.0.3/32 ") == 0 {
		t.Error("the firewall has no rule for who knocked")
	}
	for _, from := range append(sources, slowFrom) {
		if n := w.rules("-s " + from + "/"); n > 0 {
			t.Errorf("the firewall has %d rules for %s", n, from)
		}
	}
	d.stop()
}

// TestScanOpensWithoutDecoys runs a scan that opens all doors that go up where there are no decoys, and knockd's.
func TestScanOpensWithoutDecoys(t *testing.T) {
	w := scanWorld(t, 1)
	d := w.serve(scanConfig("decoys = no"))
	config, log := t.TempDir()+"/knockd.conf", t.TempDir()+"/log"
	w.must(os.WriteFile(config, []byte("[options]\n logfile = "+log+"\n[theirs]\n sequence = 20010,20070,20120\n command = true\n"), 0o600))
	theirs := w.daemon(exec.Command("/usr/sbin/knockd", "-i", "eth0", "-c", config), config, log)
	theirs.await("starting up")
	w.from(0, fmt.Sprintf("nmap -sS -r -n -Pn --send-eth --max-rate 8000 --max-retries 0 -p %d-%d %s", scanFirst, scanLast, hostAddr))
	theirs.await("10.9.0.2: theirs: OPEN SESAME")
	var want []string
	for _, d := range scanDoors {
		if slices.IsSorted(d.ports) {
			want = append(want, d.name+" syn", d.name+" tcp")
		}
	}
	slices.Sort(want)
	w.eventually("all openings", func() bool { return len(d.opened("10.9.0.2")) >= len(want) })
	if got := slices.Sorted(slices.Values(d.opened("10.9.0.2"))); !slices.Equal(got, want) {
		t.Errorf("opened %q, want %q", got, want)
	}
	d.stop()
}
