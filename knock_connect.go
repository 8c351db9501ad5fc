package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	// beforePatience is how long the knocks wait for a port that may be open already, and beforeLimit how long its answer
	// is waited for meanwhile: less than a second, after which the system would send the first packet again (RFC 6298,
	// section 2), behind the knocks.
	beforePatience = 100 * time.Millisecond
	beforeLimit    = 900 * time.Millisecond
	// A connection is begun again while those before it still wait for an answer: a packet that came before the door was
	// open is lost, and sent again only after a second. The pause grows by half each time.
	firstPause = 50 * time.Millisecond
	// connectPatience is what a long way may take there and back.
	connectPatience = 5 * time.Second
	maxConnecting   = 32 // at once
)

// connection is one that is open, or what it came to instead.
type connection struct {
	addr   netip.Addr
	conn   net.Conn      // nil: it is not open
	came   string        // to what
	before bool          // it was begun before the knock
	took   time.Duration // from the last knock
}

// dialer makes a number of connections at once, to the same port of each of the addresses.
type dialer struct {
	addresses []netip.Addr
	port      uint16
	from      route
	found     chan connection
	ctx       context.Context
	cancel    context.CancelFunc // nobody waits for them any more
	begun     int                // and not come to anything yet
	came      map[netip.Addr]string
}

func newDialer(addresses []netip.Addr, port uint16, from route) *dialer {
	d := &dialer{addresses: addresses, port: port, from: from, found: make(chan connection), came: map[netip.Addr]string{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for _, addr := range addresses {
		d.came[addr] = filtered
	}
	return d
}

// begin begins one more connection to each address.
func (d *dialer) begin(before bool, limit time.Duration) {
	for _, addr := range d.addresses {
		if d.begun >= maxConnecting {
			return
		}
		d.begun++
		go func() {
			conn, came := connect(d.ctx, netip.AddrPortFrom(addr, d.port), d.from, limit)
			select {
			case d.found <- connection{addr: addr, conn: conn, came: came, before: before}:
			case <-d.ctx.Done():
				if conn != nil {
					_ = conn.Close()
				}
			}
		}()
	}
}

// next returns the next of them that is open, and keeps what the others came to. It returns nil if the time is up, or if
// none is left.
func (d *dialer) next(until <-chan time.Time) (opened *connection, timeUp bool) {
	for d.begun > 0 {
		select {
		case <-until:
			return nil, true
		case f := <-d.found:
			d.begun--
			if f.conn != nil {
				return &f, false
			}
			if f.came != filtered { // silence says less than any answer
				d.came[f.addr] = f.came
			}
		}
	}
	return nil, false
}

// connect opens a TCP connection, or says what it came to.
func connect(ctx context.Context, to netip.AddrPort, from route, limit time.Duration) (net.Conn, string) {
	nd := net.Dialer{Timeout: limit}
	if from.source.IsValid() {
		nd.LocalAddr = &net.TCPAddr{IP: from.source.AsSlice(), Zone: from.source.Zone()}
	}
	errs := new(icmpErrors)
	defer errs.close()
	nd.Control = func(_, _ string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) {
			if err = from.apply(int(fd), to.Addr().Is6()); err == nil {
				err = errs.watch(fd, to.Addr())
			}
		})
		return err
	}
	conn, err := nd.DialContext(ctx, "tcp", to.String())
	if err == nil {
		return conn, reached
	}
	if words := errs.words(); words != "" {
		return nil, words
	}
	return nil, cameTo(err)
}

// cameTo says in words what a connection came to that failed, where the system tells nothing but the error.
func cameTo(err error) string {
	if os.IsTimeout(err) || errors.Is(err, context.Canceled) {
		return filtered
	}
	if code, ok := errors.AsType[syscall.Errno](err); ok {
		if code == errRefused {
			return refusedWords()
		}
		err = code
	}
	return fmt.Sprintf("%s (%v)", unreachable, err)
}
