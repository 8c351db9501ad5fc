//go:build linux && !pure

package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serveOnce answers one connection to a port of the host by fn.
func (w *world) serveOnce(port string, fn func(conn *net.TCPConn)) {
	w.Helper()
	w.must(w.host.do(func() error {
		l, err := net.Listen("tcp", hostAddr+":"+port)
		if err != nil {
			return err
		}
		w.Cleanup(func() { _ = l.Close() })
		go func() {
			if conn, err := l.Accept(); err == nil {
				fn(conn.(*net.TCPConn))
			}
		}()
		return nil
	}))
}

// TestJoin sends 100 MB through -W to a server that sends them back, both ways at once: not a byte is lost, and the
// half-close gets through.
func TestJoin(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	w.serve(sshDoor("ssh", "7000,8000:udp,9000", 60))
	sent := make([]byte, 100<<20)
	_, _ = rand.Read(sent)
	cmd := sesame("knock", hostAddr, "7000", "8000:udp", "9000", "-W", hostAddr+":22")
	cmd.Stdin = bytes.NewReader(sent)
	r := w.callCmd(0, cmd)
	if r.status != 0 || !bytes.Equal([]byte(r.stdout), sent) {
		t.Errorf("got exit status %d and %d bytes, want 0 and the %d that were sent; standard error %q", r.status, len(r.stdout), len(sent), r.stderr)
	}
	if !strings.HasPrefix(r.stderr, "10.9.0.1 port 22: open") || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("standard error: got %q", r.stderr)
	}
}

// TestJoinHalfClose has one side end long before the other one.
func TestJoinHalfClose(t *testing.T) {
	w := newWorld(t, 1)
	knock := func(port string) []string { return []string{"-qd0", hostAddr, "7000", "-W", hostAddr + ":" + port} }
	t.Run("standard input first", func(t *testing.T) {
		w := &world{T: t, host: w.host, clients: w.clients}
		w.serveOnce("81", func(conn *net.TCPConn) {
			asked, _ := io.ReadAll(conn)
			for i := range 3 {
				time.Sleep(50 * time.Millisecond)
				fmt.Fprintf(conn, "answer %d to %s\n", i, asked)
			}
			_ = conn.Close()
		})
		cmd := sesame("knock", knock("81")...)
		cmd.Stdin = strings.NewReader("this")
		w.wantCall(w.callCmd(0, cmd), 0, "answer 0 to this\nanswer 1 to this\nanswer 2 to this\n", "")
	})
	t.Run("the connection first", func(t *testing.T) {
		w := &world{T: t, host: w.host, clients: w.clients}
		got := make(chan string, 1)
		w.serveOnce("82", func(conn *net.TCPConn) {
			fmt.Fprint(conn, "that is all")
			_ = conn.CloseWrite()
			all, _ := io.ReadAll(conn)
			got <- string(all)
		})
		in, out, err := os.Pipe()
		w.must(err)
		back, stdout, err := os.Pipe()
		w.must(err)
		cmd := sesame("knock", knock("82")...)
		cmd.Stdin, cmd.Stdout = in, stdout
		w.must(w.clients[0].start(cmd))
		_, _ = in.Close(), stdout.Close()
		if heard, err := io.ReadAll(back); string(heard) != "that is all" || err != nil { // so it was closed
			t.Errorf("got %q, %v", heard, err)
		}
		fmt.Fprint(out, "and then this")
		_ = out.Close()
		if status := exitStatus(cmd.Wait()); status != 0 {
			t.Errorf("exit status %d, want 0", status)
		}
		if sent := <-got; sent != "and then this" {
			t.Errorf("the other side got %q", sent)
		}
	})
}

// TestJoinBroken has the connection break: what had come before is delivered, and the end is said.
func TestJoinBroken(t *testing.T) {
	w := newWorld(t, 1)
	args := []string{"-qd0", hostAddr, "7000", "-W", hostAddr + ":81"}
	written, reset := make(chan bool), make(chan bool)
	w.serveOnce("81", func(conn *net.TCPConn) {
		_, _ = conn.Write(bytes.Repeat([]byte("x"), 300_000))
		close(written)
		<-reset
		_ = conn.SetLinger(0)
		_ = conn.Close()
	})
	in, out, err := os.Pipe()
	w.must(err)
	defer out.Close()
	cmd := sesame("knock", args...)
	cmd.Stdin = in
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	w.must(w.clients[0].start(cmd))
	_ = in.Close()
	w.eventually("all bytes acknowledged", func() bool {
		select {
		case <-written: // else there are more to come
		default:
			return false
		}
		out, err := w.host.output("ss", "-tnH", "state", "established", "sport", "=", ":81")
		fields := strings.Fields(out)
		return err == nil && len(fields) > 1 && fields[1] == "0" && strings.Count(out, ":81") > 0
	})
	close(reset)
	status := exitStatus(cmd.Wait())
	if want := "knock: joining standard output to the connection: read tcp "; status != 1 || !strings.HasPrefix(stderr.String(), want) || !strings.HasSuffix(stderr.String(), unix.ECONNRESET.Error()+"\n") {
		t.Errorf("got exit status %d, %q, want 1 and %q...", status, stderr.String(), want)
	}
	if stdout.Len() != 300_000 {
		t.Errorf("got %d bytes, want 300000", stdout.Len())
	}
}

