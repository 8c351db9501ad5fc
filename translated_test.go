//go:build linux && !pure

package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// container is a host behind w.host, with 172.31.0.2 and fd00:31::2, that echoes what comes to port 80.
func (w *world) container() {
	w.Helper()
	n := w.netns()
	w.must(w.host.link("near", n, "eth0"))
	w.must(w.host.run("sh", "-ec", `ip link set near name cont0; ip link set cont0 up; ip address add 172.31.0.1/24 dev cont0
ip address add fd00:31::1/64 dev cont0 nodad; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding`))
	w.must(n.run("sh", "-ec", `ip address add 172.31.0.2/24 dev eth0; ip address add fd00:31::2/64 dev eth0 nodad
ip route add default via 172.31.0.1; ip route add default via fd00:31::1`))
	w.echo(n, 80)
}

// echo has a namespace echo what comes to a port by TCP and UDP.
func (w *world) echo(n *Netns, port int) {
	w.Helper()
	before := w.host
	w.host = n
	w.listen(fmt.Sprint(port))
	w.host = before
	w.must(n.do(func() error {
		conn, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		w.Cleanup(func() { _ = conn.Close() })
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := conn.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo(b[:n], from)
			}
		}()
		return nil
	}))
}

// translatingHosts send 7010 and 7020 by TCP and 8010 and 8020 by UDP elsewhere.
var translatingHosts = []struct{ name, rules string }{
	{"nft dnat", `nft -f - <<'END'
table inet ports {
	chain in {
		type nat hook prerouting priority dstnat;
		tcp dport { 7010, 7020 } dnat ip to 172.31.0.2:80
		tcp dport { 7010, 7020 } dnat ip6 to [fd00:31::2]:80
		udp dport { 8010, 8020 } dnat ip to 172.31.0.2:80
		udp dport { 8010, 8020 } dnat ip6 to [fd00:31::2]:80
	}
}
END`},
	{"iptables DNAT", `for p in "tcp --dport 7010" "tcp --dport 7020" "udp --dport 8010" "udp --dport 8020"; do
	iptables -w -t nat -A PREROUTING -p $p -j DNAT --to-destination 172.31.0.2:80
	ip6tables -w -t nat -A PREROUTING -p $p -j DNAT --to-destination [fd00:31::2]:80
done`},
	{"iptables-legacy REDIRECT", `for t in iptables-legacy ip6tables-legacy; do
	for p in "tcp --dport 7010" "tcp --dport 7020" "udp --dport 8010" "udp --dport 8020"; do $t -w -t nat -A PREROUTING -p $p -j REDIRECT --to-ports 81; done
done`},
}

// TestTranslatedPorts has a client use ports near the knocks that nat rules translate, and then knock.
func TestTranslatedPorts(t *testing.T) {
	for _, host := range translatingHosts {
		t.Run(host.name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.container()
			w.echo(w.host, 81)
			w.must(w.host.run("sh", "-ec", host.rules))
			d := w.serve("[a]\n sequence = 7000,8000:udp,9000\n command = echo opened for %IP%\n")
			for _, addr := range []string{hostAddr, "[" + hostAddr6 + "]"} {
				for _, port := range []string{"7010", "7020"} {
					w.awaitPort(0, addr+":"+port, reached)
				}
				for _, port := range []string{"8010", "8020"} {
					w.must(w.clients[0].do(func() error {
						conn, err := net.Dial("udp", addr+":"+port)
						if err != nil {
							return err
						}
						defer conn.Close()
						_, _ = conn.Write([]byte("x"))
						_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
						_, err = conn.Read(make([]byte, 1))
						return err
					}))
				}
			}
			w.knock(0, "-d20", hostAddr, "7000", "8000:udp", "9000")
			d.await("opened for 10.9.0.2")
			w.knock(0, "-d20", hostAddr6, "7000", "8000:udp", "9000")
			d.await("opened for fd00:9::2")
			if strings.Contains(d.logged(), "barred") {
				t.Error("a client of the translated ports was barred")
			}
			w.knock(1, hostAddr, "7011", "7012")
			d.await("10.9.0.3: a: barred for ")
			d.stop()
		})
	}
}

// TestTranslations asks about real connections: which ports are translated, and how often the kernel is asked.
func TestTranslations(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("22")
	w.must(w.host.run("nft", `add table ip x; add chain ip x in { type nat hook prerouting priority -100; }
add rule ip x in tcp dport 7010 redirect to :22
add chain ip x out { type nat hook output priority -100; }; add rule ip x out tcp dport 23 dnat to `+hostAddr+`:22`))
	at := func(n *Netns, to string) (conn net.Conn, hit Hit) {
		t.Helper()
		w.must(n.do(func() (err error) {
			conn, err = net.Dial("tcp", to)
			return err
		}))
		t.Cleanup(func() { _ = conn.Close() })
		return conn, hitBetween(conn.LocalAddr(), conn.RemoteAddr())
	}
	_, redirected := at(w.clients[0], hostAddr+":7010")
	_, plain := at(w.clients[0], hostAddr+":22")
	conn, _ := at(w.host, hostAddr+":23") // an answer to it comes from where nat has sent it
	answer := hitBetween(conn.RemoteAddr(), conn.LocalAddr())
	answer.FromPort = 22
	w.must(w.host.do(func() error {
		ports := newTranslations()
		defer ports.close()
		for name, tt := range map[string]struct {
			hit  Hit
			want bool
		}{"redirected": {redirected, true}, "not translated": {plain, false}, "an answer": {answer, false}} {
			if got := ports.finds(0, &tt.hit); got != tt.want || ports.off {
				t.Errorf("%s: got %v, want %v (off: %v)", name, got, tt.want, ports.off)
			}
		}
		for port := range uint16(2 * maxTranslated) {
			hit := plain
			hit.Knock.Port = 7100 + port
			ports.finds(0, &hit)
		}
		if got := len(ports.asked); got != maxTranslated {
			t.Errorf("asked about %d ports in a second, want %d", got, maxTranslated)
		}
		_ = unix.Close(ports.fd) // who asks now gets an error
		if ports.finds(translatedEvery-1, &plain); ports.off {
			t.Error("asked twice in a second about a port")
		}
		if ports.finds(translatedEvery, &plain); !ports.off {
			t.Error("not asked about a port a second later")
		}
		ports.fd = -1
		if ports.finds(2*translatedEvery, &redirected) {
			t.Error("asked although the kernel has refused it")
		}
		if ports.forget(); len(ports.found()) > 0 || !ports.finds(0, &redirected) {
			t.Error("not asked anew")
		}
		return nil
	}))
}

// hitBetween is a hit of a connection.
func hitBetween(from, to net.Addr) Hit {
	source, dest := from.(*net.TCPAddr).AddrPort(), to.(*net.TCPAddr).AddrPort()
	return Hit{From: source.Addr().As16(), To: dest.Addr().As16(), FromPort: source.Port(), Knock: Knock{dest.Port(), tcp}}
}
