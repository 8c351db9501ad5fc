//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Log writes knockd's log lines: to a file, each preceded by "[2006-01-02 15:04] ", and to the system log, or, where
// neither is asked for, to out as they are. printf may be called from any goroutine and waits for nothing: not for who
// reads the log, not for a disk, not for a name server. Once start is called, a goroutine of the log's own writes the
// lines in their order; what it cannot keep up with is left out and counted.
type Log struct {
	out   io.Writer // where there is neither file nor system log
	copy  io.Writer // gets what goes there, too (-v); may be nil
	date  func() time.Time
	names *Names // host names of addresses (-l); nil: none

	to    outlets
	next  atomic.Pointer[outlets] // where the next line is to go; nil: where the one before went
	queue chan logLine            // nil: printf writes at once
	stop  chan struct{}           // closed: write what waits, and end
	ended chan struct{}
	lost  atomic.Int64 // lines that the queue had no room for
}

type logLine struct {
	at   time.Time
	text string
	who  netip.Addr // whose host name it shows, if anybody's
}

// outlets are the places where lines go.
type outlets struct {
	file *os.File // may be nil
	all  []*outlet
}

// outlet is one of them. put reports whether it took the line, and never waits.
type outlet struct {
	kind string // file, syslog, copy or out
	put  func(line logLine) bool
	lost int64 // lines left out since one was taken
}

const (
	// maxLine keeps a line within what a pipe that is ready takes at once (pipe(7), PIPE_BUF), and within what a log
	// daemon takes as one.
	maxLine = 4000
	// maxQueue is how many lines may wait to be written.
	maxQueue = 1024
	// maxNameWait is how many lines may wait before no more names are looked up: what strangers cause must not make the
	// log late.
	maxNameWait = 16
	// lastWords is how long the end waits for lines to be written.
	lastWords = time.Second
)

// stockLogFile is the LogFile of the configuration that knockd comes with, which most others were copied from.
const stockLogFile = "/var/log/knockd.log"

// start lets a goroutine write the lines from now on, until finish.
func (l *Log) start() {
	l.queue, l.stop, l.ended = make(chan logLine, maxQueue), make(chan struct{}), make(chan struct{})
	go l.run()
}

func (l *Log) run() {
	defer close(l.ended)
	for {
		select {
		case line := <-l.queue:
			l.write(line)
		case <-l.stop:
			for len(l.queue) > 0 {
				l.write(<-l.queue)
			}
			return
		}
	}
}

// finish writes the lines that wait, without looking names up any more. It gives up after lastWords, as nobody may be
// reading.
func (l *Log) finish() {
	if l.names != nil {
		l.names.cancel()
	}
	close(l.stop)
	select {
	case <-l.ended:
	case <-time.After(lastWords):
	}
}

// open makes path the log file, also when there is one already (logrotate), and syslog the system log; "" and nil are
// none. What was open stays in use on an error.
func (l *Log) open(path string, syslog *Syslog) error {
	var to outlets
	if path != "" {
		var err error
		// The mode is 640: the log tells who may come in.
		// Without O_NONBLOCK, opening a pipe waits for its reader.
		to.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o640)
		if errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("opening the log file: %w: a pipe needs somebody who reads it first", err)
		}
		if err != nil {
			return fmt.Errorf("opening the log file: %w: LogFile or -g must name a file that %s can write", err, runsAs())
		}
		to.all = append(to.all, &outlet{kind: "file", put: func(line logLine) bool {
			return write(to.file, line.at.Format("[2006-01-02 15:04] ")+line.text)
		}})
	}
	if syslog != nil {
		to.all = append(to.all, &outlet{kind: "syslog", put: func(line logLine) bool { return syslog.send(line.at, line.text) }})
	}
	if to.all != nil && l.copy != nil {
		to.all = append(to.all, &outlet{kind: "copy", put: func(line logLine) bool { return write(l.copy, line.text) }})
	}
	if unused := l.next.Swap(&to); unused != nil {
		unused.close()
	}
	return nil
}

// turnTo makes the lines go to others from now on. What one of them lost is told by the next of its kind, or else by
// the first.
func (l *Log) turnTo(to outlets) {
	if to.all == nil {
		to.all = []*outlet{{kind: "out", put: func(line logLine) bool { return write(l.out, line.text) }}}
	}
	for _, was := range l.to.all {
		next := slices.IndexFunc(to.all, func(o *outlet) bool { return o.kind == was.kind })
		to.all[max(next, 0)].lost += was.lost
	}
	l.to.close()
	l.to = to
}

func (to outlets) close() {
	if to.file != nil {
		_ = to.file.Close()
	}
}

// printf writes one line, in which no address has its host name: whoever answers for the names of an address would learn
// from the questions which of the packets from there are on knocks and decoys.
func (l *Log) printf(format string, a ...any) { l.print(netip.Addr{}, fmt.Sprintf(format, a...)) }

