package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	defaultPingPort     = 80
	defaultPingInterval = time.Second
	minPingInterval     = 10 * time.Millisecond
	maxPingInterval     = time.Hour
	maxPings            = 1 << 30
	// lastPatience is how long answers are waited for behind the last packet, and an answer to a timed connection: after
	// it the system would send its packet again (RFC 6298, section 2).
	lastPatience = time.Second
	// pingSlots is how many packets an answer can still be for. Each has a source port of its own.
	pingSlots = 4096
)

// pingOptions are knock's as far as they say where to, verify being the port, and others.
type pingOptions struct {
	knockOptions
	count    int // 0: no end
	interval time.Duration
}

func (o *pingOptions) options() []option {
	o.verify, o.interval = defaultPingPort, defaultPingInterval
	opts := []option{
		{'c', "count", "N", "end after N packets", o.setCount},
		{'i', "interval", "SECONDS", "time between two packets (default 1), or uN for N microseconds", o.setInterval},
		{'p', "port", "PORT", "the port to send them to (default 80)", o.setVerify},
		flagOption('4', "ipv4", "use IPv4 only", &o.ipv4),
		flagOption('6', "ipv6", "use IPv6 only", &o.ipv6),
	}
	for _, f := range flagLetters[:6] {
		opts = append(opts, option{f.letter, f.name, "", "set the TCP flag " + f.name, func(string) error { o.flags |= f.bit; return nil }})
	}
	return append(opts, helpOptions()...)
}

func (o *pingOptions) setCount(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxPings {
		return fmt.Errorf("a number from 1 to %d is wanted, not %q", maxPings, value)
	}
	o.count = n
	return nil
}

func (o *pingOptions) setInterval(value string) error {
	seconds, micro := strings.CutPrefix(value, "u")
	interval, ok := parseSeconds(seconds)
	if micro {
		interval /= 1000000
	}
	if !ok || interval < minPingInterval || interval > maxPingInterval {
		return fmt.Errorf("an interval is from 0.01 to 3600 seconds, such as 1, 0.5 or u500000, and not %q: at most 100 packets a second are sent", value)
	}
	o.interval = interval
	return nil
}

// ping sends TCP packets to a port and shows the answers, in the form of hping. Without the right to do that, it has the
// system connect, and times that.
func ping(e env, args []string) error {
	var o pingOptions
	rest, err := getopt(args, o.options())
	switch {
	case err != nil:
		return err
	case len(rest) != 1:
		return usageError(fmt.Sprintf("one host is wanted, not %d", len(rest)))
	case o.ipv4 && o.ipv6:
		return usageError("-4 and -6 exclude each other")
	case o.flags == 0:
		o.flags = flagSYN
	}
	host := strings.Trim(rest[0], "[]")
	addresses, err := o.resolve(host)
	if err != nil {
		return err
	}
	p := &pinging{env: e, pingOptions: o, to: netip.AddrPortFrom(addresses[0], o.verify), heard: make(chan *heard), slots: make([]pinged, pingSlots)}
	if err := p.openRaw(); err == errNoRaw && o.flags == flagSYN {
		fmt.Fprintf(e.stderr, "%s ping: raw packets need %s: connections are timed instead\n", e.name, rawNeeds)
		p.send = p.connect
	} else if err != nil {
		return err
	}
	headers := tcpMinLen + ipv4MinLen
	if p.to.Addr().Is6() {
		headers = tcpMinLen + ipv6Len
	}
	fmt.Fprintf(e.stdout, "PING %s (%v): %s set, %d headers + 0 data bytes\n", host, p.to.Addr(), lettersOf(o.flags), headers)
	p.run()
	fmt.Fprintf(e.stdout, "\n--- %s ping statistic ---\n%d packets transmitted, %d packets received, %d%% packet loss\n",
		host, p.sent, p.received, int64(p.sent-p.received)*100/int64(p.sent))
	fmt.Fprintf(e.stdout, "round-trip min/avg/max = %s/%s/%s ms\n", inMS(p.least), inMS(p.sum/time.Duration(max(p.received, 1))), inMS(p.most))
	if p.received == 0 {
		return toldStatus(1)
	}
	return nil
}

// inMS are milliseconds as in 0.3.
func inMS(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1000) }

// pinging is one call of ping.
type pinging struct {
	env
	pingOptions
	to    netip.AddrPort
	send  func(slot int) error // sends a packet, or begins a connection
	heard chan *heard          // what came of them; nobody waits for it after the end
	slots []pinged             // used in turn

	sent, received   int
	least, most, sum time.Duration
}

// pinged is a packet that was sent.
type pinged struct {
	seq      int
	at       time.Duration // 0: none was sent
	received bool
	told     bool // of a second answer, or of an error
}

// heard is what came of the packet in a slot.
type heard struct {
	slot   int
	at     time.Duration
	failed string // an error in words, or "": it is an answer
	answer
}

// run sends and shows, until all have answered, or the time is up, or somebody ends it.
func (p *pinging) run() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, os.Interrupt, syscall.SIGTERM)
	for p.count == 0 || p.sent < p.count {
		p.transmit()
		wait := p.interval
		if p.sent == p.count {
			wait = lastPatience
		}
		for next := time.After(wait); next != nil && (p.count == 0 || p.received < p.count); {
			select {
			case <-next:
				next = nil
			case h := <-p.heard:
				p.take(h)
			case <-ends:
				return
			}
		}
	}
}

func (p *pinging) transmit() {
	slot := p.sent % pingSlots
	p.slots[slot] = pinged{seq: p.sent, at: p.now()}
	p.sent++
	if err := p.send(slot); err != nil {
		p.take(&heard{slot: slot, failed: err.Error()})
	}
}

// take shows what came of a packet. Of each packet it shows two lines at most, so that nobody can flood the screen.
func (p *pinging) take(h *heard) {
	s := &p.slots[h.slot]
	rtt, duplicate := h.at-s.at, ""
	switch {
	case s.at == 0:
		return
	case h.failed != "" || s.received:
		if s.told {
			return
		}
		s.told = true
		if h.failed != "" {
			fmt.Fprintf(p.stdout, "seq=%d %s\n", s.seq, h.failed)
			return
		}
		duplicate = "DUP! "
	default:
		s.received = true
		if p.received == 0 || rtt < p.least {
			p.least = rtt
		}
		p.most = max(p.most, rtt)
		p.sum += rtt
		p.received++
	}
	fmt.Fprintf(p.stdout, "%s%s seq=%d %srtt=%s ms\n", duplicate, h.text, s.seq, h.window, inMS(rtt))
}

// connect begins a connection in place of a packet.
func (p *pinging) connect(slot int) error {
	go func() {
		conn, came := connect(context.Background(), p.to, p.from, lastPatience)
		h := &heard{slot: slot, at: p.now()}
		flags := "SA"
		switch came {
		case reached:
			_ = conn.Close()
		case refused, refusedWords():
			flags = "RA"
		case filtered:
			return
		default:
			h.failed = came
		}
		h.text = fmt.Sprintf("ip=%v sport=%d flags=%s", p.to.Addr(), p.to.Port(), flags)
		p.heard <- h
	}()
	return nil
}
