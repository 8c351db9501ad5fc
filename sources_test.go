//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestForgedSource has a container, on a link of its own, send a sequence from all kinds of addresses. A door opens for
// those that rp_filter lets the host take packets from.
func TestForgedSource(t *testing.T) {
	const (
		own, others, nobodys = "172.31.0.2", "10.9.0.2", "203.0.113.7"
		elsewhere            = "02:00:00:00:00:99"
		veth                 = "ip link set near name cont0; ip link set cont0 up; ip address add 172.31.0.1/16 dev cont0"
		bridge               = "ip link add cont0 address 02:00:00:00:00:01 type bridge; ip link set near master cont0 up; " +
			"ip link set cont0 up; ip address add 172.31.0.1/16 dev cont0; " +
			"for f in /proc/sys/net/bridge/bridge-nf-call-ip*; do [ ! -e $f ] || echo 0 > $f; done; " + // as in newWorld
			"until bridge link show dev near | grep -q 'state forwarding'; do sleep 0.05; done"
	)
	type packet struct {
		from  string
		to    string // hardware address: "" is the link's, that of cont0
		opens bool
	}
	for _, tt := range []struct {
		name, setUp, filter, listen string
		packets                     []packet
	}{
		{"strict", veth, "1", "any", []packet{
			{others, "", false}, {nobodys, "", false}, {hostAddr, "", false}, {"172.31.0.3", elsewhere, false}, {own, "", true},
			{"fd00:9::2", "", true},
		}},
		{"strict, by auto", veth + "; ip route add default via 172.31.0.2", "1", "auto", []packet{{others, "", false}, {nobodys, "", true}}},
		{"loose", veth, "2", "any", []packet{{others, "", true}, {nobodys, "", false}, {own, "", true}}},
		{"off", veth, "0", "any", []packet{{others, "", true}, {nobodys, "", true}, {own, "", true}}},
		{"a bridge", bridge, "1", "any", []packet{{others, "", false}, {"172.31.0.3", elsewhere, false}, {own, "", true}}},
		{"a bridge's port", bridge, "1", "near", []packet{{others, "", false}, {own, "", true}}},
		{"source routing", veth + "; ip rule add from 172.31.0.1 lookup 7; ip route add default dev cont0 table 7", "1", "any",
			[]packet{{others, "", true}, {nobodys, "", true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 0)
			container := w.netns()
			w.must(w.host.link("near", container, "eth0"))
			w.must(w.host.run("sh", "-ec", "ip link set near down; "+tt.setUp+
				"; for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo "+tt.filter+" > $f; done"))
			w.clients = append(w.clients, container)
			x := w.wire(0)
			var near net.HardwareAddr
			w.must(w.host.do(func() error {
				link, err := net.InterfaceByName("cont0")
				if err == nil {
					near = link.HardwareAddr
				}
				return err
			}))
			file, log := filepath.Join(t.TempDir(), "knockd.conf"), filepath.Join(t.TempDir(), "log")
			w.must(os.WriteFile(file, []byte("[a]\n sequence = 7000,8000:udp\n command = echo opened for %IP%\n"), 0o600))
			d := w.daemon(sesame("sesame", "serve", "-c", file, "-i", tt.listen, "-g", log), file, log)
			d.await("starting up, listening on " + tt.listen)
			for i, p := range tt.packets {
				x.hardest = near
				if p.to != "" {
					x.hardest, _ = net.ParseMAC(p.to)
				}
				to := "172.31.0.1"
				if strings.Contains(p.from, ":") {
					to = hostAddr6
				}
				for j, k := range []Knock{{7000, tcp}, {8000, udp}} {
					x.send(testPacket{from: p.from, to: to, fromPort: 40000, flags: flagSYN, knock: k, seq: uint32(1000*i + j)}.bytes())
				}
				switch line := "opened for " + p.from; {
				case p.opens:
					d.await(line)
				case p.to == "":
					d.await(p.from + ": a: not opened: the kernel takes no packet from this address on this interface: ")
				}
				if !p.opens && strings.Contains(d.logged(), fmt.Sprintf("%s: a: OPEN SESAME", p.from)) {
					t.Errorf("a packet from %s opened", p.from)
				}
			}
		})
	}
}

// TestSourcesAsksOnce has many packets of one source in a second: the kernel is asked once.
func TestSourcesAsksOnce(t *testing.T) {
	s, err := openSources()
	if err != nil {
		t.Fatal(err)
	}
	q := sourceOnLink{from: netip.MustParseAddr("192.0.2.1").As4(), to: netip.MustParseAddr("192.0.2.2").As4(), link: 1 << 30}
	if why := s.refuses(0, q); why != unix.ENODEV {
		t.Errorf("of a link that is not there: got %v, want %v", why, unix.ENODEV)
	}
	s.close() // who asks now gets another answer
	for _, tt := range []struct {
		now  time.Duration
		want error
	}{{0, unix.ENODEV}, {sourceMemory - 1, unix.ENODEV}, {sourceMemory, unix.EBADF}} {
		if why := s.refuses(tt.now, q); why == nil || !strings.Contains(why.Error(), tt.want.Error()) {
			t.Errorf("after %v: got %v, want %v", tt.now, why, tt.want)
		}
	}
	for i := range 2 * maxSources {
		q.link = 1<<30 + i
		s.refuses(sourceMemory, q)
	}
	if len(s.known) > maxSources {
		t.Errorf("%d answers are remembered, of at most %d", len(s.known), maxSources)
	}
}

// TestReaderForeign has frames to another hardware address than the link's: they count where a link over it takes them.
func TestReaderForeign(t *testing.T) {
	for name, opens := range map[string]bool{"alone": false, "port": true, "br0": true} {
		grants := make(chan Grant, 1)
		var said bytes.Buffer
		r := newTestReader(new(strings.Builder), grants)
		r.debug = &Log{out: &said}
		r.plan.links = testLinks(name)
		for index, l := range r.plan.links {
			if l.Name == name {
				b := testSYN4.bytes()
				r.receive(&Frame{Bytes: b, Len: len(b), Protocol: unix.ETH_P_IP, Link: index, Foreign: true})
			}
		}
		if opened := len(grants) > 0; opened != opens {
			t.Errorf("%s: opened is %v, want %v: %s", name, opened, opens, said.String())
		}
	}
}
