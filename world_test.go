//go:build linux && !pure

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is a network that a test makes: a host with the daemon, and clients, all on one bridge. Addresses are
// 10.9.0.1 and fd00:9::1 for the host, and .2, .3 and so on for the clients; everybody's interface is eth0.
type world struct {
	*testing.T
	host    *Netns
	clients []*Netns
}

const (
	hostAddr  = "10.9.0.1"
	hostAddr6 = "fd00:9::1"
)

// needRoot skips a test that needs namespaces and a firewall. In CI a skipped test is a failure.
func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatal("CI must run as root: nothing may be skipped there")
	default:
		t.Skip("needs root for network namespaces and iptables: sudo make test")
	}
}

func newWorld(t *testing.T, clients int) *world {
	t.Helper()
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	bridge := w.netns()
	w.must(bridge.run("ip", "link", "add", "br0", "type", "bridge"))
	w.must(bridge.run("ip", "link", "set", "br0", "up"))
	// The bridge is a wire: where the kernel has br_netfilter, it would look into packets and drop odd ones.
	w.must(bridge.run("sh", "-c", "cd /proc/sys/net/bridge 2>/dev/null && for f in bridge-nf-call-ip*; do echo 0 > $f; done; true"))
	for i := range clients + 1 {
		n := w.netns()
		port := fmt.Sprint("port", i)
		w.must(n.link("eth0", bridge, port))
		w.must(bridge.run("ip", "link", "set", port, "master", "br0"))
		w.must(n.run("ip", "address", "add", fmt.Sprintf("10.9.0.%d/24", i+1), "dev", "eth0"))
		w.must(n.run("ip", "address", "add", fmt.Sprintf("fd00:9::%d/64", i+1), "dev", "eth0", "nodad"))
		if i == 0 {
			w.host = n
		} else {
			w.clients = append(w.clients, n)
		}
	}
	return w
}

