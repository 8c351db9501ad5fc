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

// join copies standard input to the connection and what comes from it to standard output, until both have ended: for
// ssh's ProxyCommand. When one of them ends, its other side is told so (a half-close), and the other one goes on.
func (k *knocking) join(conn net.Conn) error {
	sent := make(chan error, 1)
	go func() {
		err := copyAll(conn, k.stdin)
		if half, ok := conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
		sent <- err
	}()
	if err := copyAll(k.stdout, conn); err != nil {
		return fmt.Errorf("joining standard output to the connection: %w", err)
	}
	if isTerminal(k.stdin) {
		return nil // nobody types for a program that says no more
	}
	// Who reads standard output is told that nothing follows, and may have more to say all the same.
	if f, ok := k.stdout.(*os.File); ok {
		_ = f.Close()
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("joining standard input to the connection: %w", err)
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
