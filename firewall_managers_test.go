//go:build linux && !pure

package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// managedHost is a host whose firewall belongs to a program that knows nothing of ours. TCP port 22 and UDP port 51820 are
// open to everybody there, or what is published.
type managedHost struct {
	name     string
	packages string                         // Debian's, which are installed on the host
	heavy    bool                           // make firewall-test alone tries it
	setUp    string                         // run by the shell on the host, before the daemon starts
	steps    []adminStep                    // what an administrator does; make test does the first
	only     bool                           // its rules cannot be added to: what it closes stays closed
	publish  bool                           // TCP port 8080 and UDP port 5353 are a container's
	more     func(m *managed)               // done while the door is open
	files    func(t *testing.T, dir string) // puts files into the host's folder /machine
}

// adminStep is something that an administrator does.
type adminStep struct {
	what    string
	do      string // a script of the shell
	flushes bool   // everybody's rules are taken away by it
}

// stepsOf are steps by what is run.
func stepsOf(all ...string) (steps []adminStep) {
	for _, line := range all {
		steps = append(steps, adminStep{what: line, do: line})
	}
	return steps
}

const (
	// strangerPause is from one attempt of a stranger to get in to the next.
	strangerPause = 4 * time.Millisecond
	// flushLimit is how long a stranger may get in after a flush of everybody's rules. The aim is 30 ms; other work on the
	// machine makes it longer.
	flushLimit = 100 * time.Millisecond
	// settling is how long the rules may take to be right again: what lets in waits for a look at the host's, and that for
	// twenty times as long as the one before took.
	settling = time.Minute
	// services are how many kube-proxy has rules for.
	services, servicesQuick = 12000, 1200
)

