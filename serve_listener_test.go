//go:build linux && !pure

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// linkDoors are two doors to hidden ports: ssh is open for 2 s, and held for 4.
const linkDoors = `[ssh]
	sequence    = 7000,8000,9000
	seq_timeout = 20
	open_ports  = 22
	cmd_timeout = 2
	hide        = yes
[held]
	sequence    = 7100,8100
	open_ports  = 23
	cmd_timeout = 4
	hide        = yes
`

// newLinkTest has a host with those doors.
func newLinkTest(t *testing.T, interfaces string) *nativeTest {
	n := newNativeTest(t, firewallHost{}, linkDoors)
	n.listen("23")
	n.args = []string{"-i", interfaces}
	return n
}

// opens wants the door to open for client i at an address, by one knock after the other, and to close again.
func (n *nativeTest) opens(i int, address string) {
	n.Helper()
	ssh := "[" + address + "]:22"
	n.wantPort(i, ssh, hidden)
	n.knock(i, "-d20", address, "7000", "8000", "9000")
	n.awaitPort(i, ssh, reached)
	n.awaitPort(i, ssh, hidden)
}

// finishes knocks the last knock until an attempt at the third stage opens, and says how long that took.
func (n *nativeTest) finishes(i int, address string) (took time.Duration) {
	n.Helper()
	began := time.Now()
	ssh := "[" + address + "]:22"
	n.eventually("the end of the attempt at "+address, func() bool {
		_ = n.knockError(i, "-d0", address, "9000") // as long as there is no address, it cannot
		return probe(n.clients[i], "", ssh, 100*time.Millisecond) == reached
	})
	took = time.Since(began)
	n.awaitPort(i, ssh, hidden)
	return took
}

// TestLinksChange changes the interface while a door is open and an attempt is in progress: the attempt goes on, and the
// door closes.
func TestLinksChange(t *testing.T) {
	for _, test := range []struct {
		name, change string
		address      string // that is knocked on afterwards
	}{
		{"down and up", "ip link set eth0 down; sleep 0.2; ip link set eth0 up; ip address replace fd00:9::1/64 dev eth0 nodad", hostAddr},
		{"renamed, and back", "ip link set eth0 down; ip link set eth0 name other; ip link set other up; sleep 0.1; " +
			"ip link set other down; ip link set other name eth0; ip link set eth0 up", hostAddr},
		{"the address replaced", "ip address flush dev eth0; ip address add 10.9.0.77/24 dev eth0", "10.9.0.77"},
		{"a second address", "ip address add 10.9.0.78/24 dev eth0", "10.9.0.78"},
		{"the first of two addresses removed", "ip address add 10.9.0.79/16 dev eth0; ip address del 10.9.0.1/24 dev eth0", "10.9.0.79"},
		{"500 changes in a row", "{ for i in $(seq 250); do echo address add 10.9.1.$i/32 dev eth0; done; " +
			"for i in $(seq 250); do echo address del 10.9.1.$i/32 dev eth0; done; echo address add 10.9.0.80/24 dev eth0; } | ip -batch -", "10.9.0.80"},
		{"made anew", "", hostAddr},
		{"made anew with the same index", "index", hostAddr},
		{"an IPv6 address", "ip address add fd00:9::99/64 dev eth0 nodad", "fd00:9::99"},
		{"a deprecated IPv6 address", "ip address add fd00:9::98/64 dev eth0 nodad preferred_lft 0", "fd00:9::98"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newLinkTest(t, "eth0")
			d := n.serve()
			n.opens(0, hostAddr)
			// As seen from an IPv6 address, or from IPv4, the attempt must be of the same family as its end.
			first := hostAddr
			if strings.Contains(test.address, ":") {
				first = hostAddr6
			}
			n.knock(0, "-d20", first, "7100", "8100")
			n.awaitPort(0, "["+first+"]:23", reached)
			n.knock(0, "-d20", first, "7000", "8000")
			n.eventually("the second stage", func() bool { return strings.Count(d.logged(), "ssh: Stage 2") == 2 })
			switch {
			case test.change == "" || test.change == "index":
				n.remake(test.change == "index")
			default:
				n.must(n.host.run("sh", "-ec", test.change))
			}
			t.Logf("the attempt ended %v after the change", n.finishes(0, test.address))
			n.opens(0, test.address)
			d.await("held: closed")
			n.wantPort(0, "["+test.address+"]:23", hidden)
			if lines := strings.Count(d.logged(), "interface eth0"); lines > linkBurst+1 {
				t.Errorf("the log has %d lines about the interface, want %d at most", lines, linkBurst+1)
			}
			d.stop()
		})
	}
}