func (w *world) netns() *Netns {
	w.Helper()
	n, err := newNetns()
	w.must(err)
	w.Cleanup(n.close)
	return n
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// sesame is the program under test, called by that name.
func sesame(name string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = name
	// Built with -race, a program sleeps for a second when it ends, unless it is told not to.
	cmd.Env = append(os.Environ(), "SESAME_TEST_RUN=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// as makes cmd run as another user. Its program, and the files named, stand where others cannot go: they are handed
// over open, as /proc/self/fd/3, 4 and so on.
func (w *world) as(uid uint32, cmd *exec.Cmd, files ...string) {
	w.Helper()
	for _, name := range append([]string{cmd.Path}, files...) {
		f, err := os.Open(name)
		w.must(err)
		w.Cleanup(func() { _ = f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Path = "/proc/self/fd/3"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// listen answers TCP connections to a port of the host, over both families, and sends back what it gets.
func (w *world) listen(ports ...string) {
	w.Helper()
	for _, port := range ports {
		w.must(w.host.do(func() error {
			l, err := net.Listen("tcp", ":"+port)
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
					go func() {
						_, _ = io.Copy(conn, conn)
						_ = conn.Close()
					}()
				}
			}()
			return nil
		}))
	}
}

// hide listens on port 22 and closes it by the host's own rules, as the article does. IPv6 too.
func (w *world) hide() {
	w.Helper()
	w.listen("22")
	for _, tool := range []string{"iptables", "ip6tables"} {
		w.must(w.host.run(tool, "-w", "-A", "INPUT", "-i", "eth0", "-p", "tcp", "-m", "tcp", "--dport", "22", "-j", "DROP"))
	}
}

// running is a daemon in the host's namespace.
type running struct {
	w      *world
	cmd    *exec.Cmd
	config string
	log    string // file
	ended  chan error
}

// serve starts the daemon with a configuration and waits until it listens.
func (w *world) serve(config string, args ...string) *running {
	w.Helper()
	return w.serveIn("", config, args...)
}

// serveIn does it in a mount namespace of its own, after the shell has run setUp there.
func (w *world) serveIn(setUp, config string, args ...string) *running {
	w.Helper()
	dir := w.TempDir()
	file, log := filepath.Join(dir, "knockd.conf"), filepath.Join(dir, "log")
	w.must(os.WriteFile(file, []byte(config), 0o600))
	cmd := sesame("sesame", append([]string{"serve", "-c", file, "-i", "eth0", "-g", log}, args...)...)
	if setUp != "" {
		cmd = w.inMounts(setUp, cmd)
	}
	r := w.daemon(cmd, file, log)
	r.await("starting up, listening on eth0")
	return r
}

// inMounts makes cmd run in a mount namespace of its own, after the shell has run setUp there.
func (w *world) inMounts(setUp string, cmd *exec.Cmd) *exec.Cmd {
	w.Helper()
	name := filepath.Join(w.TempDir(), cmd.Args[0])
	w.must(os.Symlink(cmd.Path, name))
	in := exec.Command("unshare", append([]string{"-m", "sh", "-ec", setUp + "\nexec \"$0\" \"$@\"", name}, cmd.Args[1:]...)...)
	in.Env = cmd.Env
	return in
}

// daemon starts cmd on the host. It ends with the test at the latest.
func (w *world) daemon(cmd *exec.Cmd, config, log string) *running {
	w.Helper()
	return w.daemonBy(w.host.start, cmd, config, log)
}

// daemonBy does it by a function that starts cmd on the host.
func (w *world) daemonBy(start func(*exec.Cmd) error, cmd *exec.Cmd, config, log string) *running {
	w.Helper()
	r := &running{w: w, cmd: cmd, config: config, log: log, ended: make(chan error, 1)}
	var stderr bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	w.must(start(cmd))
	waited := make(chan struct{})
	go func() {
		r.ended <- cmd.Wait()
		close(waited)
	}()
	w.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-waited
		if w.Failed() {
			w.Logf("the daemon's log:\n%s%s", r.logged(), stderr.String())
		}
	})
	return r
}

func (r *running) write(config string) {
	r.w.Helper()
	r.w.must(os.WriteFile(r.config, []byte(config), 0o600))
}

func (r *running) logged() string {
	text, _ := os.ReadFile(r.log)
	return string(text)
}

// await waits for a text in the log.
func (r *running) await(text string) {
	r.w.Helper()
	r.w.eventually("log line "+text, func() bool { return strings.Contains(r.logged(), text) })
}

func (r *running) signal(sig os.Signal) {
	r.w.Helper()
	r.w.must(r.cmd.Process.Signal(sig))
}

// stop sends SIGTERM, waits for the end and wants exit status 0.
func (r *running) stop() {
	r.w.Helper()
	r.signal(unix.SIGTERM)
	r.wantExit(0)
}

func (r *running) wantExit(status int) {
	r.w.Helper()
	select {
	case err := <-r.ended:
		if got := exitStatus(err); got != status {
			r.w.Errorf("exit status of the daemon: got %d, want %d", got, status)
		}
	case <-time.After(20 * time.Second):
		r.w.Fatal("the daemon does not end")
	}
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// eventually waits for a condition, for 30 s at most: a busy machine is slow.
func (w *world) eventually(what string, condition func() bool) {
	w.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain for: %s", what)
		}
	}
}

// hidden is a port as it looks to who has not knocked: as closed ports of the host look, be it silent or not.
const hidden = "hidden"

func cameAs(got, want string) bool { return got == want || want == hidden && got != reached }

const probePatience = 300 * time.Millisecond // for no answer

// wantPort connects to a port of the host from client i, by one SYN: the kernel would send another one after a second. An
// answer is there at once, but may be seen late on a busy machine.
func (w *world) wantPort(i int, address, want string) {
	w.Helper()
	patience := probePatience
	if want != filtered && want != hidden {
		patience *= 3
	}
	if got := probe(w.clients[i], "", address, patience); !cameAs(got, want) {
		w.Errorf("client %d connects to %s: got %s, want %s", i, address, got, want)
	}
}

// awaitPort waits until a connection comes to what is wanted.
func (w *world) awaitPort(i int, address, want string) {
	w.Helper()
	w.eventually(fmt.Sprintf("client %d connects to %s: %s", i, address, want), func() bool {
		return cameAs(probe(w.clients[i], "", address, probePatience), want)
	})
}

// rules counts the lines of the host's INPUT chain that have text in them.
func (w *world) rules(text string) int {
	w.Helper()
	out, err := w.host.output("iptables", "-w", "-S", "INPUT")
	w.must(err)
	out6, err := w.host.output("ip6tables", "-w", "-S", "INPUT")
	w.must(err)
	return strings.Count(out+out6, text)
}

// from runs a command line at client i, by the shell. ok says whether it must succeed.
func (w *world) from(i int, line string) {
	w.Helper()
	w.must(w.clients[i].run("/bin/bash", "-c", line))
}

// knock knocks with our client at client i.
func (w *world) knock(i int, args ...string) {
	w.Helper()
	w.must(w.knockError(i, args...))
}

func (w *world) knockError(i int, args ...string) error {
	cmd := sesame("knock", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := w.clients[i].start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%v: %w: %s", cmd.Args, err, out.String())
	}
	return nil
}

// sshDoor is a door for port 22 in the article's manner.
func sshDoor(name, sequence string, seconds int, more ...string) string {
	return fmt.Sprintf(`[%s]
	sequence      = %s
	seq_timeout   = 5
	start_command = iptables -w -I INPUT -s %%IP%% -p tcp --dport 22 -j ACCEPT
	start_command_6 = ip6tables -w -I INPUT -s %%IP%% -p tcp --dport 22 -j ACCEPT
	cmd_timeout   = %d
	stop_command  = iptables -w -D INPUT -s %%IP%% -p tcp --dport 22 -j ACCEPT
	stop_command_6 = ip6tables -w -D INPUT -s %%IP%% -p tcp --dport 22 -j ACCEPT
	%s
`, name, sequence, seconds, strings.Join(more, "\n\t"))
}
