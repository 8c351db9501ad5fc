package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
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
	maxPause   = 500 * time.Millisecond
	// connectPatience is what a long way may take there and back.
	connectPatience = 5 * time.Second
	maxConnecting   = 32 // at once
	// retryDelay is the least delay between the knocks of a second try; each one after it doubles it, up to maxRetryDelay.
	retryDelay    = 100 * time.Millisecond
	maxRetryDelay = 2 * time.Second
	// statusShut is the exit status for a port that did not open.
	statusShut = toldStatus(3)
)

// What a connection comes to, in words; there may be more behind them.
const (
	reached     = "open"
	refused     = "closed (RST)"
	filtered    = "filtered (no answer)"
	unreachable = "unreachable"
)

// connection is one that is open, or what it came to instead.
type connection struct {
	addr   netip.Addr
	conn   net.Conn      // nil: it is not open
	came   string        // to what
	before bool          // it was begun before the knock
	took   time.Duration // from the last knock
}

// connecting is a number of connections that have been begun, to the same port of each of the addresses.
type connecting struct {
	addresses []netip.Addr
	port      uint16
	from      route
	found     chan connection
	ctx       context.Context
	cancel    context.CancelFunc // nobody waits for them any more
	begun     int                // and not come to anything yet
	came      map[netip.Addr]string
}

func newConnecting(addresses []netip.Addr, port uint16, from route) *connecting {
	c := &connecting{addresses: addresses, port: port, from: from, found: make(chan connection), came: map[netip.Addr]string{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for _, addr := range addresses {
		c.came[addr] = filtered
	}
	return c
}

// begin begins one more connection to each address.
func (c *connecting) begin(before bool, limit time.Duration) {
	for _, addr := range c.addresses {
		if c.begun >= maxConnecting {
			return
		}
		c.begun++
		go func() {
			conn, came := connect(c.ctx, netip.AddrPortFrom(addr, c.port), c.from, limit)
			select {
			case c.found <- connection{addr: addr, conn: conn, came: came, before: before}:
			case <-c.ctx.Done():
				if conn != nil {
					_ = conn.Close()
				}
			}
		}()
	}
}

// next returns the next of them that is open, and keeps what the others came to. It returns nil if the time is up, or if
// none is left.
func (c *connecting) next(until <-chan time.Time) (opened *connection, timeUp bool) {
	for c.begun > 0 {
		select {
		case <-until:
			return nil, true
		case f := <-c.found:
			c.begun--
			if f.conn != nil {
				return &f, false
			}
			if f.came != filtered { // silence says less than any answer
				c.came[f.addr] = f.came
			}
		}
	}
	return nil, false
}

// connect opens a TCP connection, or says what it came to.
func connect(ctx context.Context, to netip.AddrPort, from route, limit time.Duration) (net.Conn, string) {
	dialer := net.Dialer{Timeout: limit}
	if from.source.IsValid() {
		dialer.LocalAddr = &net.TCPAddr{IP: from.source.AsSlice(), Zone: from.source.Zone()}
	}
	errs := new(icmpErrors)
	defer errs.close()
	dialer.Control = func(_, _ string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) {
			if err = from.apply(int(fd), to.Addr().Is6()); err == nil {
				err = errs.watch(fd, to.Addr())
			}
		})
		return err
	}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err == nil {
		return conn, reached
	}
	return nil, errs.words(err)
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
		return fmt.Sprintf("%s (%v)", unreachable, error(code))
	}
	return fmt.Sprintf("%s (%v)", unreachable, err)
}

// open knocks and connects, and again as often as was asked for. It returns the open connection, or statusShut when it
// has said what the connections came to.
func (k *knocking) open() (opened *connection, err error) {
	delay := k.delay
	near := k.nearKnock()
	var c *connecting
	for try := range k.retries + 1 {
		c = newConnecting(k.to, k.port, k.from)
		if try == 0 && !near {
			c.begin(true, beforeLimit)
			opened, _ = c.next(time.After(beforePatience))
		}
		err = k.send(delay)
		if err != nil && try < k.retries && passing(err) {
			time.Sleep(k.timeout) // for the network to come back
		} else if err == nil && opened == nil {
			opened = k.await(c, try)
		}
		c.cancel()
		switch {
		case err != nil && !passing(err):
			return nil, err
		case err == nil && opened != nil:
			k.tell(opened)
			return opened, nil
		}
		delay = max(k.delay, min(max(2*delay, retryDelay), maxRetryDelay))
	}
	if err != nil {
		return nil, err
	}
	for _, addr := range k.to {
		fmt.Fprintf(k.stderr, "%v port %d: %s\n", addr, k.port, c.came[addr])
	}
	if near {
		fmt.Fprintf(k.stderr, "port %d is near a knock, so that the daemon may take connections to it for a scan: Ignore_Ports or Decoys = no there\n", k.port)
	}
	return nil, statusShut
}

// passing reports whether the network may be there again soon.
func passing(err error) bool {
	code, ok := errors.AsType[syscall.Errno](err)
	return ok && (code == syscall.ENETUNREACH || code == syscall.EHOSTUNREACH || code == syscall.ENETDOWN)
}

// nearKnock reports whether the port stands where a door has decoys, which are no decoys if the daemon's host serves them.
func (k *knocking) nearKnock() bool {
	return len(k.sequence) > 1 && slices.ContainsFunc(k.sequence, func(s sentKnock) bool {
		return s.Proto == tcp && int(s.Port) >= int(k.port)-decoyReach && int(s.Port) <= int(k.port)+decoyReach
	})
}

// tell says that the port is open.
func (k *knocking) tell(opened *connection) {
	switch {
	case k.quiet:
	case opened.before:
		fmt.Fprintf(k.say, "%v port %d: %s, as it was before the knock\n", opened.addr, k.port, reached)
	default:
		fmt.Fprintf(k.say, "%v port %d: %s in %d ms\n", opened.addr, k.port, reached, opened.took.Milliseconds())
	}
}

// await connects again and again until a connection is open. It returns nil if the time is up.
func (k *knocking) await(c *connecting, try int) *connection {
	began := time.Now()
	end := began.Add(k.timeout)
	defer k.progress("")
	for pause := firstPause; ; pause = min(pause*3/2, maxPause) {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		k.progress(fmt.Sprintf("waiting for port %d: %.1f s (try %d of %d)", c.port, time.Since(began).Seconds(), try+1, k.retries+1))
		c.begin(false, min(left, connectPatience))
		until := time.After(min(left, pause))
		opened, timeUp := c.next(until)
		if opened != nil {
			opened.took = time.Since(began)
			return opened
		}
		if !timeUp {
			<-until
		}
	}
}

// progress shows a line on a terminal, in the place of the one before; "" takes it away. Blanks do that on any terminal.
func (k *knocking) progress(line string) {
	if !k.quiet && isTerminal(k.stderr) {
		fmt.Fprintf(k.stderr, "\r%-60s\r%[1]s", line)
	}
}
