package main

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
)

// stdioTarget splits what -W has been given.
func (o *knockOptions) stdioTarget() (host string, port uint16) {
	host, digits, _ := net.SplitHostPort(o.stdio)
	n, _ := strconv.ParseUint(digits, 10, 16)
	return host, uint16(n)
}

// join knocks, connects, and joins standard input and output to the connection: for ssh's ProxyCommand. host is the one
// that is knocked on.
func (k *knocking) join(host string) error {
	to, port := k.stdioTarget()
	addresses := k.addresses
	if to != host {
		var err error
		if addresses, err = k.resolve(to); err != nil {
			return err
		}
	}
	opened, err := k.open(addresses, port)
	if err != nil {
		return err
	}
	return k.relay(opened.conn)
}

// relay copies standard input to the connection and what comes from it to standard output, until both have ended. When
// one of them ends, its other side is told so (a half-close), and the other one goes on.
func (k *knocking) relay(conn net.Conn) error {
	sent := make(chan error, 1)
	go func() {
		err := copyAll(conn, k.stdin)
		if half, ok := conn.(*net.TCPConn); ok && err == nil {
			_ = half.CloseWrite()
		}
		sent <- err
	}()
	received := copyAll(k.stdout, conn)
	if received != nil {
		return fmt.Errorf("the connection has broken: %w", received)
	}
	if isTerminal(k.stdin) {
		return nil // nobody types for a program that says no more
	}
	// Who reads standard output is told that nothing follows, and may have more to say all the same.
	if f, ok := k.stdout.(*os.File); ok {
		_ = f.Close()
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("the connection has broken before all was sent: %w", err)
	}
	return nil
}

// copyAll copies until from ends. io.Copy would, and is 60 KB in the file for a router.
func copyAll(to io.Writer, from io.Reader) error {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}
