package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

// join copies standard input to the connection and what comes from it to standard output, until both have ended: for
// ssh's ProxyCommand. When one of them ends, its other side is told so (a half-close), and the other one goes on.
func (k *knockClient) join(conn net.Conn) error {
	// Plain streams: with splice(2) an error would not say which side has broken.
	from, to := struct{ io.Reader }{conn}, struct{ io.Writer }{conn}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(to, k.stdin)
		if half, ok := conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
		sent <- err
	}()
	if _, err := io.Copy(k.stdout, from); err != nil {
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

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}

// knock sends a sequence to a host, and then does what was asked for besides: sees whether a port opens, joins standard
// input and output to it, or hands over to a command. A TCP knock is the kernel's own connect(), so that no root is
// needed; a UDP knock is one datagram. Of a name with addresses of both families, the first of each is knocked on: who
// knocks cannot know which of them the daemon will see.
func knock(e env, args []string) error {
	args, command, err := splitCommand(args)
	if err != nil {
		return err
	}
	var o knockOptions
	p, err := o.parse(e, args, command != nil)
	if err != nil || p == nil {
		return err
	}
	if err := o.contradictions(p.host, p.sequence, command); err != nil {
		return usageError(err.Error())
	}
	if o.show {
		return p.showPorts(e)
	}
	k := &knockClient{profile: p, env: e, knockOptions: o, say: e.stdout, kept: make(chan struct{}, 2*maxKnocks)}
	if o.stdio != "" || command != nil {
		k.say = e.stderr // standard output is another's
	}
	// What can fail before a knock comes before a one-time sequence is used.
	if k.addresses, err = o.resolve(p.host); err != nil {
		return err
	}
	k.to = k.addresses
	if o.stdio != "" {
		var to string
		if to, k.port = o.stdioTarget(); to != p.host {
			if k.to, err = o.resolve(to); err != nil {
				return err
			}
		}
	}
	path := ""
	if command != nil {
		if path, err = findCommand(command[0]); err != nil {
			return fmt.Errorf("running %s: %w", command[0], err)
		}
	}
	if k.sequence, err = p.use(&o); err != nil {
		return err
	}
	k.key = p.key
	if err = k.visit(); err != nil && p.oneTime != "" && !k.opened {
		fmt.Fprintf(e.stderr, "%s: its line is marked as used: if the daemon has not heard it, take the # away\n", p.oneTime)
	}
	if err != nil || command == nil {
		return err
	}
	return become(path, command)
}

// visit knocks, and does what is to be done with the port.
func (k *knockClient) visit() error {
	if k.port == 0 {
		defer k.settle()
		return k.send(k.delay)
	}
	opened, err := k.open()
	if err != nil {
		return err
	}
	k.opened = true
	if opened.before { // which says nothing of the knocks
		k.settle()
	}
	if k.stdio != "" {
		return k.join(k.last(opened).conn)
	}
	_ = opened.conn.Close()
	return nil
}

// last is the connection to join. One that was begun before the knocks and has ended is replaced: a proxy on the way had
// opened it, and then found the port shut.
func (k *knockClient) last(opened *connection) *connection {
	if !opened.before {
		return opened
	}
	first := make([]byte, 1024)
	_ = opened.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	n, err := opened.conn.Read(first)
	_ = opened.conn.SetReadDeadline(time.Time{})
	_, _ = k.stdout.Write(first[:n])
	if n > 0 || err == nil || os.IsTimeout(err) {
		return opened
	}
	d := newDialer(k.to, k.port, k.from)
	defer d.cancel()
	d.begin(false, k.timeout)
	if fresh, _ := d.next(time.After(k.timeout)); fresh != nil {
		_ = opened.conn.Close()
		return fresh
	}
	return opened
}

// knockClient is one call of sesame knock.
type knockClient struct {
	env
	knockOptions
	profile   *profile
	addresses []netip.Addr  // to knock on
	sequence  []sentKnock   // with totp, if it has a code
	step      uint32        // of the code that was knocked last
	key       *keyKnock     // what the sequence's only knock carries, or nil
	to        []netip.Addr  // to connect to, at port
	say       io.Writer     // for what is no error
	opened    bool          // the port was seen open
	kept      chan struct{} // has an item for each connection of a knock that is kept, and room for those of any sequence
}

// send sends the sequence once to each address. The error is that of the first address, and nil if one of them got all.
// The connections that it begins are kept for a while: a transparent proxy on the way, as mobile networks have them,
// answers a knock itself, and sends it on only once that connection is made, and while it is there.
func (k *knockClient) send(delay time.Duration) error {
	failed := make([]error, len(k.addresses))
	sequence := k.sequence
	if k.profile.totp.secret != "" { // each code opens a door once, and the daemon may ask for the next one, too
		now := codeStep(time.Duration(k.date().UnixNano()))
		k.step = min(max(k.step+1, now), now+1)
		sequence = k.profile.code(k.sequence, k.step)
	}
	for i, knock := range sequence {
		if i > 0 {
			time.Sleep(delay)
		}
		for j, addr := range k.addresses {
			if k.key != nil {
				knock.data = k.key.packet(k.date())
			}
			if k.verbose {
				fmt.Fprintf(k.say, "hitting %v %v:%d\n", knock.Proto, addr, knock.Port)
			}
			keep, err := sendKnock(addr, knock, k.from)
			if err != nil && failed[j] == nil {
				failed[j] = fmt.Errorf("knocking on %v port %d: %w", addr, knock.Port, err)
			}
			if keep != nil {
				k.kept <- struct{}{}
				go func() {
					keep()
					<-k.kept
				}()
			}
		}
	}
	for _, err := range failed {
		if err == nil {
			return nil
		}
	}
	return failed[0]
}

