//go:build linux && !pure

package main

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 0100007F:9C40 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   3: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
`

const udpTable = `   sl  local_address                         remote_address                        st tx_queue
 1234: 00000000000000000000000000000000:CA6C 00000000000000000000000000000000:0000 07 00000000:00000000
 1235: 00000000000000000000000001000000:C001 00000000000000000000000001000000:0035 01 00000000:00000000
 1236: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000
`

func TestReadServed(t *testing.T) {
	for _, test := range []struct {
		name, table string
		proto       Protocol
		state, want string
	}{
		{"TCP ends at the first connection", tcpTable, tcp, "0A", "[22:tcp 7000:tcp]"},
		{"UDP", udpTable, udp, "07", "[51820:udp 53:udp]"},
		{"empty", "", tcp, "0A", "[]"},
		{"cut off", tcpTable[:250], tcp, "0A", "[22:tcp]"},
		{"short lines", "a\n\n0: 1:2 3\n", udp, "07", "[]"},
	} {
		got, err := readServed(iotest.HalfReader(strings.NewReader(test.table)), test.proto, test.state, nil)
		if err != nil || fmt.Sprint(got) != test.want {
			t.Errorf("%s: got %v, %v, want %s", test.name, got, err, test.want)
		}
		again, err := readServed(iotest.OneByteReader(strings.NewReader(test.table)), test.proto, test.state, nil)
		if err != nil || !slices.Equal(again, got) {
			t.Errorf("%s: got %v, %v byte by byte, want %v", test.name, again, err, got)
		}
	}
	if _, err := readServed(strings.NewReader("0: 00000000:XYZ 0:0 0A\n"), tcp, "0A", nil); err == nil {
		t.Error("a port that is no number is taken")
	}
}

// TestServedPorts has real sockets, of this thread's namespace: other tests may have moved the first thread to another one.
func TestServedPorts(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ports, err := servedPorts("/proc/thread-self/net/")
	if err != nil {
		t.Fatal(err)
	}
	k := Knock{uint16(l.Addr().(*net.TCPAddr).Port), tcp}
	if !slices.Contains(ports, k) {
		t.Errorf("%v is missing in %v", k, ports)
	}
	if k := (Knock{uint16(u.LocalAddr().(*net.UDPAddr).Port), udp}); !slices.Contains(ports, k) {
		t.Errorf("%v is missing in %v", k, ports)
	}
	if k := (Knock{uint16(conn.LocalAddr().(*net.TCPAddr).Port), tcp}); slices.Contains(ports, k) {
		t.Errorf("%v listens, and is a connection", k)
	}
	for i := 1; i < len(ports); i++ {
		if a, b := ports[i-1], ports[i]; a.Proto > b.Proto || a.Proto == b.Proto && a.Port >= b.Port {
			t.Errorf("%v stands before %v", a, b)
		}
	}
}
