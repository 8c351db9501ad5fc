//go:build linux && !pure

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// proxyThinks is how long the proxy looks at a connection before it goes on with it: as long as a mobile network may take.
const proxyThinks = 300 * time.Millisecond

// behindProxy adds a phone, client 1, which reaches the host through client 0 as through the gateway of a mobile network:
// a transparent proxy there answers its TCP connections, and the host sees the gateway's address.
func (w *world) behindProxy() {
	w.Helper()
	gateway, phone := w.clients[0], w.netns()
	w.must(phone.link("eth0", gateway, "phone0"))
	w.must(phone.run("ip", "address", "add", "10.8.0.2/24", "dev", "eth0"))
	w.must(gateway.run("ip", "address", "add", "10.8.0.1/24", "dev", "phone0"))
	w.must(phone.run("ip", "route", "add", "default", "via", "10.8.0.1"))
	w.must(gateway.run("sysctl", "-q", "net.ipv4.ip_forward=1"))
	w.must(gateway.run("iptables", "-w", "-t", "nat", "-A", "PREROUTING", "-i", "phone0", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "3128"))
	w.must(gateway.run("iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE"))
	w.must(gateway.do(func() error {
		l, err := net.Listen("tcp4", "10.8.0.1:3128")
		if err != nil {
			return err
		}
		w.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go goOn(gateway, conn.(*net.TCPConn))
			}
		}()
		return nil
	}))
	w.clients = append(w.clients, phone)
}

// goOn is what the proxy does with a connection: if the phone still wants it, it makes one of its own to where the phone's
// was to go, and joins the two.
func goOn(gateway *Netns, conn *net.TCPConn) {
	defer conn.Close()
	said := make([]byte, 1<<10)
	_ = conn.SetReadDeadline(time.Now().Add(proxyThinks))
	n, err := conn.Read(said)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return // the phone is gone
	}
	time.Sleep(proxyThinks)
	_ = conn.SetReadDeadline(time.Time{})
	to, err := wasTo(conn)
	if err != nil {
		return
	}
	var onward net.Conn
	err = gateway.do(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		onward, err = new(net.Dialer).DialContext(ctx, "tcp4", to.String())
		return err
	})
	if err != nil {
		return
	}
	defer onward.Close()
	_, _ = onward.Write(said[:n])
	go func() {
		_, _ = io.Copy(onward, conn)
		_ = onward.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(conn, onward)
}

// wasTo is where a connection was to go before the firewall redirected it (SO_ORIGINAL_DST of netfilter_ipv4.h).
func wasTo(conn *net.TCPConn) (to netip.AddrPort, err error) {
	const originalDst = 80
	raw, err := conn.SyscallConn()
	if err != nil {
		return to, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		// It is a sockaddr_in, as long as the first part of an IPv6Mreq.
		var address *unix.IPv6Mreq
		if address, err = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, originalDst); err == nil {
			b := address.Multiaddr
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
		}
	})
	return to, errors.Join(err, controlErr)
}

// TestKnockThroughProxy has the knocks of a phone get through, although its proxy answers each of them itself, and goes
// on with those connections only that are still there. The client sees every port open, and says what that may mean.
func TestKnockThroughProxy(t *testing.T) {
	w := newWorld(t, 1)
	w.behindProxy()
	w.listen("22")
	d := w.serve("[slow]\n\tsequence = 7000,8000,9000\n\tcommand = true\n" +
		"[seen]\n\tsequence = 17000,18000,19000\n\tcommand = true\n" +
		"[joined]\n\tsequence = 27000,28000\n\topen_ports = 22\n\thide = yes\n\tcmd_timeout = 600\n")
	// On a busy machine the proxy may mix up knocks: they are sent again then.
	opens := func(door string, knock func()) {
		t.Helper()
		for range 5 {
			knock()
			for range 20 {
				if strings.Contains(d.logged(), "10.9.0.2: "+door+": OPEN SESAME") {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		t.Errorf("the door %s did not open: %s", door, d.logged())
	}
	opens("slow", func() { w.knock(1, "-d", "500", hostAddr, "7000", "8000", "9000") })
	opens("seen", func() {
		w.wantCall(w.call(1, "-d", "200", "-w", "22", hostAddr, "17000", "18000", "19000"), 0,
			`10\.9\.0\.1 port 22: open, as it was before the knock: still open, or a proxy on the way\n`, "")
	})
	// The proxy may come through before the firewall has let its address in, and then it cannot be told from a closed port.
	opens("joined", func() { w.knock(1, "-d", "200", hostAddr, "27000", "28000") })
	d.await("10.9.0.2: joined: open for 10m0s")
	cmd := sesame("sesame", "knock", "-q", "-d", "200", hostAddr, "27000", "28000", "-W", hostAddr+":22")
	cmd.Stdin = strings.NewReader("said and heard")
	w.wantCall(w.callCmd(1, cmd), 0, "said and heard", "")
}
