//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// noProcess is beyond any process id (PID_MAX_LIMIT in linux/threads.h is 2^22): to signal it does nothing.
const noProcess = 1 << 30

// doorsTest drives Doors by a script, with commands that only seem to run.
type doorsTest struct {
	*Doors
	t       *testing.T
	config  map[string]*Door
	logged  bytes.Buffer
	started []string
	broken  bool // no command can be started
	full    bool // the journal cannot be written
	journal []Entry
	writes  int
	done    func(error) // ends the work at the firewall
	looked  func(error) // ends the look at the rules of others, beside it
}

// withFirewall gives the doors a firewall and a journal that only seem to be there. What the firewall is to do stands
// among the commands that are started.
func (d *doorsTest) withFirewall() *doorsTest {
	d.firewall.work = func(w firewallTask, done func(error)) {
		d.started = append(d.started, describeWork(w))
		if w.kind == taskLook {
			d.looked = done
		} else {
			d.done = done
		}
	}
	d.Doors.journal.save = func(entries []Entry) error {
		if d.full {
			return errors.New("no space left on device")
		}
		slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Door+a.Source.String(), b.Door+b.Source.String()) })
		d.journal = entries
		d.writes++
		return nil
	}
	return d
}

// describeWork prints what the firewall is to do, and who is in afterwards.
func describeWork(w firewallTask) string {
	if w.kind == taskLook {
		return "<look>"
	}
	var in []string
	for _, p := range w.rules.Open {
		in = append(in, fmt.Sprintf("%s %v %v", p.Door, p.Source, p.Left))
	}
	slices.Sort(in)
	return []string{"<open", "<close", "<build", "<check", "<flush"}[w.kind] + " " + strings.Join(in, "; ") + ">"
}

// describeJournal prints what the journal has.
func describeJournal(entries []Entry) string {
	var s []string
	for _, e := range entries {
		state := []string{"starting", "open", "closing"}[e.State]
		if e.State == Open {
			state += " until " + e.Until.String()
		}
		if e.Tries > 0 {
			state += fmt.Sprintf(", %d tries", e.Tries)
		}
		if e.Pid != 0 {
			state += ", runs"
		}
		s = append(s, fmt.Sprintf("%s %v %s", e.Door, e.Source, state))
	}
	return strings.Join(s, "; ")
}

// describeOpen prints what the status has of open doors.
func describeOpen(open []OpenDoor) string {
	var s []string
	for _, o := range open {
		state := o.State
		if o.StartError != "" {
			state += " (" + o.StartError + ")"
		}
		if o.ClosesIn > 0 {
			state += fmt.Sprintf(", closes in %v", o.ClosesIn)
		}
		s = append(s, fmt.Sprintf("%s %v %s", o.Door, o.Source, state))
	}
	slices.Sort(s)
	return strings.Join(s, "; ")
}

func newDoorsTest(t *testing.T, config string) *doorsTest {
	d := &doorsTest{t: t, config: map[string]*Door{}}
	d.configure(config)
	now := func() time.Duration { panic("the time is passed in") }
	d.Doors = newDoors(now, &Log{out: &d.logged}, func(c Command, ended func(Outcome)) (Process, error) {
		if d.broken {
			return Process{}, errors.New("no memory")
		}
		d.started = append(d.started, c.Line)
		return Process{pid: noProcess}, nil
	})
	return d
}

// configure replaces doors, as a reload does.
func (d *doorsTest) configure(config string) {
	for _, door := range testDoors(d.t, "[options]\n"+strings.ReplaceAll(config, "]", "] Sequence = 7 |")) {
		d.config[door.Name] = door
	}
}

// job finds the running command with that line.
func (d *doorsTest) job(line string) *job {
	for _, j := range d.commands.running {
		if j.command.Line == line {
			return j
		}
	}
	d.t.Fatalf("%q does not run", line)
	return nil
}

