package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	demoInside   = "SESAME_DEMO_INSIDE" // set in the environment of the process that is in the private network
	demoSelf     = "/proc/self/exe"     // also where the caller may not reach the file by its path
	demoHost     = "10.9.0.1"
	demoClient   = "10.9.0.2"
	demoStranger = "10.9.0.3"
	demoDir      = "/run/sesame-demo" // on a file system of the demo's own
	demoOpen     = 3                  // seconds
	demoPatience = 700 * time.Millisecond
)

// demo shows a hidden port open and close, in namespaces of its own: the machine's network, firewall, processes and
// files are never touched, and the kernel takes everything away when the demo's first process ends, however it ends.
func demo(e env, args []string) error {
	if err := onlyOptions(args, helpOptions(), ""); err != nil {
		return err
	}
	if os.Getenv(demoInside) != "" && os.Getpid() == 1 { // first in its own PID namespace
		return (&demonstration{env: e}).run()
	}
	return enterPrivateNetwork(e)
}

// enterPrivateNetwork runs the demo again as the first process of a new PID, network and mount namespace, with a user
// namespace where the caller is not root.
func enterPrivateNetwork(e env) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	cmd := exec.CommandContext(ctx, demoSelf, "demo")
	cmd.Args[0] = "sesame"
	cmd.Env = append(os.Environ(), demoInside+"=1", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = e.stdout, e.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	hint := ""
	if os.Geteuid() != 0 {
		hint = ": this system keeps private networks for root: sudo ./sesame demo"
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig follows the thread that forks
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making a private network: %w%s", err, hint)
	}
	err := cmd.Wait()
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted: everything the demo had made is gone")
	case err != nil:
		return fmt.Errorf("the demo did not run to its end%s", hint)
	}
	return nil
}

// demonstration is the demo inside its private network: the process's own network namespace is the host's.
type demonstration struct {
	env
	client *Netns
	daemon *exec.Cmd
	log    chan string // the daemon's log lines
}

// demoConfig is the README's first example, and closes sooner.
var demoConfig = fmt.Sprintf(`[ssh]
	sequence    = 7000,18000:udp,9000
	open_ports  = 22, 3389
	cmd_timeout = %d
	hide        = yes
`, demoOpen)

func (d *demonstration) run() error {
	closed := refusedWords() // the host has no rules of its own, so that closed ports are refused
	before := []expectation{{demoClient, "22", closed}, {demoClient, "3389", closed}}
	during := []expectation{{demoClient, "22", reached}, {demoClient, "3389", reached}, {demoStranger, "22", closed}}
	for _, step := range []func() error{
		d.prepare,
		d.startDaemon,
		d.expect(before),
		d.knock,
		d.await("open for"),
		d.expect(during),
		d.await("closed"),
		d.expect(before),
		func() error { return d.daemon.Process.Signal(unix.SIGTERM) },
		d.await("shutting down"),
	} {
		if err := step(); err != nil {
			return err
		}
	}
	d.say("The door was open for %d s, for %s alone, and is closed again.", demoOpen, demoClient)
	return d.daemon.Wait()
}

func (d *demonstration) knock() error {
	knock := []string{"knock", "-v", demoHost, "7000", "18000:udp", "9000"}
	d.say("client$ sesame %s", strings.Join(knock, " "))
	out, err := d.client.output(demoSelf, knock...)
	for line := range strings.Lines(out) {
		d.say("        %s", strings.TrimSpace(line))
	}
	return err
}

func (d *demonstration) say(format string, a ...any) { fmt.Fprintf(d.stdout, format+"\n", a...) }

// prepare makes the network.
func (d *demonstration) prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	// iptables has its lock under /run, and the demo its configuration.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mounting a file system of the demo's own: %w", err)
	}
	if err := os.Mkdir(demoDir, 0o700); err != nil {
		return err
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("there is no ip command: install iproute2")
	}
	var err error
	if d.client, err = newNetns(); err != nil {
		return err
	}
	// Not /proc/self: its first thread may be the one that made the client.
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	host := &Netns{file}
	if err := host.link("eth0", d.client, "eth0"); err != nil {
		return err
	}
	for _, step := range []struct {
		in      *Netns
		address string
	}{{host, demoHost}, {d.client, demoClient}, {d.client, demoStranger}} {
		if err := step.in.run("ip", "address", "add", step.address+"/24", "dev", "eth0"); err != nil {
			return err
		}
	}
	for _, port := range []string{"22", "3389"} {
		if _, err := net.Listen("tcp4", demoHost+":"+port); err != nil {
			return err
		}
	}
	d.say("A private network: a host, %s, and a client, %s.", demoHost, demoClient)
	return nil
}

// startDaemon starts the real daemon, with a door that needs no commands.
func (d *demonstration) startDaemon() error {
	config := demoDir + "/knockd.conf"
	if err := os.WriteFile(config, []byte(demoConfig+"[options]\n\tstatedir = "+demoDir+"\n"), 0o600); err != nil {
		return err
	}
	d.say("host$   cat knockd.conf")
	for line := range strings.Lines(demoConfig) {
		d.say("        %s", strings.TrimSuffix(strings.ReplaceAll(line, "\t", "  "), "\n"))
	}
	d.daemon = exec.Command(demoSelf, "serve", "-c", config, "-i", "eth0", "-s", demoDir+"/control")
	d.daemon.Args[0] = "sesame"
	output, err := d.daemon.StderrPipe()
	if err != nil {
		return err
	}
	if err := d.daemon.Start(); err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	d.log = make(chan string, 100)
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); {
			d.log <- lines.Text()
		}
		close(d.log)
	}()
	d.say("host$   sesame serve -c knockd.conf -i eth0")
	return d.await("starting up")()
}

// await prints the daemon's log up to the line that has text in it.
func (d *demonstration) await(text string) func() error {
	return func() error {
		patience := time.After(demoOpen*time.Second + 5*time.Second)
		for {
			select {
			case line, ok := <-d.log:
				if !ok {
					return fmt.Errorf("the daemon ended before it logged %q", text)
				}
				if !strings.HasPrefix(line, "warning: ") {
					d.say("        %s", line)
				}
				if strings.Contains(line, text) {
					return nil
				}
			case <-patience:
				return fmt.Errorf("the daemon did not log %q in time", text)
			}
		}
	}
}

// probe says what a connection from an address inside the namespace comes to; "" is any address.
func probe(n *Netns, from, to string, patience time.Duration) (came string) {
	source, _ := netip.ParseAddr(from)
	err := n.do(func() error {
		host, port, _ := net.SplitHostPort(to)
		addr, err := netip.ParseAddrPort(net.JoinHostPort(host, port)) // without brackets around an IPv4 address
		if err != nil {
			return err
		}
		conn, words := connect(context.Background(), addr, route{source: source}, patience)
		if came = words; conn != nil {
			return conn.Close()
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return came
}

// expectation is what a connection from an address to one of the host's ports is to come to.
type expectation struct{ from, port, want string }

func (d *demonstration) expect(all []expectation) func() error {
	return func() error {
		for _, x := range all {
			who := "client$ "
			if x.from == demoStranger {
				who = "another client, " + demoStranger + "$ "
			}
			got := probe(d.client, x.from, demoHost+":"+x.port, demoPatience)
			d.say("%sconnect to %s port %s: %s", who, demoHost, x.port, got)
			if got != x.want {
				return fmt.Errorf("port %s should have been %s", x.port, x.want)
			}
		}
		return nil
	}
}