// printfNamed writes one line about a source that has completed a sequence, and so knows it: the first address among the
// values, which has its host name with -l.
func (l *Log) printfNamed(format string, a ...any) {
	var who netip.Addr
	for _, v := range a {
		if addr, ok := v.(netip.Addr); ok {
			who = addr
			break
		}
	}
	l.print(who, fmt.Sprintf(format, a...))
}

// print writes one line. An error of writing has nowhere to go: the doors matter more.
func (l *Log) print(who netip.Addr, text string) {
	line := logLine{text: printable(text), who: who}
	if l.date != nil {
		line.at = l.date()
	}
	if len(line.text) > maxLine {
		line.text = line.text[:maxLine] + " ..."
	}
	if l.queue == nil {
		l.write(line)
		return
	}
	select {
	case l.queue <- line:
	default:
		l.lost.Add(1)
	}
}

func (l *Log) write(line logLine) {
	if to := l.next.Swap(nil); to != nil {
		l.turnTo(*to)
	} else if l.to.all == nil {
		l.turnTo(outlets{})
	}
	if l.names != nil && line.who.IsValid() {
		if name := l.names.of(line.who, len(l.queue) <= maxNameWait); name != "" {
			addr := line.who.String()
			line.text = strings.Replace(line.text, addr, addr+" ("+name+")", 1)
		}
	}
	lost := l.lost.Swap(0)
	for _, o := range l.to.all {
		if o.lost += lost; o.lost > 0 && o.put(logLine{at: line.at, text: fmt.Sprintf("%d log lines lost, as nobody took them", o.lost)}) {
			o.lost = 0
		}
		if !o.put(line) {
			o.lost++
		}
	}
}

// write writes a line, unless that would have to wait.
func write(to io.Writer, line string) bool {
	if f, isFile := to.(*os.File); isFile && !ready(f) {
		return false
	}
	_, err := io.WriteString(to, line+"\n")
	return err == nil
}

// ready reports whether a line can be written without waiting. What cannot be asked is ready.
func ready(f *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n > 0
}

// Throttle lets lines that others can cause into the log at a bounded rate, so that they cannot fill a disk: burst
// lines at once, and one more every interval. One goroutine owns it.
type Throttle struct {
	log      *Log
	burst    int
	interval time.Duration
	spent    time.Duration // when the allowance will be full again
	leftOut  int
}

func (t *Throttle) printf(now time.Duration, format string, a ...any) {
	if t.allow(now) {
		t.log.printf(format, a...)
	}
}

func (t *Throttle) printfNamed(now time.Duration, format string, a ...any) {
	if t.allow(now) {
		t.log.printfNamed(format, a...)
	}
}

// allow reports whether a line may be logged now; if not, it counts as left out. Who asks before making the line saves
// its memory.
func (t *Throttle) allow(now time.Duration) bool {
	if !t.spend(now) {
		t.leftOut++
		return false
	}
	t.finish()
	return true
}

// spend is the generic cell rate algorithm: a line costs interval, and at most burst lines are paid in advance.
func (t *Throttle) spend(now time.Duration) bool {
	spent := max(t.spent, now) + t.interval
	if spent-now > time.Duration(t.burst)*t.interval {
		return false
	}
	t.spent = spent
	return true
}

// flush says how many lines were left out, once there is room for that.
func (t *Throttle) flush(now time.Duration) {
	if t.leftOut > 0 && t.spend(now) {
		t.finish()
	}
}

// finish says it now: another line follows, or none ever.
func (t *Throttle) finish() {
	if t.leftOut > 0 {
		t.log.printf("%d %s left out, as there were too many", t.leftOut, plural(t.leftOut, "line"))
		t.leftOut = 0
	}
}

// next is when flush will have something to say.
func (t *Throttle) next() time.Duration {
	if t.leftOut == 0 {
		return never
	}
	return t.spent - time.Duration(t.burst-1)*t.interval
}

// Throttles bound the log by door name, so that one door's lines do not push out another's.
type Throttles struct {
	log      *Log
	burst    int
	interval time.Duration
	byDoor   map[string]*Throttle
}

func newThrottles(log *Log, burst int, interval time.Duration) Throttles {
	return Throttles{log, burst, interval, map[string]*Throttle{}}
}

func (ts *Throttles) of(door string) *Throttle {
	t := ts.byDoor[door]
	if t == nil {
		t = &Throttle{log: ts.log, burst: ts.burst, interval: ts.interval}
		ts.byDoor[door] = t
	}
	return t
}

func (ts *Throttles) flush(now time.Duration) {
	for _, t := range ts.byDoor {
		t.flush(now)
	}
}

func (ts *Throttles) next() time.Duration {
	next := never
	for _, t := range ts.byDoor {
		next = min(next, t.next())
	}
	return next
}

func (ts *Throttles) finish() {
	for _, t := range ts.byDoor {
		t.finish()
	}
}