// statefulNFT is a firewall in nft's language, and statefulIPTables in that of iptables-restore.
const (
	statefulNFT = `
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport 22 accept
		udp dport 51820 accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
`
	statefulIPTables = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p PING -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -p udp -m udp --dport 51820 -j ACCEPT
COMMIT
`
	startFirewalld = `start() { setsid firewalld --nofork --nopid > /tmp/firewalld 2>&1 < /dev/null &
	i=0; until firewall-cmd -q --state 2> /dev/null; do sleep 0.1; i=$((i+1)); [ $i -lt 200 ] || { cat /tmp/firewalld; exit 1; }; done; }
stop() { pkill firewalld; while firewall-cmd -q --state 2> /dev/null; do sleep 0.1; done; }
`
	// ownTable has a program own a table. It reads what it is to do with it from a pipe.
	ownTable = `setsid nft -i <> /tmp/fifo > /tmp/nft 2>&1 &
cat /machine/rules > /tmp/fifo; until nft list table inet filter > /tmp/listed 2>&1; do sleep 0.05; done`
	setUpFirewalld = `mkdir -p /run/dbus; dbus-uuidgen --ensure; dbus-daemon --system --fork
firewall-offline-cmd -q --add-service=ssh; firewall-offline-cmd -q --add-port=51820/udp
` + startFirewalld + "start"
)

// setUpFail2ban has an action ban who fails at port 22.
func setUpFail2ban(action string) string {
	return `: > /var/log/auth.log
cat > /etc/fail2ban/jail.local <<'END'
[DEFAULT]
banaction = ` + action + `
[sshd]
enabled = true
backend = polling
END
fail2ban-client start`
}

// saveByNFT saves all rules there are, and restores them.
var saveByNFT = adminStep{what: "nft list ruleset > saved; nft -f saved", flushes: true,
	do: "{ echo flush ruleset; nft -s list ruleset; } > /tmp/saved; nft -f /tmp/saved"}

var managedHosts = []managedHost{
	{
		name: "ufw", packages: "ufw",
		setUp: "ufw allow 22/tcp; ufw allow 51820/udp; ufw --force enable",
		steps: stepsOf("ufw reload", "ufw allow 9999/tcp", "ufw delete allow 9999/tcp", "ufw default reject", "ufw disable",
			"ufw --force enable", "/lib/ufw/ufw-init flush-all", "/lib/ufw/ufw-init start"),
	},
	{
		name: "firewalld", packages: "firewalld",
		setUp: setUpFirewalld,
		steps: append(stepsOf("firewall-cmd -q --reload", "firewall-cmd -q --add-port=9999/tcp", "firewall-cmd -q --complete-reload",
			"firewall-cmd -q --set-default-zone=drop", "firewall-cmd -q --set-default-zone=public"),
			adminStep{what: "firewalld restarts", do: startFirewalld + "stop; start"},
			adminStep{what: "firewalld stops", do: startFirewalld + "stop"},
			adminStep{what: "firewalld starts", do: startFirewalld + "start"}),
	},
	{
		name: "firewalld, iptables backend", packages: "firewalld ipset", heavy: true,
		setUp: "sed -i s/^FirewallBackend=.*/FirewallBackend=iptables/ /etc/firewalld/firewalld.conf\n" + setUpFirewalld,
		steps: append(stepsOf("firewall-cmd -q --reload", "firewall-cmd -q --complete-reload"),
			adminStep{what: "firewalld stops", do: startFirewalld + "stop"},
			adminStep{what: "firewalld starts", do: startFirewalld + "start"}),
	},
	{
		// A newer firewalld owns its table (NftablesTableOwner): nobody else can change it, and it ends with its owner.
		name: "a table that is owned", only: true,
		setUp: "mkfifo /tmp/fifo\n" + ownTable,
		steps: []adminStep{
			{what: "its owner makes it anew", do: "echo \"delete table inet filter; $(cat /machine/rules)\" > /tmp/fifo; sleep 0.3"},
			{what: "its owner ends", do: "pkill -o -x nft; while nft list table inet filter > /dev/null 2>&1; do sleep 0.05; done"},
			{what: "its owner starts", do: ownTable},
		},
		files: puts("rules", "add table inet filter { flags owner; }; "+
			"add chain inet filter input { type filter hook input priority filter; policy drop; }; "+
			"add rule inet filter input ct state { established, related } accept; "+
			"add rule inet filter input meta l4proto { icmp, ipv6-icmp } accept; "+
			"add rule inet filter input tcp dport 22 accept; add rule inet filter input udp dport 51820 accept\n"),
	},
	{
		name: "shorewall", packages: "shorewall shorewall6",
		setUp: `for n in 4 6; do
	dir=/etc/shorewall; [ $n = 4 ] || dir=/etc/shorewall6
	sed -i s/^STARTUP_ENABLED=.*/STARTUP_ENABLED=Yes/ $dir/shorewall*.conf
	printf 'fw firewall\nnet ipv%d\n' $n > $dir/zones
	printf '?FORMAT 2\nnet eth0\n' > $dir/interfaces
	printf '$FW all ACCEPT\nnet all DROP\nall all REJECT\n' > $dir/policy
	printf '?SECTION NEW\nACCEPT net $FW tcp 22\nACCEPT net $FW udp 51820\nACCEPT net $FW icmp\n' > $dir/rules
	: > $dir/stoppedrules
done
shorewall start; shorewall6 start`,
		steps: stepsOf("shorewall reload; shorewall6 reload", "shorewall restart; shorewall6 restart", "shorewall save; shorewall6 save",
			"shorewall clear; shorewall6 clear", "shorewall start; shorewall6 start", "shorewall stop; shorewall6 stop",
			"shorewall restore; shorewall6 restore"),
	},
	{
		name: "ferm", packages: "ferm",
		setUp: `cat > /etc/ferm/ferm.conf <<'END'
domain (ip ip6) table filter {
	chain INPUT {
		policy DROP;
		mod state state INVALID DROP;
		mod state state (ESTABLISHED RELATED) ACCEPT;
		interface lo ACCEPT;
		@if @eq($DOMAIN, ip6) proto ipv6-icmp ACCEPT;
		proto tcp dport 22 ACCEPT;
		proto udp dport 51820 ACCEPT;
	}
	chain FORWARD policy DROP;
}
END
ferm /etc/ferm/ferm.conf`,
		steps: stepsOf("ferm /etc/ferm/ferm.conf", "ferm --slow /etc/ferm/ferm.conf", "ferm --flush /etc/ferm/ferm.conf", "ferm /etc/ferm/ferm.conf"),
	},
	{
		name: "netfilter-persistent", packages: "iptables-persistent",
		setUp: "cp /machine/rules.v? /etc/iptables; netfilter-persistent start",
		steps: stepsOf("netfilter-persistent save; netfilter-persistent reload", "netfilter-persistent restart", "netfilter-persistent flush",
			"netfilter-persistent start"),
		files: func(t *testing.T, dir string) {
			puts("rules.v4", strings.Replace(statefulIPTables, "PING", "icmp", 1))(t, dir)
			puts("rules.v6", strings.Replace(statefulIPTables, "PING", "ipv6-icmp", 1))(t, dir)
		},
	},
	{
		name: "iptables-legacy, saved and restored", heavy: true,
		setUp: "iptables-legacy-restore /machine/rules.v4; ip6tables-legacy-restore /machine/rules.v6",
		steps: []adminStep{
			{what: "iptables-legacy-restore", do: "iptables-legacy-restore /machine/rules.v4; ip6tables-legacy-restore /machine/rules.v6"},
			{what: "iptables-legacy-save, iptables-legacy-restore", do: "iptables-legacy-save > /tmp/v4; ip6tables-legacy-save > /tmp/v6\n" +
				"iptables-legacy-restore /tmp/v4; ip6tables-legacy-restore /tmp/v6"},
			{what: "iptables-legacy -F", do: "for t in iptables-legacy ip6tables-legacy; do $t -w -P INPUT ACCEPT; $t -w -F; $t -w -X; done"},
		},
		files: func(t *testing.T, dir string) {
			puts("rules.v4", strings.Replace(statefulIPTables, "PING", "icmp", 1))(t, dir)
			puts("rules.v6", strings.Replace(statefulIPTables, "PING", "ipv6-icmp", 1))(t, dir)
		},
	},
	{
		name:  "nftables.service",
		setUp: "cp /machine/nftables.conf /etc; nft -f /etc/nftables.conf",
		steps: []adminStep{{"nft -f /etc/nftables.conf", "nft -f /etc/nftables.conf", true}, saveByNFT, {"nft flush ruleset", "nft flush ruleset", true}},
		files: puts("nftables.conf", "flush ruleset\n"+statefulNFT),
	},
	{
		name: "iptables, saved by nft", heavy: true,
		setUp: "iptables-restore /machine/rules.v4; ip6tables-restore /machine/rules.v6",
		steps: []adminStep{saveByNFT},
		files: func(t *testing.T, dir string) {
			puts("rules.v4", strings.Replace(statefulIPTables, "PING", "icmp", 1))(t, dir)
			puts("rules.v6", strings.Replace(statefulIPTables, "PING", "ipv6-icmp", 1))(t, dir)
		},
	},
	{
		name: "fail2ban, iptables", packages: "fail2ban",
		setUp: setUpFail2ban("iptables-multiport"),
		steps: stepsOf("fail2ban-client reload", "fail2ban-client restart", "fail2ban-client stop", "fail2ban-client start"),
		more: func(m *managed) {
			m.ban("iptables -w -S f2b-sshd | grep -q 10.9.0.2 && ip6tables -w -S f2b-sshd | grep -q fd00:9::2")
		},
	},
	{
		name: "fail2ban, nft", packages: "fail2ban",
		setUp: setUpFail2ban("nftables-multiport"),
		steps: stepsOf("fail2ban-client reload", "fail2ban-client restart", "fail2ban-client stop", "fail2ban-client start"),
		more: func(m *managed) {
			m.ban("nft list table inet f2b-table | grep -q 10.9.0.2 && nft list table inet f2b-table | grep -q fd00:9::2")
		},
	},
	{
		name: "podman", packages: "podman containernetworking-plugins", heavy: true, publish: true,
		setUp: `printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers"\ngraphroot = "/var/lib/containers"\n' > /etc/containers/storage.conf
tar -C /machine -c echo | podman import -q - echo > /dev/null
podman network create --ipv6 --subnet 10.77.7.0/24 --subnet fd00:77::/64 web
podman run -d --cgroups disabled --name web --network web -p 8080:80 -p 5353:53/udp echo /echo`,
		steps: stepsOf("podman network reload web", "podman restart -t 0 web", "podman stop -t 0 web; podman start web"),
		files: func(t *testing.T, dir string) {
			cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "echo"), "./testdata/managers/echo")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		},
	},
	{
		name:  "fw4",
		setUp: "nft -f /machine/fw4",
		steps: []adminStep{{what: "fw4 reload", do: "nft -f /machine/fw4"}, {what: "fw4 stop", do: "nft flush ruleset", flushes: true},
			{what: "fw4 start", do: "nft -f /machine/fw4"}},
		files: func(t *testing.T, dir string) {
			_, rules, _ := strings.Cut(fw4Table, "<<'END'\n")
			rules, _, _ = strings.Cut(rules, "\nEND")
			open := "\t\ttcp dport 22 accept\n\t\tudp dport 51820 accept\n\t\tjump drop_from_wan\n"
			puts("fw4", strings.Replace(rules, "\t\tjump drop_from_wan\n", open, 1))(t, dir)
		},
	},
	{
		name:  "kube-proxy",
		setUp: "for t in iptables-restore ip6tables-restore; do $t -w --noflush /machine/$t; done",
		steps: []adminStep{
			{what: "all services are written", do: "for t in iptables-restore ip6tables-restore; do $t -w --noflush /machine/$t; done"},
			{what: "one service more", do: "iptables -w -t nat -A KUBE-SERVICES -d 10.96.255.255/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ"},
		},
		files: func(t *testing.T, dir string) {
			n := servicesQuick
			if firewallTestFull() {
				n = services
			}
			puts("iptables-restore", kubeProxy(n, "10.96.%d.%d/32", "10.244.%d.%d", "10.244.0.0/16"))(t, dir)
			puts("ip6tables-restore", kubeProxy(n, "fd00:96::%x:%x/128", "[fd00:244::%x:%x]", "fd00:244::/64"))(t, dir)
		},
	},
}

// puts is a function that puts a file into the host's folder /machine.
func puts(name, text string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// kubeProxy is what kube-proxy has iptables-restore do (pkg/proxy/iptables). A sixth of the services have endpoints, two
// each: more of them take iptables minutes.
func kubeProxy(n int, service, endpoint, pods string) string {
	var chains, nat, filter strings.Builder
	for i := range n {
		at := fmt.Sprintf(service, i/250, i%250+1)
		if i%6 != 0 {
			fmt.Fprintf(&filter, "-A KUBE-SERVICES -m comment --comment \"default/service-%d has no endpoints\" -m tcp -p tcp -d %s --dport 80 -j REJECT\n", i, at)
			continue
		}
		fmt.Fprintf(&chains, ":KUBE-SVC-%d - [0:0]\n", i)
		comment := fmt.Sprintf(`-m comment --comment "default/service-%d"`, i)
		fmt.Fprintf(&nat, "-A KUBE-SERVICES %s -m tcp -p tcp -d %s --dport 80 -j KUBE-SVC-%d\n", comment, at, i)
		fmt.Fprintf(&nat, "-A KUBE-SVC-%d %s -m tcp -p tcp -d %s --dport 80 ! -s %s -j KUBE-MARK-MASQ\n", i, comment, at, pods)
		for j, chance := range []string{"-m statistic --mode random --probability 0.5 ", ""} {
			to := fmt.Sprintf(endpoint, i/120, i%120*2+j+1)
			fmt.Fprintf(&chains, ":KUBE-SEP-%d-%d - [0:0]\n", i, j)
			fmt.Fprintf(&nat, "-A KUBE-SVC-%d %s %s-j KUBE-SEP-%d-%d\n", i, comment, chance, i, j)
			fmt.Fprintf(&nat, "-A KUBE-SEP-%d-%d %s -s %s -j KUBE-MARK-MASQ\n", i, j, comment, strings.Trim(to, "[]"))
			fmt.Fprintf(&nat, "-A KUBE-SEP-%d-%d %s -m tcp -p tcp -j DNAT --to-destination %s:8080\n", i, j, comment, to)
		}
	}
	return `*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:INPUT ACCEPT [0:0]
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
` + filter.String() + `COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
` + chains.String() + `-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
` + nat.String() + `-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
`
}

// firewallTestFull says whether this is make firewall-test, which tries everything, and prints what it has measured.
func firewallTestFull() bool { return os.Getenv("SESAME_FIREWALL_TEST") != "" }

// windowFor is how long a stranger got in when an administrator did something.
type windowFor struct {
	what   string
	length time.Duration
}

// notHidden is the length of a window that nobody has seen the end of.
const notHidden = time.Duration(math.MaxInt64)

func (w windowFor) String() string {
	length := fmt.Sprintf("%d ms", w.length.Milliseconds())
	if w.length == notHidden {
		length = fmt.Sprintf("over %v", settling)
	}
	return fmt.Sprintf("%-62s  %s", w.what, length)
}

// managed is a managed host with the daemon on it. Client 0 knocks, and client 1 is a stranger.
type managed struct {
	*firewallTest
	host     managedHost
	machine  *bootedHost
	tcp, udp []string // the door's ports; the first of each is open to everybody as far as the manager goes
	windows  []windowFor
	serves   bool // it has started
	shows    bool // something has been wrong: what hidden ports look like is not waited for again
}

// TestManagers has programs that manage firewalls do what they do, while ports are hidden, open to one source, and
// closed again.
func TestManagers(t *testing.T) {
	needRoot(t)
	if firewallTestFull() {
		fmt.Printf("\n    %s\n    %-64s  a stranger gets in for\n", measuredOn(), "While TCP port 22 and UDP port 51820 are hidden")
	}
	for _, host := range managedHosts {
		if host.heavy && !firewallTestFull() {
			continue
		}
		t.Run(host.name, func(t *testing.T) {
			m := newManaged(t, host)
			defer m.print()
			m.life()
		})
	}
}

// print prints the host's part of the table.
func (m *managed) print() {
	if !firewallTestFull() {
		return
	}
	part := fmt.Sprintf("\n    %s\n", m.host.name)
	for _, w := range m.windows {
		part += fmt.Sprintf("      %v\n", w)
	}
	fmt.Print(part) // at once: other hosts print theirs
}

// managerPackages is the folder of the packages that a manager is made of.
func managerPackages(t *testing.T, packages string) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must run on Debian or a system made from it: nothing may be skipped there")
		}
		t.Skip("needs Debian's packages of firewall managers: run it on Debian or a system made from it")
	}
	cmd := exec.Command("sh", append([]string{"testdata/managers/fetch.sh"}, strings.Fields(packages)...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	case err != nil:
		t.Skip(strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out))
}

// newManaged makes the host. No package starts a service there, and nothing loads modules into the machine's kernel.
func newManaged(t *testing.T, host managedHost) *managed {
	m := &managed{firewallTest: &firewallTest{world: newWorld(t, 2)}, host: host, tcp: []string{"22"}, udp: []string{"51820"}}
	before := `printf '#!/bin/sh\nexit 101\n' > usr/sbin/policy-rc.d
chmod +x usr/sbin/policy-rc.d
ln -sf /bin/true sbin/modprobe
ln -sf /bin/true usr/bin/mandb
mkdir debs
`
	if host.packages != "" {
		before += "mount --bind " + managerPackages(t, host.packages) + " debs\n"
	}
	switch {
	case host.publish:
		m.tcp, m.udp = []string{"8080"}, []string{"5353"}
	default:
		if !host.only {
			m.tcp, m.udp = append(m.tcp, "2222"), append(m.udp, "51821")
		}
		m.listen(m.tcp...)
		m.echo(m.udp...)
	}
	// Without these a closed port answers only now and then (icmp(7), icmp_ratelimit).
	m.must(m.world.host.run("sh", "-ec", "cd /proc/sys/net; echo 0 > ipv4/icmp_ratemask; echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit"))
	m.machine = boot(t, m.world.host, noInit, before)
	if host.packages != "" {
		// The second run is for a package that has to be there before another one is unpacked.
		m.machine.run(`export DEBIAN_FRONTEND=noninteractive
install() { dpkg -i --force-unsafe-io --force-confmiss --force-confnew /debs/*.deb > /tmp/dpkg 2>&1; }
install || install || { cat /tmp/dpkg; exit 1; }`)
	}
	if host.files != nil {
		host.files(t, m.machine.dir)
	}
	m.machine.run("set -e\n" + host.setUp)
	doors := "[options]\n\tLogFile = /var/log/sesame.log\n"
	for _, door := range []struct {
		name, sequence string
		seconds        int
	}{{"ssh", "7000,9000,8000", 3600}, {"brief", "7100,9100,8100", 10}} {
		doors += fmt.Sprintf("[%s]\n\tSequence = %s\n\tOpen_Ports = %s,%s:udp\n\tCmd_Timeout = %d\n\tHide = yes\n",
			door.name, door.sequence, strings.Join(m.tcp, ","), strings.Join(m.udp, ":udp,"), door.seconds)
	}
	puts("knockd.conf", doors)(t, m.machine.dir)
	return m
}

// echo sends back datagrams that come to ports of the host, over both families.
func (m *managed) echo(ports ...string) {
	m.Helper()
	for _, port := range ports {
		m.must(m.world.host.do(func() error {
			conn, err := net.ListenPacket("udp", ":"+port)
			if err != nil {
				return err
			}
			m.Cleanup(func() { _ = conn.Close() })
			go func() {
				b := make([]byte, 100)
				for {
					n, from, err := conn.ReadFrom(b)
					if errors.Is(err, net.ErrClosed) {
						return
					}
					_, _ = conn.WriteTo(b[:n], from)
				}
			}()
			return nil
		}))
	}
}

// life follows the host through everything.
func (m *managed) life() {
	out := m.machine
	m.await("before the daemon starts", m.open(1, m.tcp[:1], m.udp[:1]))
	m.serve()
	m.Cleanup(func() {
		if m.Failed() {
			log, _ := out.output("cat /var/log/sesame.log")
			m.Logf("the daemon's log:\n%s", log)
		}
	})
	if said, err := out.output("/machine/sesame check -c /machine/knockd.conf"); err != nil {
		m.Errorf("check: %v: %s", err, said)
	}
	if !m.await("hidden", m.hidden(0, 1)) {
		m.windows = append(m.windows, windowFor{"the daemon starts", notHidden})
		return
	}
	m.await("hidden", m.unseen(0, 1))
	m.knockOnce("7000", "9000", "8000")
	m.await("open", m.open(0, m.tcp, m.udp))
	m.await("open to another", m.hidden(1))
	live := m.dial()
	s := m.stranger(1)
	alive := func(when string) {
		m.Helper()
		for _, conn := range live {
			m.wantAlive("a live connection, "+when, conn)
		}
	}
	steps, patience := m.host.steps[:1], 300*time.Millisecond
	if firewallTestFull() {
		steps, patience = m.host.steps, 2*time.Second
	}
	for _, step := range steps {
		m.during(s, step)
		hidden := m.await(step.what, m.hidden(1))
		m.await(step.what, m.open(0, m.tcp, m.udp))
		if !m.shows {
			m.await(step.what, m.unseen(1))
		}
		if m.host.publish { // the container's, which is another one now
			live = m.dial()
		} else {
			alive(step.what)
		}
		time.Sleep(patience) // it may come later
		m.record(s, step, hidden)
	}
	if m.host.more != nil {
		m.host.more(m)
	}

	out.run("/machine/sesame close --all")
	m.await("closed", m.hidden(0, 1))
	alive("closed")
	again := steps[0]
	again.what += ", closed"
	m.during(s, again)
	hidden := m.await(again.what, m.hidden(0, 1))
	if !m.host.publish {
		alive(again.what)
	}
	m.record(s, again, hidden)

	// With an open door, its power is taken away. The kernel closes the door.
	// It may be over before the host's rules are looked at again, as they have just been made anew.
	m.await("open for 10 s", func() string {
		m.knockOnce("7100", "9100", "8100")
		return m.open(0, m.tcp, m.udp)()
	})
	out.run("kill -9 $(cat /run/sesame.pid)")
	m.await("killed", m.hidden(0, 1))
	m.serve()
	hidden = m.await("started again", m.hidden(0, 1))
	m.record(s, adminStep{what: "kill -9, and a start"}, hidden)
	s.stop()

	m.stop()
	out.run("/machine/sesame flush -c /machine/knockd.conf")
	rules := out.run("nft list ruleset; for t in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do $t-save; done 2>&1")
	for line := range strings.Lines(rules) {
		if strings.Contains(strings.ToLower(line), "sesame") {
			m.Errorf("flushed: the rules have %s", line)
		}
	}
	if !m.host.publish {
		alive("flushed")
	}
}

// serve starts the daemon.
func (m *managed) serve() {
	m.Helper()
	defer func() {
		if m.Failed() && !m.serves {
			m.windows = append(m.windows, windowFor{"the daemon does not start", notHidden})
		}
	}()
	m.machine.run("/machine/sesame serve -d -c /machine/knockd.conf -i eth0 -p /run/sesame.pid")
	m.serves = true
}

// stop stops it.
func (m *managed) stop() {
	m.Helper()
	m.machine.run("kill $(cat /run/sesame.pid); while [ -e /run/sesame.pid ]; do sleep 0.05; done")
}

func (m *managed) knockOnce(ports ...string) {
	m.Helper()
	m.knock(0, append([]string{"-4", "-d20", hostAddr}, ports...)...)
	m.knock(0, append([]string{"-6", "-d20", hostAddr6}, ports...)...)
}

// dial connects client 0 to the first of the ports, over each protocol and family.
func (m *managed) dial() (all []net.Conn) {
	m.Helper()
	for _, address := range []string{hostAddr, hostAddr6} {
		for protocol, port := range map[string]string{"tcp": m.tcp[0], "udp": m.udp[0]} {
			var conn net.Conn
			m.must(m.clients[0].do(func() (err error) {
				conn, err = net.DialTimeout(protocol, net.JoinHostPort(address, port), 10*time.Second)
				return err
			}))
			m.Cleanup(func() { _ = conn.Close() })
			m.wantAlive("a new connection", conn)
			all = append(all, conn)
		}
	}
	return all
}

// answers says what client i gets from the ports, by protocol, address and port.
func (m *managed) answers(i int, patience time.Duration, tcpPorts, udpPorts []string) map[string]string {
	type answer struct{ from, came string }
	answers := make(chan answer)
	count := 0
	ask := func(protocol string, ports []string, came func(n *Netns, to string) string) {
		for _, port := range ports {
			for _, address := range []string{hostAddr, hostAddr6} {
				to := net.JoinHostPort(address, port)
				go func() { answers <- answer{protocol + " " + to, came(m.clients[i], to)} }()
				count++
			}
		}
	}
	ask("tcp", tcpPorts, func(n *Netns, to string) string { return probe(n, "", to, patience) })
	ask("udp", udpPorts, func(n *Netns, to string) string { return datagram(n, to, patience) })
	all := map[string]string{}
	for range count {
		a := <-answers
		all[a.from] = a.came
	}
	return all
}

// closedPort is nobody's.
const closedPort = "1023"

// datagram says what one that is sent comes to.
func datagram(n *Netns, to string, patience time.Duration) (came string) {
	err := n.do(func() error {
		conn, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	})
	var errno syscall.Errno
	switch {
	case err == nil:
		return reached
	case errors.As(err, &errno):
		return errno.Error()
	}
	return filtered
}

// open is a condition: client i gets in at the ports. It returns what is not so.
func (m *managed) open(i int, tcpPorts, udpPorts []string) func() string {
	return func() string {
		return notAsWanted(i, m.answers(i, 3*probePatience, tcpPorts, udpPorts), func(_, came string) string { return reached })
	}
}

// hidden is a condition: none of the clients gets in at a port of the door.
func (m *managed) hidden(clients ...int) func() string {
	return func() (wrong string) {
		for _, i := range clients {
			wrong += notAsWanted(i, m.answers(i, probePatience, m.tcp, m.udp), func(_, came string) string {
				if came == reached {
					return "anything else"
				}
				return came
			})
		}
		return wrong
	}
}

// unseen is a condition: to the clients all ports of the door look like a closed port.
func (m *managed) unseen(clients ...int) func() string {
	tcpPorts, udpPorts := append([]string{closedPort}, m.tcp...), append([]string{closedPort}, m.udp...)
	return func() (wrong string) {
		for _, i := range clients {
			answers := m.answers(i, probePatience, tcpPorts, udpPorts)
			wrong += notAsWanted(i, answers, func(from, _ string) string { return answers[closedAt(from)] })
		}
		return wrong
	}
}

// notAsWanted says what client i got that it should not have.
func notAsWanted(i int, answers map[string]string, want func(from, came string) string) string {
	var wrong []string
	for _, from := range slices.Sorted(maps.Keys(answers)) {
		if want := want(from, answers[from]); answers[from] != want {
			wrong = append(wrong, fmt.Sprintf("client %d gets from %s: %s, want %s", i, from, answers[from], want))
		}
	}
	if len(wrong) > 1 {
		return fmt.Sprintf("%s, and %d more; ", wrong[0], len(wrong)-1)
	}
	return strings.Join(wrong, "")
}

func closedAt(from string) string { return from[:strings.LastIndex(from, ":")] + ":" + closedPort }

// await waits until nothing is wrong any more, and says whether that is so.
func (m *managed) await(when string, condition func() string) bool {
	m.Helper()
	wrong := condition()
	for deadline := time.Now().Add(settling); wrong != "" && time.Now().Before(deadline); wrong = condition() {
		time.Sleep(50 * time.Millisecond)
	}
	if wrong != "" {
		m.Errorf("%s: %s", when, wrong)
		m.shows = true
	}
	return wrong == ""
}

// during does something on the host. The window begins anew with it.
func (m *managed) during(s *stranger, step adminStep) {
	m.Helper()
	s.window()
	if out, err := m.machine.output("set -e\n" + step.do); err != nil {
		m.Errorf("%s: %v: %s", step.what, err, out)
	}
}

// record ends the window of a step, and wants it to be none.
func (m *managed) record(s *stranger, step adminStep, hidden bool) {
	m.Helper()
	length, limit := s.window(), time.Duration(0)
	switch {
	case !hidden:
		length = notHidden
	case step.flushes && firewallTestFull():
		limit = flushLimit
	case step.flushes: // other tests run at the same time
		limit = settling / 3
	}
	if hidden && length > limit {
		m.Errorf("%s: a stranger gets in for %v, want %v at most", step.what, length, limit)
	}
	m.windows = append(m.windows, windowFor{step.what, length})
}

// ban has fail2ban ban the source that knocks: it stays out, also when the daemon starts again, until the ban ends.
// banned is a condition of the shell.
func (m *managed) ban(banned string) {
	m.Helper()
	m.machine.run("fail2ban-client set sshd banip 10.9.0.2 fd00:9::2")
	m.eventually("the ban", func() bool { _, err := m.machine.output(banned); return err == nil })
	guest := m.stranger(0)
	defer guest.stop()
	steps := []struct {
		when string
		do   func()
	}{
		{"banned", func() { time.Sleep(2 * time.Second) }},
		{"the daemon reloads", func() {
			m.machine.run("kill -HUP $(cat /run/sesame.pid)")
			time.Sleep(2 * time.Second)
		}},
		{"the daemon starts again", func() {
			m.stop()
			m.serve()
			m.knockOnce("7000", "9000", "8000")
			time.Sleep(2 * time.Second)
		}},
	}
	for _, step := range steps {
		guest.window()
		step.do()
		if length := guest.window("tcp"); length > time.Second {
			m.Errorf("banned, %s: it gets in for %v", step.when, length)
		}
	}
	m.machine.run("fail2ban-client set sshd unbanip 10.9.0.2 fd00:9::2")
	m.await("the ban has ended", m.open(0, m.tcp, m.udp))
}

// stranger tries to get in again and again, by a single SYN and a single datagram over each family, each time from a port
// of its own.
type stranger struct {
	asked chan []string      // for which protocols a window is wanted
	said  chan time.Duration // how long it was
	ended chan struct{}
}

// oneTry is one of a stranger's.
type oneTry struct {
	fd   int // -1: it has come to something
	sent time.Time
	in   bool
}

// attemptPatience is how long an answer may take: less than the second after which the kernel would send another SYN.
const attemptPatience = 800 * time.Millisecond

// stranger has client i begin.
func (m *managed) stranger(i int) *stranger {
	s := &stranger{asked: make(chan []string), said: make(chan time.Duration), ended: make(chan struct{})}
	ways := []*way{}
	for _, address := range []string{hostAddr, hostAddr6} {
		ways = append(ways, &way{protocol: "tcp", kind: unix.SOCK_STREAM, to: sockaddrOf(address, m.tcp[0])},
			&way{protocol: "udp", kind: unix.SOCK_DGRAM, to: sockaddrOf(address, m.udp[0])})
	}
	go func() {
		defer close(s.ended)
		if err := m.clients[i].do(func() error { return s.run(ways) }); err != nil {
			m.Errorf("client %d: %v", i, err)
		}
	}()
	m.Cleanup(s.stop)
	return s
}

// window is how long it got in since the last time that this was asked, by the protocols.
func (s *stranger) window(protocols ...string) time.Duration {
	if protocols == nil {
		protocols = []string{"tcp", "udp"}
	}
	select {
	case s.asked <- protocols:
		return <-s.said
	case <-s.ended:
		return 0
	}
}

func (s *stranger) stop() {
	if s.asked != nil {
		close(s.asked)
		<-s.ended
		s.asked = nil
	}
}

// way is a port over a protocol and a family.
type way struct {
	protocol string
	kind     int
	to       unix.Sockaddr
	source   uint16   // the port that the last attempt came from
	attempts []oneTry // since the last window
}

func sockaddrOf(address, port string) unix.Sockaddr {
	a, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(address, port))
	if err != nil {
		panic(err)
	}
	if ip := a.IP.To4(); ip != nil {
		return &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip)}
	}
	return &unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP)}
}

// run goes on until asked is closed.
func (s *stranger) run(ways []*way) error {
	defer func() {
		for _, w := range ways {
			w.look(0)
		}
	}()
	tick := time.NewTicker(strangerPause)
	defer tick.Stop()
	for {
		select {
		case protocols, ok := <-s.asked:
			if !ok {
				return nil
			}

			var spans []span
			for _, w := range ways {
				for w.waiting() { // nothing is sent meanwhile: the next window begins after that
					w.look(attemptPatience)
					time.Sleep(time.Millisecond)
				}
				if slices.Contains(protocols, w.protocol) {
					spans = append(spans, w.spans()...)
				}
				w.attempts = nil
			}
			s.said <- total(spans)
		case <-tick.C:
			for _, w := range ways {
				if err := w.try(); err != nil && !errors.Is(err, unix.EADDRINUSE) {
					return err
				}
				w.look(attemptPatience)
			}
		}
	}
}

// try sends a packet. Its source port comes again only after minutes, when the host's conntrack has forgotten it: a datagram
// may get in because one before it has.
func (w *way) try() error {
	w.source = max(w.source+1, 1024)
	family, from := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(w.source)})
	if _, v6 := w.to.(*unix.SockaddrInet6); v6 {
		family, from = unix.AF_INET6, &unix.SockaddrInet6{Port: int(w.source)}
	}
	fd, err := unix.Socket(family, w.kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if family == unix.AF_INET6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	// A connection ends by RST, and leaves nothing behind.
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err := unix.Bind(fd, from); err != nil {
		return errors.Join(unix.Close(fd), err)
	}
	w.attempts = append(w.attempts, oneTry{fd: fd, sent: time.Now()})
	if err := unix.Connect(fd, w.to); err == nil && w.kind == unix.SOCK_DGRAM {
		_, _ = unix.Write(fd, []byte("x"))
	}
	return nil
}

// look sees what attempts have come to, and gives up those that are older than patience.
func (w *way) look(patience time.Duration) {
	var fds []unix.PollFd
	var at []int
	for i, a := range w.attempts {
		if a.fd >= 0 {
			events := int16(unix.POLLOUT)
			if w.kind == unix.SOCK_DGRAM {
				events = unix.POLLIN
			}
			fds, at = append(fds, unix.PollFd{Fd: int32(a.fd), Events: events}), append(at, i)
		}
	}
	if _, err := unix.Poll(fds, 0); err != nil {
		return // interrupted: the next look sees it
	}
	for i, fd := range fds {
		a := &w.attempts[at[i]]
		switch {
		case fd.Revents&(unix.POLLERR|unix.POLLHUP) != 0:
		case fd.Revents != 0:
			a.in = true
		case time.Since(a.sent) < patience:
			continue
		}
		_ = unix.Close(a.fd)
		a.fd = -1
	}
}

// waiting says whether an attempt has not come to anything yet.
func (w *way) waiting() bool {
	return slices.ContainsFunc(w.attempts, func(a oneTry) bool { return a.fd >= 0 })
}

// span is a time for which somebody got in.
type span struct{ from, to time.Time }

// spans are those of the way: each attempt that got in stands for the time up to the next one.
func (w *way) spans() (spans []span) {
	for i, a := range w.attempts {
		if !a.in {
			continue
		}
		to := a.sent.Add(strangerPause)
		if i+1 < len(w.attempts) {
			to = w.attempts[i+1].sent
		}
		spans = append(spans, span{a.sent, to})
	}
	return spans
}

// total is how long it is all together, what overlaps counting once.
func total(spans []span) (sum time.Duration) {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var end time.Time
	for _, s := range spans {
		if s.from.Before(end) {
			s.from = end
		}
		if s.to.After(s.from) {
			sum += s.to.Sub(s.from)
			end = s.to
		}
	}
	return sum
}