// settle waits until no connection of a knock is kept any more.
func (k *knockClient) settle() {
	for range cap(k.kept) {
		k.kept <- struct{}{}
	}
}

const (
	maxPause = 500 * time.Millisecond
	// retryDelay is the least delay between the knocks of a second try; each one after it doubles it, up to maxRetryDelay.
	retryDelay    = 100 * time.Millisecond
	maxRetryDelay = 2 * time.Second
	// statusShut is the exit status for a port that did not open.
	statusShut = toldStatus(3)
)

// open knocks and connects, and again as often as was asked for. It returns the open connection, or statusShut when it
// has said what the connections came to.
func (k *knockClient) open() (opened *connection, err error) {
	delay := k.delay
	near := k.nearKnock()
	began := time.Now()
	var d *dialer
	for try := range k.retries + 1 {
		d = newDialer(k.to, k.port, k.from)
		if try == 0 && !near {
			d.begin(true, beforeLimit)
			opened, _ = d.next(time.After(beforePatience))
		}
		err = k.send(delay)
		patience := k.patience(try, time.Since(began))
		if err != nil && try < k.retries && passing(err) {
			if try == 0 {
				fmt.Fprintf(k.stderr, "%v: waiting for the network\n", err)
			}
			time.Sleep(patience)
		} else if err == nil && opened == nil {
			opened = k.await(d, try, patience)
		}
		d.cancel()
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
		fmt.Fprintf(k.stderr, "%v port %d: %s\n", addr, k.port, d.came[addr])
	}
	if near {
		fmt.Fprintf(k.stderr, "port %d is near a knock, so that the daemon may take connections to it for a scan: Ignore_Ports or Decoys = no there\n", k.port)
	}
	if !k.quiet && k.key != nil {
		fmt.Fprintf(k.stderr, "port %d stayed shut: check the keys, the ports and both clocks, which may differ by %d s: the daemon's log says why it refused a packet\n", k.port, keyWindow)
	} else if !k.quiet {
		fmt.Fprintf(k.stderr, "port %d stayed shut: check the sequence and the port; after wrong knocks, the daemon ignores an address for a while, "+
			"%.0f s by default; knocks may be lost on the way, or overtake each other (try -d 500): its log shows those that came\n", k.port, defaultSeqTimeout.Seconds())
		if k.profile.totp.secret != "" {
			fmt.Fprintf(k.stderr, "codes need a clock that is right to half a minute: this one says %s\n", k.date().Format(time.DateTime))
		}
	}
	return nil, statusShut
}

// patience is how long the port may take to open after a try; since is the time since the first one began. The last try
// comes when a bar is over that the daemon has for wrong knocks made before, if the time for all tries allows that.
func (o *knockOptions) patience(try int, since time.Duration) time.Duration {
	if all := o.timeout * time.Duration(o.retries+1); try == o.retries-1 && all > defaultSeqTimeout {
		return max(o.timeout, defaultSeqTimeout-since)
	}
	return o.timeout
}

// passing reports whether the network may be there again soon.
func passing(err error) bool {
	code, ok := errors.AsType[syscall.Errno](err)
	return ok && (code == syscall.ENETUNREACH || code == syscall.EHOSTUNREACH || code == syscall.ENETDOWN)
}

// nearKnock reports whether the port stands where a door has decoys, which are no decoys if the daemon's host serves them.
func (k *knockClient) nearKnock() bool {
	return len(k.sequence) > 1 && slices.ContainsFunc(k.sequence, func(s sentKnock) bool {
		return !s.half() && s.near(Knock{k.port, tcp})
	})
}

// tell says that the port is open.
func (k *knockClient) tell(opened *connection) {
	switch {
	case k.quiet:
	case opened.before:
		fmt.Fprintf(k.say, "%v port %d: %s, as it was before the knock: still open, or a proxy on the way\n", opened.addr, k.port, reached)
	default:
		fmt.Fprintf(k.say, "%v port %d: %s in %d ms\n", opened.addr, k.port, reached, opened.took.Milliseconds())
	}
}

// await connects again and again until a connection is open. It returns nil if the time is up.
func (k *knockClient) await(d *dialer, try int, patience time.Duration) *connection {
	began := time.Now()
	end := began.Add(patience)
	defer k.progress("")
	for pause := firstPause; ; pause = min(pause*3/2, maxPause) {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		k.progress(fmt.Sprintf("waiting for port %d: %.1f s (try %d of %d)", d.port, time.Since(began).Seconds(), try+1, k.retries+1))
		d.begin(false, min(left, connectPatience))
		until := time.After(min(left, pause))
		opened, timeUp := d.next(until)
		if opened != nil {
			after := *opened
			after.took = time.Since(began)
			return &after
		}
		if !timeUp {
			<-until
		}
	}
}

// progress shows a line on a terminal, in the place of the one before; "" takes it away. Blanks do that on any terminal.
func (k *knockClient) progress(line string) {
	if !k.quiet && isTerminal(k.stderr) {
		fmt.Fprintf(k.stderr, "\r%-60s\r%[1]s", line)
	}
}