// run follows a script. A line is a time, what happens, and the commands that are started then:
//
//	+1s grant a 192.0.2.7 => open 192.0.2.7
//
// What happens is grant, end LINE (a command ends well), fail LINE (with status 1), killed LINE (by a signal), tick, close, broken and mended (from
// now on commands cannot, or can, be started). "next" tells when there will be something to do, "log" what has been
// logged since the last time, with | for line ends, "status" what sesame status shows of open doors.
func (d *doorsTest) run(script string) {
	d.t.Helper()
	for line := range strings.Lines(strings.TrimSpace(script)) {
		in, want, _ := strings.Cut(line, "=>")
		in, want = strings.TrimSpace(in), strings.TrimSpace(want)
		words := strings.Fields(in)
		now, err := time.ParseDuration(words[0])
		if err != nil {
			d.t.Fatalf("%s: %v", in, err)
		}
		var got string
		switch words[1] {
		case "next":
			got = "never"
			if at := d.next(now); at != math.MaxInt64 {
				got = at.String()
			}
		case "drop":
			d.logged.Reset()
		case "journal":
			got = describeJournal(d.journal)
		case "status":
			got = describeOpen(d.answer(now, Request{}).Status.Open)
		case "log":
			got = strings.ReplaceAll(strings.TrimSpace(d.logged.String()), "\n", " | ")
			d.logged.Reset()
		default:
			d.started = nil
			switch arg := strings.Join(words[2:], " "); words[1] {
			case "grant":
				d.grant(now, Grant{Door: d.config[words[2]], Source: netip.MustParseAddr(words[3])})
			case "end":
				d.end(now, d.job(arg), Outcome{})
			case "fail":
				d.end(now, d.job(arg), Outcome{Status: 1})
			case "killed":
				d.end(now, d.job(arg), Outcome{Signal: syscall.SIGKILL})
			case "close":
				d.closeAll()
			case "flush":
				d.firewall.flushing.Store(true)
				d.closeAll()
			case "worked", "failed", "right":
				d.done(map[string]error{"failed": errors.New("no such chain"), "right": errPutRight}[words[1]])
				d.applied(now, <-d.firewall.done)
			case "looked":
				d.looked(nil)
				d.applied(now, <-d.firewall.done)
			case "changed", "touched": // a table of others, or ours
				d.firewall.hear([]firewallNews{{table: map[string]string{"changed": "inet fw4", "touched": ourTable}[words[1]]}})
			case "full", "room":
				d.full = words[1] == "full"
			case "shut": // as sesame close does
				for _, o := range d.open {
					o.shut()
				}
			case "broken", "mended":
				d.broken = words[1] == "broken"
			case "tick":
			default:
				d.t.Fatalf("%s: what is %q?", in, words[1])
			}
			d.tick(now)
			got = strings.Join(d.started, ", ")
			d.check(now)
		}
		if got != want {
			d.t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

// check looks whether what is noted agrees, and whether there is nothing left to do at once.
func (d *doorsTest) check(now time.Duration) {
	d.t.Helper()
	if at := d.next(now); at <= now {
		d.t.Errorf("at %v: next says %v: a busy loop", now, at)
	}
	for key, o := range d.open {
		j := d.commands.running[key]
		do, _ := o.next(now)
		switch {
		case o.key != key || (j != nil) != (o.command.doing != nothing) || j != nil && j.key != key:
			d.t.Errorf("at %v: %v: its command %v, and %v runs", now, key, o.command.doing, j)
		case do&(expire|endCommand|forget) != 0 || do&save != 0 && d.Doors.journal.save != nil:
			d.t.Errorf("at %v: %v: %b is not done", now, key, do)
		}
	}
	for key, j := range d.commands.running {
		if d.open[key] == nil {
			d.t.Errorf("at %v: %q runs for nobody", now, j.command.Line)
		}
	}
}

func TestDoors(t *testing.T) {
	const (
		a = "[a] Start_Command = open %IP% | Stop_Command = close %IP% | Cmd_Timeout = 10\n"
		b = "[b] Start_Command = openb %IP% | Stop_Command = closeb %IP% | Cmd_Timeout = 20\n"
		c = "[c] Start_Command = once %IP%\n"
	)
	tests := []struct{ name, config, script string }{
		{"open and close", a, `
			+0s     grant a 192.0.2.7   => open 192.0.2.7
			+0s     next                => 1m10s
			+0s     log                 => a: running command: open 192.0.2.7
			+2s     end open 192.0.2.7  =>
			+2s     next                => 12s
			+11.9s  tick                =>
			+12s    tick                => close 192.0.2.7
			+12s    next                => 10m12s
			+13s    end close 192.0.2.7 =>
			+13s    next                => never
			+13s    log                 => a: command took 0s | 192.0.2.7: a: command timeout | a: running command: close 192.0.2.7 | a: command took 0s`},
		{"knocking again while it is open", a, `
			+0s  grant a 192.0.2.7  => open 192.0.2.7
			+0s  end open 192.0.2.7 =>
			+0s  log                => a: running command: open 192.0.2.7 | a: command took 0s
			+5s  grant a 192.0.2.7  =>
			+5s  log                => 192.0.2.7: a: open already: 10s from now on
			+10s tick               =>
			+15s tick               => close 192.0.2.7`},
		{"knocking again while it opens", a, `
			+0s  grant a 192.0.2.7  => open 192.0.2.7
			+1s  grant a 192.0.2.7  =>
			+2s  end open 192.0.2.7 =>
			+11s tick               =>
			+12s tick               => close 192.0.2.7`},
		{"knocking again while it closes", a, `
			+0s  grant a 192.0.2.7   => open 192.0.2.7
			+0s  end open 192.0.2.7  =>
			+10s tick                => close 192.0.2.7
			+11s grant a 192.0.2.7   =>
			+11s grant a 192.0.2.7   =>
			+12s end close 192.0.2.7 => open 192.0.2.7
			+13s end open 192.0.2.7  =>
			+23s tick                => close 192.0.2.7
			+24s end close 192.0.2.7 =>
			+24s next                => never`},
		{"each source has its own time", a, `
			+0s  grant a 192.0.2.7   => open 192.0.2.7
			+0s  end open 192.0.2.7  =>
			+4s  grant a 192.0.2.8   => open 192.0.2.8
			+4s  end open 192.0.2.8  =>
			+10s tick                => close 192.0.2.7
			+10s end close 192.0.2.7 =>
			+10s next                => 14s
			+14s tick                => close 192.0.2.8`},
		{"without Stop_Command", c, `
			+0s grant c 192.0.2.7  => once 192.0.2.7
			+0s next               => never
			+1s grant c 192.0.2.7  =>
			+1s grant c 192.0.2.7  =>
			+1s log                => c: running command: once 192.0.2.7
			+2s end once 192.0.2.7 =>
			+2s log                => c: command took 0s | 192.0.2.7: c: opened 2 times more while its command ran: not run again
			+3s grant c 192.0.2.7  => once 192.0.2.7
			+4s end once 192.0.2.7 =>
			+4s grant c 192.0.2.7  => once 192.0.2.7`},
		{"without any command", "[a] Cmd_Timeout = 1\n[b] Stop_Command = close", `
			+0s grant a 192.0.2.7 =>
			+0s grant b 192.0.2.7 =>
			+0s next              => never`},
		{"open for no time", "[a] Start_Command = open | Stop_Command = close | Cmd_Timeout = 0", `
			+0s grant a 192.0.2.7 => open
			+1s end open          => close`},
		{"one after the other", a + b + c, `
			+0s    grant a 192.0.2.7     => open 192.0.2.7
			+0.01s grant b 192.0.2.7     =>
			+0.01s grant c 192.0.2.7     =>
			+0.01s next                  => 250ms
			+0.02s end open 192.0.2.7    => openb 192.0.2.7
			+0.02s next                  => 270ms
			+0.03s end openb 192.0.2.7   => once 192.0.2.7`},
		{"one that hangs holds up nobody", a + b + c, `
			+0s    grant a 192.0.2.7    => open 192.0.2.7
			+0.01s grant b 192.0.2.7    =>
			+0.01s grant c 192.0.2.7    =>
			+0.24s tick                 =>
			+0.25s tick                 => openb 192.0.2.7
			+0.26s end open 192.0.2.7   =>
			+0.26s next                 => 500ms
			+0.50s tick                 => once 192.0.2.7`},
		{"a start command that hangs", a, `
			+0s     grant a 192.0.2.7   => open 192.0.2.7
			+69.9s  tick                =>
			+69.9s  log                 => a: running command: open 192.0.2.7
			+70s    tick                =>
			+70s    log                 => a: ending a command that has run for 1m10s
			+70s    next                => 1m11s
			+71s    tick                =>
			+71s    next                => 1m12s
			+71s    log                 =>
			+71.5s  end open 192.0.2.7  => close 192.0.2.7`},
		{"a stop command that hangs", a, `
			+0s   grant a 192.0.2.7   => open 192.0.2.7
			+0s   end open 192.0.2.7  =>
			+10s  tick                => close 192.0.2.7
			+11s  log                 => a: running command: open 192.0.2.7 | a: command took 0s | 192.0.2.7: a: command timeout | a: running command: close 192.0.2.7
			+20s  grant a 192.0.2.7   =>
			+610s tick                =>
			+610s log                 => a: ending a command that has run for 10m0s
			+611s end close 192.0.2.7 => open 192.0.2.7`},
		{"a start command that fails", a, `
			+0s  grant a 192.0.2.7   => open 192.0.2.7
			+0s  fail open 192.0.2.7 =>
			+0s  log                 => a: running command: open 192.0.2.7 | a: command returned non-zero status code (1) | a: command took 0s | 192.0.2.7: a: start command failed (status 1): the next knock runs it again
			+1s  status              => a 192.0.2.7 failed (status 1), closes in 9s
			+10s tick                => close 192.0.2.7
			+10s status              => a 192.0.2.7 closing
			+10s drop
			+10s fail close 192.0.2.7 =>
			+10s log                 => a: command returned non-zero status code (1) | a: command took 0s
			+11s tick                => close 192.0.2.7
			+11s fail close 192.0.2.7 =>
			+16s tick                => close 192.0.2.7
			+16s drop
			+16s fail close 192.0.2.7 =>
			+16s log                 => a: command returned non-zero status code (1) | a: command took 0s | 192.0.2.7: a: closing it has failed 3 times, the last time with status 1: given up
			+16s status              =>
			+16s next                => never`},
		{"knocking again after a start command that failed", a, `
			+0s  grant a 192.0.2.7    => open 192.0.2.7
			+0s  killed open 192.0.2.7 =>
			+0s  status               => a 192.0.2.7 failed (signal 9), closes in 10s
			+0s  drop
			+5s  grant a 192.0.2.7    => close 192.0.2.7
			+5s  log                  => 192.0.2.7: a: start command failed (signal 9): running stop and start command | a: running command: close 192.0.2.7
			+5s  grant a 192.0.2.7    =>
			+5s  end close 192.0.2.7  => open 192.0.2.7
			+6s  fail open 192.0.2.7  =>
			+7s  grant a 192.0.2.7    => close 192.0.2.7
			+7s  fail close 192.0.2.7 => open 192.0.2.7
			+8s  end open 192.0.2.7   =>
			+8s  status               => a 192.0.2.7 open, closes in 10s
			+9s  grant a 192.0.2.7    =>
			+18s tick                 =>
			+19s tick                 => close 192.0.2.7
			+19s fail close 192.0.2.7 =>
			+20s tick                 => close 192.0.2.7`},
		{"closed by hand after a start command that failed", a, `
			+0s  grant a 192.0.2.7    => open 192.0.2.7
			+0s  fail open 192.0.2.7  =>
			+1s  shut                 => close 192.0.2.7
			+1s  fail close 192.0.2.7 =>
			+1s  next                 => 2s
			+2s  grant a 192.0.2.7    => open 192.0.2.7`},
		{"all close after a start command that failed", a, `
			+0s   grant a 192.0.2.7    => open 192.0.2.7
			+0s   fail open 192.0.2.7  =>
			+1s   close                => close 192.0.2.7
			+1s   drop
			+1s   fail close 192.0.2.7 =>
			+1s   log                  => a: command returned non-zero status code (1) | a: command took 0s
			+1.1s tick                 => close 192.0.2.7
			+1.1s drop
			+1.1s fail close 192.0.2.7 =>
			+1.1s log                  => a: command returned non-zero status code (1) | a: command took 0s
			+1.1s next                 => never`},
		{"a start command that cannot be started", a + b, `
			+0s  broken            =>
			+0s  grant a 192.0.2.7 =>
			+0s  log               => a: running command: open 192.0.2.7 | a: command not run: no memory | 192.0.2.7: a: start command failed (not run): the next knock runs it again
			+0s  mended            =>
			+1s  grant b 192.0.2.7 => openb 192.0.2.7
			+10s tick              => close 192.0.2.7`},
		{"a stop command that cannot be started", a, `
			+0s    grant a 192.0.2.7   => open 192.0.2.7
			+0s    end open 192.0.2.7  =>
			+10s   broken              =>
			+10.9s tick                =>
			+10.9s next                => 11s
			+11s   tick                =>
			+11.5s grant a 192.0.2.7   =>
			+11.5s mended              =>
			+11.9s tick                =>
			+11.9s next                => 12s
			+12s   tick                => close 192.0.2.7
			+12s   end close 192.0.2.7 => open 192.0.2.7`},
		{"an end in vain", c, `
			+0s broken            =>
			+0s grant c 192.0.2.7 =>
			+0s next              => never
			+0s mended            =>
			+1s grant c 192.0.2.7 => once 192.0.2.7`},
		{"a command for each family", "[a] Start_Command = v4 | Start_Command_6 = v6 %IP% | Stop_Command = stop %IP% | Stop_Command_6 =\n[b] Start_Command = %IP% | Stop_Command = stop | Stop_Command_6 = stop6 %IP%", `
			+0s  grant a 192.0.2.7   => v4
			+0s  end v4              =>
			+1s  grant a 2001:db8::7 => v6 2001:db8::7
			+1s  end v6 2001:db8::7  =>
			+1s  grant b 2001:db8::7 => 2001:db8::7
			+2s  end 2001:db8::7     =>
			+10s tick                => stop 192.0.2.7
			+10s end stop 192.0.2.7  =>
			+12s tick                => stop6 2001:db8::7
			+12s end stop6 2001:db8::7 =>
			+12s next                => never`},
		{"all close, side by side", a + b, `
			+0s   grant a 192.0.2.7     => open 192.0.2.7
			+0s   end open 192.0.2.7    =>
			+0s   grant b 192.0.2.7     => openb 192.0.2.7
			+0s   end openb 192.0.2.7   =>
			+10s  tick                  => close 192.0.2.7
			+10s  grant a 192.0.2.7     =>
			+11s  close                 => closeb 192.0.2.7
			+11s  grant b 192.0.2.8     =>
			+12s  end close 192.0.2.7   =>
			+12s  end closeb 192.0.2.7  =>
			+12s  next                  => never`},
		{"what waits when all close is not started", a + c, `
			+0s   grant a 192.0.2.7    => open 192.0.2.7
			+0.1s grant a 192.0.2.8    =>
			+0.1s grant c 192.0.2.7    =>
			+0.2s close                =>
			+0.2s next                 => 1.2s
			+0.2s log                  => a: running command: open 192.0.2.7 | a: ending a command that has run for 0s
			+0.3s end open 192.0.2.7   => close 192.0.2.7
			+0.4s end close 192.0.2.7  =>
			+0.4s next                 => never`},
		{"a command without Stop_Command may finish when all close", c, `
			+0s grant c 192.0.2.7  => once 192.0.2.7
			+1s close              =>
			+1s next               => never
			+2s log                => c: running command: once 192.0.2.7
			+2s end once 192.0.2.7 =>`},
		{"no memory when all close", a, `
			+0s   grant a 192.0.2.7   => open 192.0.2.7
			+0s   end open 192.0.2.7  =>
			+1s   broken              =>
			+1s   close               =>
			+1.05s mended             =>
			+1.1s tick                => close 192.0.2.7`},
		{"a stop command that fails when all close is tried once more", a, `
			+0s   grant a 192.0.2.7   => open 192.0.2.7
			+0s   end open 192.0.2.7  =>
			+1s   close               => close 192.0.2.7
			+1s   fail close 192.0.2.7 =>
			+1.1s tick                => close 192.0.2.7
			+1.1s fail close 192.0.2.7 =>
			+2s   tick                =>`},
		{"a stop command that fails is tried again, with growing pauses, and given up", a, `
			+0s    grant a 192.0.2.7   => open 192.0.2.7
			+0s    end open 192.0.2.7  =>
			+10s   tick                => close 192.0.2.7
			+10s   fail close 192.0.2.7 =>
			+10s   next                => 11s
			+11s   tick                => close 192.0.2.7
			+11s   killed close 192.0.2.7 =>
			+16s   tick                => close 192.0.2.7
			+16s   fail close 192.0.2.7 =>
			+46s   tick                => close 192.0.2.7
			+46s   fail close 192.0.2.7 =>
			+166s  tick                => close 192.0.2.7
			+166s  fail close 192.0.2.7 =>
			+466s  tick                => close 192.0.2.7
			+466s  fail close 192.0.2.7 =>
			+1066s tick                => close 192.0.2.7
			+1066s fail close 192.0.2.7 =>
			+2266s tick                => close 192.0.2.7
			+2266s drop
			+2266s fail close 192.0.2.7 =>
			+2266s log                 => a: command returned non-zero status code (1) | a: command took 0s | 192.0.2.7: a: closing it has failed 8 times, the last time with status 1: given up
			+2266s next                => never`},
		{"knocking again while a closing that has failed waits", a, `
			+0s    grant a 192.0.2.7   => open 192.0.2.7
			+0s    end open 192.0.2.7  =>
			+10s   tick                => close 192.0.2.7
			+10s   fail close 192.0.2.7 =>
			+10.5s grant a 192.0.2.7   => open 192.0.2.7
			+11s   end open 192.0.2.7  =>
			+20s   tick                =>
			+21s   tick                => close 192.0.2.7
			+21s   end close 192.0.2.7 =>
			+21s   next                => never`},
		{"what was granted while it closed is opened once", a, `
			+0s    grant a 192.0.2.7    => open 192.0.2.7
			+0s    end open 192.0.2.7   =>
			+10s   tick                 => close 192.0.2.7
			+10s   grant a 192.0.2.7    =>
			+10s   fail close 192.0.2.7 =>
			+10.5s grant a 192.0.2.7    => open 192.0.2.7
			+11s   end open 192.0.2.7   =>
			+21s   tick                 => close 192.0.2.7
			+21s   end close 192.0.2.7  =>
			+21s   next                 => never`},
		{"knocking again while the start command is told to end", a, `
			+0s   grant a 192.0.2.7     => open 192.0.2.7
			+1s   shut                  =>
			+1s   status                => a 192.0.2.7 closing
			+1.5s grant a 192.0.2.7     =>
			+2s   killed open 192.0.2.7 => close 192.0.2.7
			+3s   end close 192.0.2.7   => open 192.0.2.7`},
		{"a closing that has failed is tried at once when all close", a, `
			+0s    grant a 192.0.2.7    => open 192.0.2.7
			+0s    end open 192.0.2.7   =>
			+10s   tick                 => close 192.0.2.7
			+10s   fail close 192.0.2.7 =>
			+11s   tick                 => close 192.0.2.7
			+11s   fail close 192.0.2.7 =>
			+12s   close                => close 192.0.2.7`},
		{"the doors take turns, and closing goes first", a + b + c, `
			+0s    grant a 192.0.2.7  => open 192.0.2.7
			+0s    end open 192.0.2.7 =>
			+9.9s  grant c 192.0.2.1  => once 192.0.2.1
			+9.9s  grant c 192.0.2.2  =>
			+9.9s  grant c 192.0.2.3  =>
			+9.9s  grant b 192.0.2.8  =>
			+10s   tick               =>
			+10.1s end once 192.0.2.1 => close 192.0.2.7
			+10.2s end close 192.0.2.7 => openb 192.0.2.8
			+10.3s end openb 192.0.2.8 => once 192.0.2.2
			+10.4s grant b 192.0.2.9  =>
			+10.5s end once 192.0.2.2 => openb 192.0.2.9
			+10.6s end openb 192.0.2.9 => once 192.0.2.3`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { newDoorsTest(t, test.config).run(test.script) })
	}
}

// TestDoorsNative has doors that the firewall opens, and a journal.
func TestDoorsNative(t *testing.T) {
	const (
		n = "[n] Open_Ports = 22, 53:udp | Cmd_Timeout = 10\n"
		b = "[b] Open_Ports = 80 | Cmd_Timeout = 20 | Start_Command = start | Stop_Command = stop\n"
		c = "[c] Start_Command = open | Stop_Command = shut | Cmd_Timeout = 10\n"
		o = "[o] Start_Command = once\n"
	)
	tests := []struct{ name, config, script string }{
		{"open and close", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+0s   journal           => n 192.0.2.7 starting
			+1s   worked            =>
			+1s   journal           => n 192.0.2.7 open until 10s
			+1s   log               => 192.0.2.7: n: open for 10s: 22:tcp,53:udp
			+10s  tick              => <close >
			+11s  worked            =>
			+11s  journal           =>
			+11s  log               => 192.0.2.7: n: command timeout | 192.0.2.7: n: closed`},
		{"knocking again adds time", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+1s   worked            =>
			+5s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+6s   grant n 192.0.2.7 =>
			+6s   journal           => n 192.0.2.7 open until 16s
			+7s   worked            => <open n 192.0.2.7 9s>
			+8s   worked            =>
			+16s  tick              => <close >`},
		{"many at once", n, `
			+0s   grant n 192.0.2.1 => <open n 192.0.2.1 10s>
			+0s   grant n 192.0.2.2 =>
			+0s   grant n 192.0.2.3 =>
			+0s   grant n 192.0.2.4 =>
			+0s   grant n 192.0.2.5 =>
			+0s   grant n 192.0.2.6 =>
			+1s   worked            => <build n 192.0.2.1 9s; n 192.0.2.2 10s; n 192.0.2.3 10s; n 192.0.2.4 10s; n 192.0.2.5 10s; n 192.0.2.6 10s>
			+1s   worked            =>
			+10s  tick              => <close n 192.0.2.2 1s; n 192.0.2.3 1s; n 192.0.2.4 1s; n 192.0.2.5 1s; n 192.0.2.6 1s>`},
		{"with commands", b, `
			+0s   grant b 192.0.2.7 => <open b 192.0.2.7 20s>
			+1s   worked            => start
			+1s   journal           => b 192.0.2.7 starting, runs
			+2s   end start         =>
			+2s   journal           => b 192.0.2.7 open until 20s
			+20s  tick              => stop, <close >
			+21s  end stop          =>
			+21s  journal           => b 192.0.2.7 closing
			+22s  worked            =>
			+22s  journal           =>`},
		{"a start command that fails leaves the ports open", b, `
			+0s   grant b 192.0.2.7 => <open b 192.0.2.7 20s>
			+0s   worked            => start
			+1s   drop
			+1s   fail start        =>
			+1s   log               => b: command returned non-zero status code (1) | b: command took 0s | 192.0.2.7: b: start command failed (status 1): the ports are open all the same
			+1s   status            => b 192.0.2.7 open (status 1), closes in 19s
			+1s   journal           => b 192.0.2.7 open until 20s
			+5s   grant b 192.0.2.7 => <open b 192.0.2.7 20s>
			+5s   worked            =>
			+25s  tick              => stop, <close >
			+25s  fail stop         =>
			+25s  failed            =>
			+26s  tick              => stop
			+26s  end stop          =>
			+30s  tick              => <close >
			+30s  worked            =>
			+30s  journal           =>`},
		{"after a crash, a door whose start command failed is not taken up", c, `
			+0s   grant c 192.0.2.7 => open
			+0s   fail open         =>
			+0s   journal           => c 192.0.2.7 closing
			+1s   grant c 192.0.2.7 => shut
			+1s   end shut          => open
			+1s   end open          =>
			+1s   journal           => c 192.0.2.7 open until 11s`},
		{"what the firewall does not do is not opened", n + b, `
			+0s   grant b 192.0.2.7 => <open b 192.0.2.7 20s>
			+1s   failed            => <close >
			+1s   log               => firewall: no such chain | 192.0.2.7: b: not opened: the firewall refused the change
			+1s   journal           => b 192.0.2.7 closing
			+1s   worked            =>
			+1s   journal           =>
			+1s   next              => 11s`},
		{"a native door closes in time although its start command runs on", "[s] Open_Ports = 22 | Cmd_Timeout = 10 | Start_Command = hang\n", `
			+0s   grant s 192.0.2.7 => <open s 192.0.2.7 10s>
			+0s   worked            => hang
			+5s   grant s 192.0.2.7 => <open s 192.0.2.7 10s>
			+5s   worked            =>
			+5s   next              => 15s
			+15s  tick              => <close >
			+15s  journal           => s 192.0.2.7 closing, runs
			+15s  worked            =>
			+16s  end hang          =>
			+16s  journal           =>
			+16s  next              => never`},
		{"a closing that failed is not lost by another knock", c, `
			+0s   grant c 192.0.2.7 => open
			+0s   end open          =>
			+10s  tick              => shut
			+10s  fail shut         =>
			+10s  full              =>
			+10.1s grant c 192.0.2.7 => open
			+10.2s end open         => shut
			+10.3s end shut         =>
			+11s  room              =>
			+12s  tick              =>
			+12s  journal           =>`},
		{"nor by the end", c + o, `
			+0s   grant c 192.0.2.7 => open
			+0s   end open          =>
			+10s  tick              => shut
			+10s  fail shut         =>
			+10s  grant o 192.0.2.8 => once
			+10s  grant c 192.0.2.7 =>
			+10s  journal           => c 192.0.2.7 closing
			+10s  close             =>
			+10.3s tick             => shut`},
		{"knocking every moment does not add time every moment", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+0s   worked            =>
			+0.5s grant n 192.0.2.7 =>
			+0.9s grant n 192.0.2.7 =>
			+1s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>`},
		{"closed by hand while it waits to be opened anew", c, `
			+0s   grant c 192.0.2.7 => open
			+0s   end open          =>
			+10s  tick              => shut
			+10s  grant c 192.0.2.7 =>
			+10s  shut              =>
			+10s  end shut          =>
			+10s  next              => never`},

		{"a closing that the firewall does not do is tried again", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+0s   worked            =>
			+10s  tick              => <close >
			+10s  failed            =>
			+10s  journal           => n 192.0.2.7 closing, 1 tries
			+11s  tick              => <close >
			+12s  worked            =>
			+12s  journal           =>`},
		{"knocking again while a closing that the firewall does not do waits uses up none of its tries", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+0s   worked            =>
			+10s  tick              => <close >
			+10s  failed            =>
			+10s  drop              =>
			+10.5s grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+10.5s worked           =>
			+10.5s journal          => n 192.0.2.7 open until 20.5s
			+10.5s log              => 192.0.2.7: n: open still: 10s from now on
			+20s  tick              => <check n 192.0.2.7 500ms>
			+20s  worked            =>
			+20.5s tick             => <close >
			+20.5s failed           =>
			+20.5s journal          => n 192.0.2.7 closing, 1 tries
			+21.5s tick             => <close >
			+21.5s worked           =>
			+21.5s journal          =>`},
		{"somebody changes the firewall", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+1s   worked            =>
			+2s   changed           =>
			+2.1s changed           =>
			+2.1s next              => 2.2s
			+2.2s tick              => <look>
			+2.3s looked            => <check n 192.0.2.7 7.7s>
			+2.3s failed            =>
			+3s   next              => 10s`},
		{"somebody changes what is ours", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+1s   worked            =>
			+2s   touched           => <build n 192.0.2.7 8s>
			+2s   touched           =>
			+2s   right             =>
			+2s   log               => 192.0.2.7: n: open for 10s: 22:tcp,53:udp | firewall: another program changed our rules: restored
			+2s   next              => 2.005s
			+2.01s tick             => <build n 192.0.2.7 7.99s>
			+2.01s right            =>
			+3s   next              => 10s`},
		{"no room for the journal", n + c + o, `
			+0s   full              =>
			+0s   grant n 192.0.2.7 =>
			+0s   log               => no space left on device | 192.0.2.7: n: not opened: cannot write the journal
			+0s   next              => 1s
			+0s   grant c 192.0.2.7 => open
			+0s   end open          =>
			+0s   log               => c: running command: open | no space left on device | 192.0.2.7: c: not opened: cannot write the journal
			+0s   grant o 192.0.2.7 => once
			+0s   end once          =>
			+1s   room              =>
			+1s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+1s   worked            =>
			+2s   full              =>
			+11s  tick              => <close >
			+11s  worked            =>
			+11s  next              => 12s
			+11s  journal           => n 192.0.2.7 open until 11s
			+12s  room              =>
			+12s  journal           =>`},
		{"what closes is run without the journal, too", c, `
			+0s   grant c 192.0.2.7 => open
			+1s   end open          =>
			+2s   full              =>
			+11s  tick              => shut
			+12s  end shut          =>
			+13s  room              =>
			+13s  journal           =>`},
		{"closed by hand, and killed then: it is not taken up", c, `
			+0s   grant c 192.0.2.7 => open
			+0s   end open          =>
			+1s   shut              => shut
			+1s   journal           => c 192.0.2.7 closing, runs`},
		{"all close", n + b + c, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+0s   worked            =>
			+0s   grant b 192.0.2.8 => <open b 192.0.2.8 20s; n 192.0.2.7 10s>
			+1s   close             =>
			+1s   grant n 192.0.2.9 =>
			+1s   worked            => <close >
			+1s   worked            => <close >
			+1s   worked            =>
			+1s   journal           =>`},
		{"a change of the firewall is not looked at while all close", c, `
			+0s   grant c 192.0.2.1 => open
			+0s   end open          =>
			+1s   close             => shut
			+1s   changed           =>
			+2s   tick              =>`},
		{"all close at once", n, `
			+0s   grant n 192.0.2.1 => <open n 192.0.2.1 10s>
			+0s   worked            =>
			+1s   close             => <close >
			+1s   worked            =>
			+1s   next              => never`},
		{"flushed", n, `
			+0s   grant n 192.0.2.1 => <open n 192.0.2.1 10s>
			+0s   worked            =>
			+0s   grant n 192.0.2.2 => <open n 192.0.2.1 10s; n 192.0.2.2 10s>
			+1s   flush             =>
			+1s   worked            => <flush >
			+1s   changed           =>
			+1s   failed            =>
			+1.1s tick              => <flush >
			+1.2s worked            =>
			+2s   next              => never
			+2s   journal           =>`},
		{"flushed while a start command runs", b, `
			+0s   grant b 192.0.2.7 => <open b 192.0.2.7 20s>
			+0s   worked            => start
			+1s   flush             => <flush >
			+1s   worked            =>
			+2s   end start         => stop
			+3s   end stop          =>
			+3s   journal           =>`},
		{"a change is looked at beside an opening, and before more is opened", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+0s   worked            =>
			+1s   changed           =>
			+1.1s grant n 192.0.2.8 => <open n 192.0.2.7 8.9s; n 192.0.2.8 10s>
			+1.2s grant n 192.0.2.9 => <look>
			+1.2s looked            =>
			+1.3s worked            => <check n 192.0.2.7 8.7s; n 192.0.2.8 9.8s>
			+1.3s right             => <open n 192.0.2.7 8.7s; n 192.0.2.8 9.8s; n 192.0.2.9 10s>`},

		{"a shutting out that has failed is tried at once when all close", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+0s   worked            =>
			+10s  tick              => <close >
			+10s  failed            =>
			+11s  tick              => <close >
			+11s  failed            =>
			+12s  close             => <close >
			+12s  worked            =>
			+12s  next              => never`},
		{"it is shut out once", b, `
			+0s   grant b 192.0.2.7 => <open b 192.0.2.7 20s>
			+0s   worked            => start
			+1s   shut              => <close >
			+2s   killed start      => stop
			+3s   worked            =>
			+3s   end stop          =>
			+3s   journal           =>`},
		{"what was not let in yet is not shut out", n, `
			+0s   grant n 192.0.2.7 => <open n 192.0.2.7 10s>
			+0s   grant n 192.0.2.8 =>
			+1s   shut              =>
			+1s   status            => n 192.0.2.7 closing
			+1s   worked            => <close >
			+1s   worked            =>
			+1s   next              => never`},
		{"lengthened while its start command runs: by the knock, however long the firewall takes", n + b, `
			+0s   grant b 192.0.2.7 => <open b 192.0.2.7 20s>
			+0s   worked            => start
			+5s   grant n 192.0.2.8 => <open b 192.0.2.7 15s; n 192.0.2.8 10s>
			+5s   grant b 192.0.2.7 =>
			+7s   worked            => <open b 192.0.2.7 18s; n 192.0.2.8 8s>`},
		{"a start command that failed is stopped although it cannot be run again", c, `
			+0s   grant c 192.0.2.7 => open
			+0s   fail open         =>
			+1s   grant c 192.0.2.7 => shut
			+1s   full              =>
			+1s   fail shut         => open
			+1s   end open          => shut
			+1s   end shut          =>
			+1s   room              =>
			+3s   tick              =>
			+3s   journal           =>`},
		{"what is left to the next daemon is not closed", b, `
			+0s   grant b 192.0.2.7 => <open b 192.0.2.7 20s>
			+0s   worked            => start
			+0s   end start         =>
			+1s   close             => stop, <close >
			+1s   worked            =>
			+1s   fail stop         =>
			+1.1s tick              => stop
			+1.1s drop
			+1.1s fail stop         =>
			+1.1s log               => b: command returned non-zero status code (1) | b: command took 0s
			+1.1s journal           => b 192.0.2.7 closing, 2 tries`},
		{"a closing that fails when all close is left to the next daemon", c, `
			+0s   grant c 192.0.2.7 => open
			+0s   end open          =>
			+1s   close             => shut
			+1s   fail shut         =>
			+1.1s tick              => shut
			+1.1s fail shut         =>
			+1.1s journal           => c 192.0.2.7 closing, 2 tries`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newDoorsTest(t, test.config).withFirewall()
			d.firewall.watched = true
			d.run(test.script)
		})
	}
}

// TestDoorsResume takes up what an earlier daemon has left.
func TestDoorsResume(t *testing.T) {
	entry := func(source string, state OpeningState, until time.Duration) Entry {
		return Entry{Door: "c", Source: netip.MustParseAddr(source), State: state, Until: until, Start: "open", Stop: "shut %IP%"}
	}
	native := Entry{Door: "n", Source: netip.MustParseAddr("192.0.2.9"), State: Open, Since: 5 * time.Second, Until: 30 * time.Second, Ports: []Knock{{22, tcp}}}
	overdue := native
	overdue.Source, overdue.Until = netip.MustParseAddr("192.0.2.10"), time.Second
	ran := entry("192.0.2.3", Starting, 30*time.Second)
	ran.Pid, ran.Began = noProcess, 1
	left := []Entry{
		entry("192.0.2.1", Open, 30*time.Second), entry("192.0.2.2", Open, 9*time.Second), ran,
		entry("192.0.2.11", Starting, 30*time.Second), // its command never was a process: there is nothing to stop
		entry("192.0.2.4", Closing, 30*time.Second), native, overdue, native,
	}
	resumed := func(r Recovered) *doorsTest {
		d := newDoorsTest(t, "").withFirewall()
		d.firewall.watched = true
		d.resume(10*time.Second, r)
		return d
	}
	stops := func(d *doorsTest) string {
		var all []string
		for len(d.due(20*time.Second, runStop|forget)) > 0 {
			d.started = nil
			d.tick(20 * time.Second)
			all = append(all, d.started...)
			for _, j := range d.commands.running {
				d.end(20*time.Second, j, Outcome{})
			}
		}
		d.tick(20 * time.Second)
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	d := resumed(Recovered{Entries: left})
	if got, want := describeWork(firewallTask{kind: taskBuild, rules: d.ruleset(10 * time.Second)}), "<build n 192.0.2.9 20s>"; got != want {
		t.Errorf("firewall: got %s, want %s", got, want)
	}
	if got, want := stops(d), "shut 192.0.2.2, shut 192.0.2.3, shut 192.0.2.4"; got != want {
		t.Errorf("closed: got %q, want %q", got, want)
	}
	d.run(`
		+20s journal => c 192.0.2.1 open until 30s; n 192.0.2.9 open until 30s
		+30s tick    => shut 192.0.2.1, <close >`)

	for name, r := range map[string]Recovered{"after a reboot": {Entries: left, Stale: true}, "damaged": {Entries: left, Damage: "line 3"}} {
		d := resumed(r)
		if got, want := stops(d), "shut 192.0.2.1, shut 192.0.2.2, shut 192.0.2.3, shut 192.0.2.4"; got != want {
			t.Errorf("%s: closed: got %q, want %q", name, got, want)
		}
		if len(d.open) > 0 || len(d.ruleset(0).Open) > 0 {
			t.Errorf("%s: still open: %v", name, d.open)
		}
	}
	// After a reboot there is one try.
	d = resumed(Recovered{Entries: left[:1], Stale: true})
	d.run(`
		+20s tick                => shut 192.0.2.1
		+20s fail shut 192.0.2.1 =>
		+20s next                => never
		+20s journal             =>`)
	if len(d.givenUp) != 1 {
		t.Errorf("given up: got %v, want one", d.givenUp)
	}
	d = resumed(Recovered{Entries: left[:1], Stale: true})
	d.run(`
		+20s close               => shut 192.0.2.1
		+20s fail shut 192.0.2.1 =>
		+21s tick                =>
		+21s journal             =>`)
}

// A reload makes an opening another one only if it changes a command.
func TestDoorsAfterReload(t *testing.T) {
	d := newDoorsTest(t, "[a] Start_Command = open | Stop_Command = close | Cmd_Timeout = 10")
	d.run(`
		+0s grant a 192.0.2.7 => open
		+0s end open          =>`)
	d.configure("[a] Start_Command = open | Stop_Command = close | Cmd_Timeout = 20")
	d.run("+1s grant a 192.0.2.7 =>")
	d.configure("[a] Start_Command = open2 | Stop_Command = close | Cmd_Timeout = 5")
	d.run(`
		+2s grant a 192.0.2.7 => open2
		+2s end open2         =>`)
	d.configure("[a] Start_Command = open2 | Stop_Command = close2 | Cmd_Timeout = 6")
	d.run(`
		+3s  grant a 192.0.2.7 => open2
		+3s  end open2         =>
		+7s  tick              => close
		+7s  end close         =>
		+9s  tick              => close2
		+9s  end close2        =>
		+20s tick              =>
		+21s tick              => close`)
}

func TestDoorsBounds(t *testing.T) {
	source := func(n int) string { return fmt.Sprintf("10.0.%d.%d", n/256, n%256) }
	var config strings.Builder
	for n := range 10 {
		fmt.Fprintf(&config, "[%d] Start_Command = open%d %%IP%% | Stop_Command = close | Cmd_Timeout = 1\n", n, n)
	}
	d := newDoorsTest(t, config.String())
	now := time.Duration(0)
	hundredHeadStarts := func() (started []string) {
		for range 100 {
			now += headStart
			d.started = nil
			d.tick(now)
			started = append(started, d.started...)
			d.check(now)
		}
		return started
	}
	for n := range defaultMaxOpen + 10 {
		d.grant(now, Grant{Door: d.config["0"], Source: netip.MustParseAddr(source(n))})
	}
	if n := strings.Count(d.logged.String(), "not opened: it is open for 256 sources already"); n != 10 || len(d.Doors.open) != defaultMaxOpen {
		t.Errorf("got %d refused and %d opened, want 10 and %d", n, len(d.Doors.open), defaultMaxOpen)
	}
	if got := hundredHeadStarts(); len(got) != maxRunningDoor {
		t.Errorf("got %d commands of one door at once, want %d", len(got), maxRunningDoor)
	}
	for door := range 10 {
		for n := range 20 {
			d.grant(now, Grant{Door: d.config[fmt.Sprint(door)], Source: netip.MustParseAddr(source(1000 + n))})
		}
	}
	if got := hundredHeadStarts(); len(got) != maxRunning-maxRunningDoor || len(d.commands.running) != maxRunning {
		t.Errorf("got %d commands more and %d at once, want %d at once", len(got), len(d.commands.running), maxRunning)
	}
	// One that ends makes room for the next, and its stop command needs none.
	d.end(now, d.job("open0 "+source(0)), Outcome{})
	if got := hundredHeadStarts(); !slices.Equal(got, []string{"open0 " + source(maxRunningDoor), "close"}) {
		t.Errorf("got %v, want the next one of the door and a stop command", got)
	}
}

// When all close, every stop command is started within stopSpread, even if each of them hangs.
func TestDoorsCloseInTime(t *testing.T) {
	for _, open := range []int{1, 7, 40, defaultMaxOpen} {
		d := newDoorsTest(t, "[a] Start_Command = open %IP% | Stop_Command = close %IP% | Cmd_Timeout = 1000")
		for n := range open {
			source := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
			d.grant(0, Grant{Door: d.config["a"], Source: source})
			d.tick(0)
			d.end(0, d.job("open "+source.String()), Outcome{})
		}
		d.started = nil
		now := time.Second
		d.closeAll()
		for d.tick(now); len(d.due(now, runStop)) > 0 && now < time.Minute; d.tick(now) {
			d.check(now)
			now = d.next(now)
		}
		if took := now - time.Second; len(d.started) != open || took > stopSpread {
			t.Errorf("%d open: got %d stop commands within %v, want all within %v", open, len(d.started), took, stopSpread)
		}
	}
}

func TestDoorsAbandon(t *testing.T) {
	d := newDoorsTest(t, "[a] Start_Command = open %IP% | Stop_Command = close %IP%\n[b] Start_Command = once")
	d.run(`
		+0s grant b 192.0.2.7   => once
		+1s grant a 192.0.2.7   => open 192.0.2.7
		+1s end open 192.0.2.7  =>
		+2s close               => close 192.0.2.7
		+9s tick                =>`)
	d.logged.Reset()
	d.abandon()
	got := strings.Split(strings.TrimSpace(d.logged.String()), "\n")
	slices.Sort(got)
	want := []string{"a: command did not end within 10s: close 192.0.2.7", "b: command did not end within 10s: once"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// To look at next is enough: who ticks only then starts the same commands at the same times as who ticks all the time.
func TestDoorsNext(t *testing.T) {
	const config = `
		[a] Start_Command = open %IP% | Stop_Command = close %IP% | Cmd_Timeout = 3
		[b] Start_Command = openb %IP% | Stop_Command = closeb %IP% | Cmd_Timeout = 1
		[c] Start_Command = once %IP%`
	const unit = 10 * time.Millisecond
	// simulate reports the commands, and whether two doors were to close at once: which is first is left to chance.
	simulate := func(seed uint64, always bool) (started []string, tie bool) {
		r := rand.New(rand.NewPCG(seed, 3))
		d := newDoorsTest(t, config)
		lasting := time.Duration(1+r.IntN(50)) * unit
		ends := map[time.Duration][]string{}
		grants := map[time.Duration]Grant{}
		for range 40 {
			name, source := string(rune('a'+r.IntN(3))), netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(5))})
			grants[time.Duration(r.IntN(1500))*unit] = Grant{Door: d.config[name], Source: source}
		}
		for now := time.Duration(0); now < 40*time.Second; now += unit {
			due := always || d.next(now-1) <= now
			if g, ok := grants[now]; ok {
				d.grant(now, g)
				due = true
			}
			for _, line := range ends[now] {
				d.end(now, d.job(line), Outcome{})
				due = true
			}
			if !due {
				continue
			}
			closing := 0
			for _, o := range d.Doors.open {
				if o.closesAt() <= now {
					closing++
				}
			}
			tie = tie || closing > 1
			d.started = nil
			d.tick(now)
			d.check(now)
			for _, line := range d.started {
				started = append(started, now.String()+" "+line)
				ends[now+lasting] = append(ends[now+lasting], line)
			}
		}
		if len(d.Doors.open) > 0 {
			t.Errorf("seed %d: %d are open in the end", seed, len(d.Doors.open))
		}
		return started, tie
	}
	compared := 0
	for seed := range seeds(60) {
		got, tie1 := simulate(seed, false)
		want, tie2 := simulate(seed, true)
		if tie1 || tie2 {
			continue
		}
		if compared += len(got); !slices.Equal(got, want) {
			t.Errorf("seed %d: got %q, want %q", seed, got, want)
		}
	}
	if compared < 8*int(seeds(60)) {
		t.Errorf("got %d commands compared, want many", compared)
	}
}

// TestBuilt has a reload told of when the firewall is as it says: not by work that began before, and also when links
// change meanwhile.
func TestBuilt(t *testing.T) {
	d := newDoorsTest(t, "").withFirewall()
	built, work := 0, d.firewall.work
	ended := func() {
		d.done(nil)
		d.applied(0, <-d.firewall.done)
		d.tick(0)
	}
	d.firewall.makeAnew()
	d.tick(0)
	d.Doors.configure(0, doorSettings{reload: true, rules: &Ruleset{}, work: work, built: func() { built++ }})
	d.Doors.configure(0, doorSettings{rules: &Ruleset{}})
	if ended(); built != 0 {
		t.Error("told by a build of the rules before")
	}
	for range 2 {
		if ended(); built != 1 {
			t.Errorf("told %d times, want once", built)
		}
		d.firewall.makeAnew()
		d.tick(0)
	}
}
