package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
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
	rest, err := getopt(args, helpOptions())
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usageError(fmt.Sprintf("%q is one argument too many", rest[0]))
	}
	if os.Getenv(demoInside) != "" && os.Getpid() == 1 { // first in its own PID namespace
		return (&demonstration{env: e}).run()
	}
	return enterPrivateNetwork(e)
}

// enterPrivateNetwork runs the demo again as the first process of a new PID, network and mount namespace, with a user
// namespace where the caller is not root.
func enterPrivateNetwork(e env) error {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(interrupted)

	cmd := exec.Command(demoSelf, "demo")
	cmd.Args[0] = "sesame"
	cmd.Env = append(os.Environ(), demoInside+"=1", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = e.stdout, e.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	hint := ""
	if os.Geteuid() != 0 {
		hint = ": this system keeps private networks for root: sudo make demo"
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig follows the thread that forks
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making a private network: %w%s", err, hint)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-interrupted:
		_ = cmd.Process.Kill()
		<-ended
		return errors.New("interrupted: everything the demo had made is gone")
	}
	if err != nil {
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

// demoFirewall is what closes the ports, and the article's door, for one kind of firewall.
type demoFirewall struct {
	tool        string
	try         string
	rules       []string
	start, stop string
}

var demoFirewalls = []demoFirewall{
	{
		tool: "iptables",
		try:  "iptables -S INPUT",
		rules: []string{
			"iptables -A INPUT -i eth0 -p tcp -m tcp --dport 22 -j DROP",
			"iptables -A INPUT -i eth0 -p tcp -m tcp --dport 3389 -j DROP",
		},
		start: "iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; iptables -I INPUT -s %IP% -p tcp --dport 3389 -j ACCEPT",
		stop:  "iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; iptables -D INPUT -s %IP% -p tcp --dport 3389 -j ACCEPT",
	},
	{
		tool: "nft",
		try:  "nft list ruleset",
		rules: []string{
			"nft add table inet demo",
			"nft add set inet demo guests '{ type ipv4_addr; }'",
			"nft add chain inet demo input '{ type filter hook input priority 0; }'",
			"nft add rule inet demo input iifname eth0 tcp dport '{ 22, 3389 }' ip saddr != @guests drop",
		},
		start: "nft add element inet demo guests '{ %IP% }'",
		stop:  "nft delete element inet demo guests '{ %IP% }'",
	},
}

func (d *demonstration) run() (err error) {
	firewall, err := d.prepare()
	if err != nil {
		return err
	}
	d.say("A private network: a host, %s, and a client, %s.", demoHost, demoClient)
	for _, rule := range firewall.rules {
		if err := d.shell(rule); err != nil {
			return err
		}
		d.say("host$   %s", rule)
	}
	if err := d.startDaemon(firewall); err != nil {
		return err
	}
	before := []expectation{{demoClient, "22", filtered}, {demoClient, "3389", filtered}}
	during := []expectation{{demoClient, "22", reached}, {demoClient, "3389", reached}, {demoStranger, "22", filtered}}
	if err := d.expect(before); err != nil {
		return err
	}
	knock := []string{"knock", "-v", demoHost, "1941", "1942", "1945"}
	d.say("client$ sesame %s", strings.Join(knock, " "))
	out, err := d.client.output(demoSelf, knock...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		d.say("        %s", strings.TrimSpace(line))
	}
	if err := d.await("command took"); err != nil {
		return err
	}
	if err := d.expect(during); err != nil {
		return err
	}
	if err := d.await("command timeout"); err != nil {
		return err
	}
	if err := d.await("command took"); err != nil {
		return err
	}
	if err := d.expect(before); err != nil {
		return err
	}
	_ = d.daemon.Process.Signal(unix.SIGTERM)
	if err := d.await("shutting down"); err != nil {
		return err
	}
	d.say("The door was open for %d s, for %s alone, and is closed again.", demoOpen, demoClient)
	return d.daemon.Wait()
}

func (d *demonstration) say(format string, a ...any) { fmt.Fprintf(d.stdout, format+"\n", a...) }

func (d *demonstration) shell(line string) error {
	if out, err := exec.Command("/bin/sh", "-c", line).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// prepare makes the network and finds a firewall tool that works in it.
func (d *demonstration) prepare() (demoFirewall, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return demoFirewall{}, fmt.Errorf("making mounts private: %w", err)
	}
	// iptables has its lock under /run, and the demo its configuration.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return demoFirewall{}, fmt.Errorf("mounting a file system of the demo's own: %w", err)
	}
	if err := os.Mkdir(demoDir, 0o700); err != nil {
		return demoFirewall{}, err
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return demoFirewall{}, errors.New("there is no ip command: install iproute2")
	}
	var err error
	if d.client, err = newNetns(); err != nil {
		return demoFirewall{}, err
	}
	host := &Netns{}
	// Not /proc/self: its first thread may be the one that made the client.
	if host.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return demoFirewall{}, err
	}
	if err := host.link("eth0", d.client, "eth0"); err != nil {
		return demoFirewall{}, err
	}
	for _, step := range []struct {
		in      *Netns
		address string
	}{{host, demoHost}, {d.client, demoClient}, {d.client, demoStranger}} {
		if err := step.in.run("ip", "address", "add", step.address+"/24", "dev", "eth0"); err != nil {
			return demoFirewall{}, err
		}
	}
	for _, port := range []string{"22", "3389"} {
		if _, err := net.Listen("tcp4", demoHost+":"+port); err != nil {
			return demoFirewall{}, err
		}
	}
	var tried []string
	for _, f := range demoFirewalls {
		if err := d.shell(f.try); err == nil {
			return f, nil
		} else {
			tried = append(tried, err.Error())
		}
	}
	return demoFirewall{}, fmt.Errorf("neither iptables nor nft works here: %s", strings.Join(tried, "; "))
}

// startDaemon starts the real daemon with the article's second configuration, and a short Cmd_Timeout.
func (d *demonstration) startDaemon(f demoFirewall) error {
	config := demoDir + "/knockd.conf"
	text := fmt.Sprintf(`[openSSHandRDP]
	sequence      = 1941,1942,1945
	seq_timeout   = 5
	start_command = %s
	cmd_timeout   = %d
	tcpflags      = syn
	stop_command  = %s
`, f.start, demoOpen, f.stop)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	d.daemon = exec.Command(demoSelf, "serve", "-c", config, "-i", "eth0")
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
	return d.await("starting up")
}

// await prints the daemon's log up to the line that has text in it.
func (d *demonstration) await(text string) error {
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

// What a connection comes to.
const (
	reached  = "open"
	refused  = "closed (refused)"
	filtered = "filtered (no answer)"
)

// probe connects from an address inside the namespace.
func probe(n *Netns, from, to string, patience time.Duration) string {
	var conn net.Conn
	err := n.do(func() (err error) {
		dialer := net.Dialer{Timeout: patience}
		if from != "" {
			dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		}
		conn, err = dialer.Dial("tcp", to)
		return err
	})
	var timeout net.Error
	switch {
	case err == nil:
		_ = conn.Close()
		return reached
	case errors.As(err, &timeout) && timeout.Timeout():
		return filtered
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	}
	return err.Error()
}

// expectation is what a connection from an address to one of the host's ports is to come to.
type expectation struct{ from, port, want string }

func (d *demonstration) expect(all []expectation) error {
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
