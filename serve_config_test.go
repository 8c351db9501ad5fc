//go:build linux && !pure

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestCapabilities runs it with those capabilities alone that it needs, and without each of them.
func TestCapabilities(t *testing.T) {
	for _, test := range []struct{ name, have, want string }{
		{"both", "+net_raw,+net_admin", ""},
		{"no CAP_NET_RAW", "+net_admin", "sesame serve: missing: CAP_NET_RAW (to see packets): run it as root, or give it what is missing\n"},
		{"no CAP_NET_ADMIN", "+net_raw", "sesame serve: missing: CAP_NET_ADMIN (for Open_Ports): run it as root, or give it what is missing\n"},
		{"none", "+kill", "sesame serve: missing: CAP_NET_RAW (to see packets) and CAP_NET_ADMIN (for Open_Ports): run it as root, or give it what is missing\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newLinkTest(t, "eth0")
			file := n.dir + "/knockd.conf"
			n.must(os.WriteFile(file, []byte(n.config), 0o600))
			cmd := sesame("sesame", "serve", "-c", file, "-i", "eth0", "-g", n.dir+"/log", "-s", n.socket)
			limited := exec.Command("setpriv", append([]string{"--bounding-set=-all," + test.have, "--inh-caps=-all", "--",
				"/bin/sh", "-c", `exec -a sesame "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)...)
			limited.Args[4], limited.Args[5] = "/bin/bash", "-c" // exec -a is bash's
			limited.Env = cmd.Env
			var out strings.Builder
			limited.Stderr = &out
			d := n.daemon(limited, file, n.dir+"/log")
			if test.want == "" {
				d.await("starting up, listening on eth0")
				n.opens(0, hostAddr)
				d.stop()
				return
			}
			d.wantExit(1)
			if out.String() != test.want {
				t.Errorf("got %q, want %q", out.String(), test.want)
			}
		})
	}
}

// TestReloadFailsAuto: a default route that a reload sees which fails afterwards is still news.
func TestReloadFailsAuto(t *testing.T) {
	needRoot(t)
	w := &world{T: t}
	n := w.netns()
	dir := t.TempDir()
	e := realEnv()
	e.socket = dir + "/control"
	w.must(n.do(func() error { // another daemon has the firewall
		lock, err := lockFirewall(dir)
		if err == nil {
			t.Cleanup(lock.remove)
		}
		return err
	}))
	file := dir + "/knockd.conf"
	w.must(os.WriteFile(file, []byte(linkDoors+"[options]\n\tInterface = auto\n\tStateDir = "+dir+"\n"), 0o600))
	var options serveOptions
	c, err := options.readConfig(file)
	w.must(err)
	base, err := newListener(false, false)
	w.must(err)
	inForce := &Setup{env: e, options: &options, config: c, state: &State{}}
	w.must(n.do(func() (err error) {
		inForce.listener, err = base.bring(c, nil)
		return err
	}))
	defer inForce.listener.close(base)
	w.must(n.run("sh", "-ec", "ip link add wan type bridge; ip link set wan up; ip route add default dev wan"))
	w.must(n.do(func() error {
		if _, err := inForce.bring(c, ""); err == nil || len(inForce.listener.auto) > 0 {
			t.Errorf("got %v, auto %v, want an error and no link", err, inForce.listener.auto)
		}
		err := inForce.listener.readLinks()
		if len(inForce.listener.links) != 2 || len(inForce.listener.auto) != 1 {
			t.Errorf("got %d links, auto %v, want 2 and wan", len(inForce.listener.links), inForce.listener.auto)
		}
		return err
	}))
}