// TestJoinShut has nothing on standard output, and the exit status of a port that is not open.
func TestJoinShut(t *testing.T) {
	w := newWorld(t, 1)
	w.wantCall(w.call(0, "-d0", hostAddr, "7000", "-W", hostAddr+":22", "--timeout=0.2", "--retries=1"), 3, "", `10\.9\.0\.1 port 22: closed \(RST\)\n`+stayedShut)
	w.wantCall(w.call(0, "-d0", hostAddr, "7000", "-W", "absent.invalid:22"), 1, "", `sesame knock: looking up the host: [^\n]*\n`)
	w.wantCall(w.call(0, hostAddr, "7000", "-W", hostAddr), 2, "", `sesame knock: option -W: HOST:PORT is needed[^\n]*\n`)
	w.wantCall(w.call(0, hostAddr, "7000", "-W", hostAddr+":7000"), 2, "", `sesame knock: the port that is to open is one of the knocks[^\n]*\n`)
	w.wantCall(w.call(0, hostAddr, "7000", "-W", hostAddr+":22", "--", "true"), 2, "", `sesame knock: -W and a command exclude each other[^\n]*\n`)
}

// TestJoinOutlivesErrors has a firewall refuse for a while what belongs to the connection: it goes on, as any other.
func TestJoinOutlivesErrors(t *testing.T) {
	for _, tt := range []struct{ address, iptables, with string }{
		{hostAddr, "iptables", "icmp-host-unreachable"}, {hostAddr6, "ip6tables", "icmp6-adm-prohibited"},
	} {
		t.Run(tt.iptables, func(t *testing.T) {
			w := newWorld(t, 1)
			w.listen("81") // and sends back
			in, out, err := os.Pipe()
			w.must(err)
			back, stdout, err := os.Pipe()
			w.must(err)
			cmd := sesame("knock", "-qd0", tt.address, "7000", "-W", "["+tt.address+"]:81")
			var stderr bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = in, stdout, &stderr
			w.must(w.clients[0].start(cmd))
			_, _ = in.Close(), stdout.Close()
			exchange := func(line string) {
				fmt.Fprint(out, line)
				got := make([]byte, len(line))
				if _, err := io.ReadFull(back, got); err != nil || string(got) != line {
					t.Fatalf("got %q, %v, want %q; standard error %q", got, err, line, stderr.String())
				}
			}
			exchange("before\n")
			rule := []string{"-p", "tcp", "--dport", "81", "-j", "REJECT", "--reject-with", tt.with}
			w.must(w.host.run(tt.iptables, append([]string{"-w", "-I", "INPUT"}, rule...)...))
			fmt.Fprint(out, "meanwhile\n")
			// The error of the first one comes while the socket is still held by its sender, and does not count.
			w.eventually("a packet refused again", func() bool {
				listing, err := w.host.output(tt.iptables, "-w", "-nvxL", "INPUT")
				lines := strings.Split(strings.TrimSpace(listing), "\n")
				refused, _ := strconv.Atoi(strings.Fields(lines[len(lines)-1])[0])
				return err == nil && refused > 1
			})
			w.must(w.host.run(tt.iptables, append([]string{"-w", "-D", "INPUT"}, rule...)...))
			got := make([]byte, len("meanwhile\n"))
			if _, err := io.ReadFull(back, got); err != nil || string(got) != "meanwhile\n" {
				t.Fatalf("got %q, %v", got, err)
			}
			exchange("after\n")
			_ = out.Close()
			if status := exitStatus(cmd.Wait()); status != 0 || stderr.Len() > 0 {
				t.Errorf("exit status %d, standard error %q", status, stderr.String())
			}
		})
	}
}