// remake deletes the host's eth0 and makes another one, a direct link to the first client, with the addresses of the
// first. sameIndex has it get the first one's index, too.
func (n *nativeTest) remake(sameIndex bool) {
	n.Helper()
	index, err := n.host.output("cat", "/sys/class/net/eth0/ifindex")
	n.must(err)
	n.must(n.host.run("ip", "link", "delete", "eth0"))
	n.must(n.clients[0].run("ip", "link", "delete", "eth0"))
	if sameIndex {
		n.must(n.host.run("ip", "link", "add", "eth0", "index", strings.TrimSpace(index), "type", "veth", "peer", "name", "far"))
		n.must(n.host.do(func() error {
			cmd := exec.Command("ip", "link", "set", "far", "netns", "/proc/self/fd/3", "name", "eth0")
			cmd.ExtraFiles = []*os.File{n.clients[0].file}
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		}))
		n.must(n.host.run("ip", "link", "set", "eth0", "up"))
		n.must(n.clients[0].run("ip", "link", "set", "eth0", "up"))
	} else {
		n.must(n.host.link("eth0", n.clients[0], "eth0"))
	}
	n.must(n.host.run("ip", "address", "add", "10.9.0.1/24", "dev", "eth0"))
	n.must(n.clients[0].run("ip", "address", "add", "10.9.0.2/24", "dev", "eth0"))
}

// wan links the host to client i by a link of another name, with 10.8.I.1 and 10.8.I.2.
func (n *nativeTest) wan(i int, name string) (address string) {
	n.Helper()
	n.must(n.host.link(name, n.clients[i], "up-"+name))
	address = fmt.Sprintf("10.8.%d.1", i)
	n.must(n.host.run("ip", "address", "add", address+"/24", "dev", name))
	n.must(n.clients[i].run("ip", "address", "add", fmt.Sprintf("10.8.%d.2/24", i), "dev", "up-"+name))
	return address
}

// TestInterfaceComesLater starts before there is the interface, in the foreground and by -d.
func TestInterfaceComesLater(t *testing.T) {
	for _, interfaces := range []string{"wan", "nosuch,wa*"} {
		for _, detached := range []bool{false, true} {
			t.Run(fmt.Sprint(interfaces, " detached ", detached), func(t *testing.T) {
				n := newLinkTest(t, interfaces)
				n.args = append(n.args, "-p", n.dir+"/pid")
				if detached {
					n.args = append(n.args, "-d")
				}
				d := n.start("")
				if detached {
					n.must(<-d.ended) // it listens, and waits
					pid, err := os.ReadFile(n.dir + "/pid")
					n.must(err)
					defer n.endPid(strings.TrimSpace(string(pid)))
				}
				last := interfaces[strings.LastIndex(interfaces, ",")+1:]
				if last == "wan" {
					d.await("interface wan does not exist yet: waiting for it")
				} else {
					d.await("interface nosuch does not exist yet: waiting for it")
					d.await("no interface fits wa* yet: waiting for one")
				}
				if out, _ := n.tool("status", "-s", n.socket); !strings.Contains(out, "  "+last+"  ") || !strings.Contains(out, "absent\n") {
					t.Errorf("status does not say that %s is absent:\n%s", last, out)
				}
				address := n.wan(0, "wan")
				d.await("interface wan: up, 10.8.0.1")
				n.opens(0, address)
				if out, _ := n.tool("status", "-s", n.socket); !strings.Contains(out, "  wan     up, 10.8.0.1") && !strings.Contains(out, "  wan  up, 10.8.0.1") {
					t.Errorf("status does not say that wan is up:\n%s", out)
				}
				n.must(n.host.run("ip", "link", "delete", "wan"))
				if last == "wan" {
					n.eventually("a line about wan's end", func() bool {
						return strings.Count(d.logged(), "interface wan does not exist yet: waiting for it") == 2
					})
				} else {
					d.await("interface wan is gone")
				}
				address = n.wan(0, "wan")
				n.eventually("wan again", func() bool { return strings.Count(d.logged(), "interface wan: up, 10.8.0.1") == 2 })
				n.opens(0, address)
				if !detached {
					d.stop()
				}
			})
		}
	}
}

