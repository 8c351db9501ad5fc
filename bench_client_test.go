//go:build linux && bench

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBenchClient measures the client: three TCP knocks with -d 0, from before its process is made until the kernel has
// its last packet, and until the process has ended, beside Debian's knock, in turn. With BENCH_N= it is a small run.
func TestBenchClient(t *testing.T) {
	needRoot(t)
	n := int(envNumber(t, "SESAME_BENCH_N", benchSmoke))
	w := &world{T: t}
	network := w.netns()
	ours := sesame("knock")
	if program := os.Getenv("SESAME_BENCH_PROGRAM"); program != "" {
		ours.Path = program
	}
	contestants := []struct {
		name, path string
		sent, took []time.Duration
	}{{name: "knock", path: "knock"}, {name: "sesame knock", path: ours.Path}}
	var fd int
	w.must(network.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}))
	defer unix.Close(fd)
	for round := range n + 1 {
		for i := range contestants {
			c := &contestants[(round+i)%len(contestants)]
			w.must(network.do(func() error {
				cmd := exec.Command(c.path, "-d", "0", "127.0.0.1", "7000", "8000", "9000")
				cmd.Args[0], cmd.Env = "knock", ours.Env
				began := time.Now()
				out, err := cmd.CombinedOutput()
				if err != nil || len(out) > 0 {
					return fmt.Errorf("%s: %v: %s", c.name, err, out)
				}
				took := time.Since(began)
				sent, err := lastSYN(fd, 9000)
				if err != nil {
					return err
				}
				if round > 0 { // the first one reads the file from the disk
					c.took, c.sent = append(c.took, took), append(c.sent, sent.Sub(began))
				}
				return nil
			}))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nClient, three TCP knocks, -d 0, %d runs each\n\n%-35s %9s %9s\n", measuredOn(), n, "", "p50", "p95")
	row := func(name string, took, of []time.Duration) {
		fmt.Fprintf(&b, "%-35s %9s %9s  %.2f of knock's\n", name, milliseconds(quantile(took, 50)), milliseconds(quantile(took, 95)),
			float64(quantile(took, 50))/float64(quantile(of, 50)))
	}
	for _, c := range contestants {
		row(c.name+", start to last packet", c.sent, contestants[0].sent)
		row(c.name+", start to end", c.took, contestants[0].took)
	}
	t.Log("\n" + b.String())
}

// lastSYN is when the kernel got the last SYN to a port, of those that wait on a raw socket.
func lastSYN(fd int, port uint16) (at time.Time, err error) {
	packet, oob := make([]byte, 100), make([]byte, 100)
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, packet, oob, 0)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			return at, err
		}
		var hit Hit
		if parsePacket(packet[:n], n, &hit) != nil || hit.Knock.Port != port || hit.Flags != flagSYN {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return at, err
		}
		for _, m := range messages {
			if m.Header.Type == unix.SO_TIMESTAMPNS {
				at = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			}
		}
	}
	if at.IsZero() {
		return at, errors.New("no SYN has come")
	}
	return at, nil
}
