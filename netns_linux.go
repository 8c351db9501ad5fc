package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace of its own, for the demo and the tests. It lasts until it is closed and no process or
// socket is in it any more.
type Netns struct{ file *os.File }

// newNetns makes a network namespace with nothing in it but lo, which is up.
func newNetns() (*Netns, error) {
	n := &Netns{}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, n.run("ip", "link", "set", "lo", "up")
}

// onThread runs fn on a thread that no other goroutine will run on, so that it may change the thread's namespace.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

// do runs fn inside the namespace. Sockets that fn makes stay in it.
func (n *Netns) do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return fn()
	})
}

// start starts cmd inside the namespace.
func (n *Netns) start(cmd *exec.Cmd) error { return n.do(cmd.Start) }

// run runs a command inside the namespace. Its output is in the error if it fails.
func (n *Netns) run(name string, args ...string) error {
	_, err := n.output(name, args...)
	return err
}

func (n *Netns) output(name string, args ...string) (string, error) {
	return n.combined(exec.Command(name, args...))
}

// combined runs cmd inside the namespace and returns what it prints.
func (n *Netns) combined(cmd *exec.Cmd) (string, error) {
	var out []byte
	err := n.do(func() (err error) {
		if out, err = cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", cmd.Args, err, out)
		}
		return nil
	})
	return string(out), err
}

// link joins the namespace to another one by a veth pair, up at both ends.
func (n *Netns) link(name string, peer *Netns, peerName string) error {
	// ip(8) takes a path for the name of a namespace; the file is its descriptor 3.
	cmd := exec.Command("ip", "link", "add", name, "type", "veth", "peer", "name", peerName, "netns", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{peer.file}
	if _, err := n.combined(cmd); err != nil {
		return err
	}
	if err := n.run("ip", "link", "set", name, "up"); err != nil {
		return err
	}
	return peer.run("ip", "link", "set", peerName, "up")
}

func (n *Netns) close() { _ = n.file.Close() }