// TestWithoutIPv6 starts where there is no IPv6, and goes on when there is.
func TestWithoutIPv6(t *testing.T) {
	n := newLinkTest(t, "eth0")
	n.must(n.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"))
	d := n.serve()
	n.opens(0, hostAddr)
	n.must(n.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6"))
	n.must(n.host.run("ip", "address", "add", "fd00:9::1/64", "dev", "eth0", "nodad"))
	n.eventually("the address", func() bool { return strings.Contains(d.logged(), "fd00:9::1") })
	n.opens(0, hostAddr6)
	d.stop()
}

// TestDoorInterface has a door that is knocked at, and hidden, on one side alone.
func TestDoorInterface(t *testing.T) {
	n := newLinkTest(t, "eth0")
	n.config = strings.Replace(n.config, "[ssh]\n", "[ssh]\n\tInterface = wan, lte*\n", 1)
	wan := n.wan(0, "wan")
	d := n.serve()
	n.wantPort(0, hostSSH, reached)
	n.knock(0, "-d20", hostAddr, "7000", "8000", "9000")
	n.wantPort(0, wan+":22", hidden)
	if strings.Contains(d.logged(), "ssh: ") {
		t.Errorf("knocking on eth0 counts at a door of wan:\n%s", d.logged())
	}
	n.opens(0, wan)
	lte := n.wan(1, "lte0")
	d.await("interface lte0: up, 10.8.1.1")
	n.opens(1, lte)
	// The other door is as it was.
	n.wantPort(0, "10.8.0.1:23", reached)
	n.wantPort(0, hostAddr+":23", hidden)
	n.knock(0, "-d20", wan, "7100", "8100")
	n.knock(0, "-d20", hostAddr, "7100", "8100")
	n.awaitPort(0, hostAddr+":23", reached)
	if got := strings.Count(d.logged(), "held: OPEN SESAME"); got != 1 {
		t.Errorf("held: got %d openings, want 1", got)
	}
	d.stop()
}

// TestPort makes the interface that is named a port of a bridge, and takes it out again, while the daemon runs, and starts
// it anew while it is one: ports stay hidden, and open to whoever knocks.
func TestPort(t *testing.T) {
	const move = "ip address flush dev %s scope global; ip address add 10.9.0.1/24 dev %s; ip address add fd00:9::1/64 dev %s nodad; ip address replace fe80::9/64 dev %s nodad"
	into := "ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0; " + strings.NewReplacer("flush dev %s", "flush dev eth0", "%s", "br0").Replace(move)
	out := "ip link set eth0 nomaster; ip link del br0; " + strings.ReplaceAll(move, "%s", "eth0")
	const told = "eth0 is a port of br0: "
	for _, option := range []string{"nft", "iptables"} {
		for _, interfaces := range []string{"eth0", "et*"} {
			t.Run(option+" "+interfaces, func(t *testing.T) {
				n := newNativeTest(t, firewallHost{option: option, rules: "true"}, linkDoors)
				n.args = []string{"-i", interfaces}
				says := func(want bool) {
					t.Helper()
					if out, _ := n.tool("status", "-s", n.socket); strings.Contains(out, told) != want {
						t.Errorf("status says that it is a port: got %v, want %v:\n%s", !want, want, out)
					}
					n.must(os.WriteFile(n.dir+"/named.conf", []byte(n.config+"\tInterface = "+interfaces+"\n"), 0o600))
					if out, _ := n.tool("check", "-c", n.dir+"/named.conf"); strings.Contains(out, told) != want {
						t.Errorf("check says that it is a port: got %v, want %v:\n%s", !want, want, out)
					}
				}
				// From a process of its own: package net keeps the links' numbers, whichever network they are of.
				linkLocal := func() bool {
					return n.clients[0].run("timeout", "1", "/bin/bash", "-c", ": < /dev/tcp/fe80::9%eth0/22") == nil
				}
				opens := func() {
					t.Helper()
					// The first of them may be there before the daemon has seen the change.
					n.awaitPort(1, hostSSH, hidden)
					for _, address := range []string{hostAddr, hostAddr6} {
						n.opens(0, address)
					}
					if linkLocal() {
						t.Error("fe80::9: not hidden")
					}
					n.knock(0, "-d20", "fe80::9%eth0", "7000", "8000", "9000")
					n.eventually("fe80::9: open", linkLocal)
					n.eventually("fe80::9: hidden", func() bool { return !linkLocal() })
				}
				n.must(n.host.run("sh", "-ec", strings.ReplaceAll(move, "%s", "eth0")))
				d := n.serve()
				opens()
				says(false)
				n.must(n.host.run("sh", "-ec", into))
				d.await("interface eth0: up")
				opens()
				says(true)
				if got := strings.Count(d.logged(), told); got == 0 {
					t.Error("the log does not say that it is a port")
				}
				d.stop()
				n.wantPort(1, hostSSH, hidden)
				d = n.serve()
				d.await(told)
				opens()
				n.must(n.host.run("sh", "-ec", out))
				opens()
				says(false)
				d.stop()
			})
		}
	}
}

// TestAutoInterface follows the default route, and what has been hidden stays hidden.
func TestAutoInterface(t *testing.T) {
	n := newLinkTest(t, "auto")
	d := n.serve()
	d.await("no interface holds a default route yet: waiting for one")
	wan, lte := n.wan(0, "wan"), n.wan(1, "lte")
	n.wantPort(0, wan+":22", reached)
	n.must(n.host.run("ip", "route", "add", "default", "via", "10.8.0.2"))
	d.await("interface wan: up, 10.8.0.1")
	n.awaitPort(0, wan+":22", hidden)
	n.opens(0, wan)
	n.wantPort(1, lte+":22", reached)

	n.must(n.host.run("ip", "route", "replace", "default", "via", "10.8.1.2"))
	d.await("interface wan is gone")
	n.awaitPort(1, lte+":22", hidden)
	n.opens(1, lte)
	n.wantPort(0, wan+":22", hidden)

	// Of IPv6, and of both at once.
	n.must(n.host.run("ip", "address", "add", "fd00:8::1/64", "dev", "wan", "nodad"))
	n.must(n.host.run("ip", "-6", "route", "add", "default", "via", "fd00:8::2"))
	n.eventually("two links", func() bool {
		out, _ := n.tool("status", "-s", n.socket)
		return strings.Contains(out, "  wan  up") && strings.Contains(out, "  lte  up")
	})
	n.opens(0, wan)
	// Down, the link loses its routes.
	n.must(n.host.run("ip", "link", "set", "lte", "down"))
	n.eventually("one link", func() bool {
		out, _ := n.tool("status", "-s", n.socket)
		return strings.Contains(out, "  wan  up") && !strings.Contains(out, "  lte  ")
	})
	n.must(n.host.run("ip", "-6", "route", "del", "default"))
	// Started anew without a default route, it knows where there was one.
	d.stop()
	d = n.serve()
	d.await("no interface holds a default route yet: waiting for one")
	n.wantPort(0, wan+":22", hidden)
	n.wantPort(0, hostSSH, reached)
	n.must(n.host.run("ip", "route", "add", "default", "nexthop", "dev", "wan", "nexthop", "dev", "eth0"))
	n.eventually("both of a multipath route", func() bool {
		out, _ := n.tool("status", "-s", n.socket)
		return strings.Contains(out, "  wan  ") && strings.Contains(out, "  eth0  ")
	})
	d.stop()
}

// TestAnyInterface has three clients at as many links knock at the same time.
func TestAnyInterface(t *testing.T) {
	n := newLinkTest(t, "any")
	wan := n.wan(0, "wan")
	d := n.serve()
	lte := n.wan(1, "lte")
	n.eventually("the new address", func() bool {
		out, _ := n.tool("status", "-s", n.socket)
		return strings.Contains(out, lte)
	})
	done := make(chan error, 3)
	for _, at := range []struct {
		client  int
		address string
	}{{0, wan}, {1, lte}, {1, hostAddr}} {
		go func() { done <- n.knockError(at.client, "-d30", at.address, "7000", "8000", "9000") }()
	}
	for range 3 {
		n.must(<-done)
	}
	for _, source := range []string{"10.8.0.2", "10.8.1.2", "10.9.0.3"} {
		d.await(source + ": ssh: OPEN SESAME")
	}
	n.awaitPort(1, lte+":22", reached)
	d.stop()
}

// TestReloadInterfaces moves a door from one interface to another, and to all, in the middle of an attempt.
func TestReloadInterfaces(t *testing.T) {
	n := newLinkTest(t, "eth0")
	wan := n.wan(0, "wan")
	one := strings.Replace(n.config, "[held]\n", "[held]\n\tInterface = wan\n", 1)
	d := n.serve()
	n.knock(0, "-d20", hostAddr, "7000", "8000")
	d.await("ssh: Stage 2")
	d.write(one)
	d.signal(unix.SIGHUP)
	n.eventually("held on wan", func() bool {
		n.knock(0, "-d20", wan, "7100", "8100")
		return strings.Contains(d.logged(), "held: OPEN SESAME")
	})
	n.knock(0, "-d0", hostAddr, "9000")
	d.await("ssh: OPEN SESAME")
	d.write(strings.Replace(one, "Interface = wan", "Interface = any", 1))
	d.signal(unix.SIGHUP)
	n.eventually("held on eth0", func() bool {
		n.knock(1, "-d20", hostAddr, "7100", "8100")
		return strings.Contains(d.logged(), "10.9.0.3: held: OPEN SESAME")
	})
	n.eventually("few open files", func() bool { // the firewall's commands have some
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
		return err == nil && len(fds) <= 20
	})
	d.stop()
}

// TestWatchRoutesToo: no change is lost when the default routes are followed from then on, too.
func TestWatchRoutesToo(t *testing.T) {
	needRoot(t)
	w := &world{T: t}
	n := w.netns()
	base, err := newListener(false, false)
	w.must(err)
	bring := func(l *Listener, list string) (next *Listener) {
		w.must(n.do(func() (err error) {
			next, err = l.bring(&Config{Interfaces: []string{list}}, nil)
			return err
		}))
		return next
	}
	l := bring(base, "eth0")
	w.must(n.run("ip", "link", "set", "lo", "down"))
	<-l.changed
	w.must(n.run("ip", "link", "set", "lo", "up")) // in the pause after the news before
	next := bring(l, autoInterface)
	defer next.close(base)
	go func() { <-l.plans }()
	next.replace(l)
	if !told(l.changed, true) {
		t.Error("the last change is not told")
	}
}

// TestListenerAsks has the reader answer what is asked of it about bars, before its end and after.
func TestListenerAsks(t *testing.T) {
	l, err := newListener(false, false)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		plan := <-l.plans
		plan.ask.answer <- Answer{Lifted: 7}
		<-l.plans // and no answer
		close(l.ended)
	}()
	if a := l.ask(Request{Close: true}); a.Err != nil || a.Lifted != 7 {
		t.Errorf("got %+v, want 7 lifted", a)
	}
	for range 3 { // with the second one nobody is there to take it
		if a := l.ask(Request{}); a.Err != nil || a.Status.Bars != nil {
			t.Errorf("after the reader's end: got %+v, want nothing", a)
		}
	}
}

// TestLabel has an address with a label: knocks at it alone count for who names the label, as it comes and goes.
func TestLabel(t *testing.T) {
	w := newWorld(t, 1)
	label := func(verb string) {
		w.must(w.host.run("ip", "address", verb, "10.9.0.100/24", "dev", "eth0", "label", "eth0:1"))
	}
	label("add")
	d := w.serve("[whole]\n sequence = 5000,6000\n command = true\n interface = eth0\n"+
		"[labelled]\n sequence = 7000,8000\n command = true\n", "-i", "eth0:1,nosuch:2")
	d.await("interface nosuch:2 does not exist yet: waiting for it (there are eth0, lo)\n")
	knock := func(address string, ports ...string) { w.knock(0, append([]string{"-d20", address}, ports...)...) }
	knock(hostAddr, "7000", "8000")
	knock(hostAddr6, "7000", "8000")
	knock(hostAddr, "5000", "6000")
	d.await("whole: OPEN SESAME")
	if strings.Contains(d.logged(), "labelled: Stage") {
		t.Error("a knock at another address has counted")
	}
	knock("10.9.0.100", "7000", "8000")
	d.await("labelled: OPEN SESAME")
	label("delete")
	d.await("interface eth0:1 does not exist yet: waiting for it")
	label("add")
	w.eventually("the label's return", func() bool {
		knock("10.9.0.100", "7000", "8000")
		return strings.Count(d.logged(), "labelled: OPEN SESAME") > 1
	})
}

// TestDoorPortIsNoDecoy has a door near its own knocks, on which nothing listens here: it may be forwarded.
func TestDoorPortIsNoDecoy(t *testing.T) {
	w := newWorld(t, 2)
	d := w.serve("[options]\n\tStateDir = " + t.TempDir() + "\n[web]\n\tsequence = 7000,9000\n\topen_ports = 7001,7002\n\thide = yes\n")
	w.knock(0, "-d20", hostAddr, "7001", "7002", "7000", "9000")
	d.await("10.9.0.2: web: open for")
	w.knock(1, "-d20", hostAddr, "7003", "7004", "7000", "9000")
	d.await("10.9.0.3: web: barred for")
}

// TestAutoForgets has more links in turn than auto remembers: of those that are gone one is forgotten, so that ports are
// hidden on the one that is there. With too many at once, the one left out is named.
func TestAutoForgets(t *testing.T) {
	n := newLinkTest(t, "auto")
	each := func(from, to int, do string) {
		n.Helper()
		n.must(n.host.run("sh", "-ec", fmt.Sprintf("for i in $(seq %d %d); do %s; done | ip -batch -", from, to, do)))
	}
	each(1, maxAutoLinks, "echo link add d$i type bridge; echo link set d$i up; echo route add default dev d$i metric $i")
	d := n.serve()
	each(1, 1, "echo link del d$i")
	wan := n.wan(0, "wan")
	n.must(n.host.run("ip", "route", "add", "default", "via", "10.8.0.2"))
	d.await("interface wan: up, 10.8.0.1")
	n.awaitPort(0, wan+":22", hidden)
	n.opens(0, wan)
	if strings.Contains(d.logged(), "hides no port") {
		t.Error("one is left out, although there is room")
	}
	lte := n.wan(1, "lte")
	n.must(n.host.run("ip", "route", "add", "default", "via", "10.8.1.2", "metric", "1"))
	d.await("warning: interface lte: auto hides no port there, as it has 32 other interfaces: name it in Interface")
	n.wantPort(1, lte+":22", reached)
	d.stop()
	d = n.serve()
	n.awaitPort(0, wan+":22", hidden)
	d.await("warning: interface lte: auto hides no port there")
	d.stop()
}
