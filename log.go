package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Log writes knockd's log lines: to a file, each preceded by "[2006-01-02 15:04] ", or else to out as they are. Each
// line is one write, so that two goroutines may log at once. Nobody waits for who reads the log: where a line would
// block, it is left out.
type Log struct {
	out  io.Writer // where there is no file
	copy io.Writer // gets every line that goes to the file too (-v); may be nil
	file atomic.Pointer[os.File]
	date func() time.Time
	lost atomic.Int64 // lines left out since one was written
}

// maxLine keeps a line within what a pipe that is ready takes at once (pipe(7), PIPE_BUF).
const maxLine = 4000

// open makes path the log file, also when there is one already (logrotate); "" is none. What was open stays in use on
// an error.
func (l *Log) open(path string) error {
	var f *os.File
	if path != "" {
		var err error
		// The mode is 640: the log tells who may come in.
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640); err != nil {
			return fmt.Errorf("opening the log file: %w: LogFile or -g must name a file that root can write", err)
		}
	}
	if old := l.file.Swap(f); old != nil {
		_ = old.Close()
	}
	return nil
}

// printf writes one line. An error of writing has nowhere to go: the doors matter more.
func (l *Log) printf(format string, a ...any) {
	line := printable(fmt.Sprintf(format, a...))
	if len(line) > maxLine {
		line = line[:maxLine] + " ..."
	}
	line += "\n"
	f := l.file.Load()
	if f == nil {
		_ = l.write(l.out, line)
		return
	}
	dated := l.date().Format("[2006-01-02 15:04] ") + line
	if err := l.write(f, dated); errors.Is(err, os.ErrClosed) {
		_ = l.write(l.file.Load(), dated) // open has just put another one in its place
	}
	if l.copy != nil {
		_ = l.write(l.copy, line)
	}
}

func (l *Log) write(to io.Writer, line string) error {
	if f, isFile := to.(*os.File); isFile && !ready(f) {
		l.lost.Add(1)
		return nil
	}
	if n := l.lost.Swap(0); n > 0 {
		line = fmt.Sprintf("%d lines lost, as nobody took them\n", n) + line
	}
	_, err := io.WriteString(to, line)
	return err
}

// ready reports whether a line can be written without waiting. What cannot be asked is ready.
func ready(f *os.File) bool {
	fd := f.Fd()
	if fd == ^uintptr(0) {
		return true // closed: writing will say so
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n > 0
}

// printable replaces what could forge a line or drive a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
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

// allow reports whether a line may be logged now; if not, it counts as left out. Who asks before making the line saves
// its memory.
func (t *Throttle) allow(now time.Duration) bool {
	if !t.take(now) {
		t.leftOut++
		return false
	}
	t.finish()
	return true
}

// take is the generic cell rate algorithm: a line costs interval, and at most burst lines are paid in advance.
func (t *Throttle) take(now time.Duration) bool {
	spent := max(t.spent, now) + t.interval
	if spent-now > time.Duration(t.burst)*t.interval {
		return false
	}
	t.spent = spent
	return true
}

// flush says how many lines were left out, once there is room for that.
func (t *Throttle) flush(now time.Duration) {
	if t.leftOut > 0 && t.take(now) {
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
func (t *Throttle) next() (at time.Duration, ok bool) {
	return t.spent - time.Duration(t.burst-1)*t.interval, t.leftOut > 0
}
