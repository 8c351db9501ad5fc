//go:build linux

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"
)

// TestOpening says of each opening when it closes, what the next daemon is to make of it, whether the firewall may have
// it, and what is to be done.
func TestOpening(t *testing.T) {
	const since, now, until = time.Second, 2 * time.Second, time.Minute
	command := &Door{Name: "a", Start: "open", Stop: "close"}
	ports := &Door{Name: "a", OpenPorts: []Knock{{22, tcp}}, Start: "start"}
	in, enters, leaves := side{in: true}, side{doing: entering}, side{in: true, doing: leaving}
	runs := Process{pid: 7, began: 8}
	for _, test := range []struct {
		name    string
		door    *Door
		as      opening
		closes  time.Duration
		journal OpeningState
		passes  bool
		do      action
	}{
		{"waits to open", command, opening{open: true}, never, Starting, false, runStart},
		{"opens", command, opening{open: true, command: enters, process: runs}, never, Starting, false, 0},
		{"opened, and is to be opened again", command, opening{open: true, command: side{in: true, stale: true}}, never, Closing, false, runStart},
		{"open", command, opening{open: true, command: in}, until, Open, false, 0},
		{"failed", command, opening{open: true, command: in, startError: "status 1"}, until, Closing, false, 0},
		{"to be closed", command, opening{command: in, tries: 1}, never, Closing, false, runStop},
		{"to be closed later", command, opening{command: side{in: true, after: until}, tries: 1}, never, Closing, false, 0},
		{"closing", command, opening{command: leaves, process: runs}, never, Closing, false, 0},
		{"closed", command, opening{}, never, Starting, false, forget},
		{"to be written down", ports, opening{open: true}, never, Starting, false, save},
		{"to be let in", ports, opening{open: true, disk: record{there: true}}, never, Starting, false, letIn},
		{"being let in", ports, opening{open: true, rule: enters}, never, Starting, true, 0},
		{"in, and its command waits", ports, opening{open: true, rule: in}, until, Starting, true, runStart},
		{"in, for longer", ports, opening{open: true, rule: side{in: true, stale: true}, command: in, disk: record{there: true}}, until, Open, true, letIn},
		{"failed, and yet open", ports, opening{open: true, rule: in, command: in, startError: "status 1"}, until, Open, true, 0},
		{"to be shut out", ports, opening{rule: in, command: side{in: true, doing: entering}, process: runs}, never, Closing, false, shutOut},
		{"being shut out", ports, opening{rule: leaves, command: in, tries: 1}, never, Closing, false, 0},
	} {
		o := newOpening(Grant{Door: test.door, Source: netip.MustParseAddr("192.0.2.7"), Link: "eth0"}, since, until)
		as := &test.as
		as.key, as.grant, as.since, as.until, as.limit = o.key, o.grant, o.since, o.until, never
		e := as.entry()
		if at := as.closesAt(); at != test.closes || e.State != test.journal || e.Pid != as.process.pid || as.passes() != test.passes {
			t.Errorf("%s: got closes %v, journal %v, process %d, passes %v, want %v, %v, %d, %v", test.name, at, e.State, e.Pid, as.passes(),
				test.closes, test.journal, as.process.pid, test.passes)
		}
		if do, _ := as.next(now); do != test.do {
			t.Errorf("%s: next: got %b, want %b", test.name, do, test.do)
		}
		if back := resumed(now, e, Recovered{}); back.key != o.key || !as.journaled() || back.open != (test.journal == Open) {
			t.Errorf("%s: from the journal: got %+v, want %+v", test.name, back, o.key)
		}
	}
}

// walked is an opening, and what is really so, as the walk knows it.
type walked struct {
	o         opening
	gone      bool // forgotten
	allClose  bool
	lets      bool // the firewall may let it in
	ran       bool // its start command has begun, and no stop command has ended well since
	held      bool // its command waits for the journal
	abandoned bool // and is not to run
}

// In the walk it is always now, and what is to come is later: each time is reached by an event of its own, in any order.
const (
	walkNow = 1000 * time.Hour
	later   = walkNow + time.Hour
)

// settled has the times of an opening say only whether they are reached, and the tries only what they tell apart.
func (w walked) settled() walked {
	o := &w.o
	for _, t := range []*time.Duration{&o.until, &o.limit, &o.rule.after, &o.command.after, &o.disk.until} {
		switch {
		case *t == 0 || *t == never:
		case *t > walkNow:
			*t = later
		default:
			*t = walkNow
		}
	}
	if o.tries > 1 {
		o.tries = maxTries - 1
	}
	if o.startError != "" {
		o.startError = "status 1"
	}
	o.disk.tries, o.failed, o.entered, o.more = min(o.disk.tries, 1), walkNow, false, 0
	return w
}

// walk tries everything that can happen to the openings of a door.
type walk struct {
	t     *testing.T
	grant Grant
	came  map[walked]came // what led there
	queue []walked
	ends  map[bool]map[walked]bool // from where it has gone to the end, with everything done well or not
}

type came struct {
	from walked
	what string
}

// path is all that led there.
func (k *walk) path(w walked) (path string) {
	for c := k.came[w]; c.what != ""; c = k.came[c.from] {
		path = ", " + c.what + path
	}
	return path
}

// step has something happen to it, and notes the one that comes of it.
func (k *walk) step(from walked, what string, happen func(w *walked, o *opening)) walked {
	to := from
	happen(&to, &to.o)
	to = to.settled()
	bad := func(why string) { k.t.Fatalf("%s%s, %s: %s\n%+v", k.grant.Door.Name, k.path(from), what, why, to) }
	o := &to.o
	stops := o.key.stop != ""
	switch {
	case to.gone && to.lets && o.givenUp == "":
		bad("forgotten, and the firewall lets it in")
	case to.gone && to.ran && stops && o.givenUp == "":
		bad("forgotten, and its stop command was not run")
	case to.gone:
		to = walked{o: *newOpening(k.grant, walkNow, later), gone: true, allClose: to.allClose}
		to = to.settled()
	case o.journaled() && (to.lets || to.ran) && !o.disk.there:
		bad("let in or run, and not on disk")
	case to.lets && !o.rule.in && o.rule.doing == nothing && o.givenUp == "":
		bad("let in, and taken for out")
	case to.ran && stops && !o.command.in && o.command.doing == nothing && o.givenUp == "":
		bad("run, and taken for stopped")
	case o.command.doing == entering && !to.held && !to.abandoned && o.journaled() && o.disk.pid == 0:
		bad("a start command runs that the journal does not have")
	case !o.open && o.command.doing == entering && o.journaled() && o.limit == never:
		bad("nothing ends its start command")
	case !o.open && o.disk == o.record() && o.disk.state == Open && o.disk.until > walkNow:
		bad("to be closed, and the next daemon would leave it open")
	}
	if do, at := o.next(walkNow); !to.gone && do == 0 && at == never && o.rule.doing == nothing && o.command.doing == nothing && !o.left() {
		bad("nothing more will ever be done")
	}
	if _, seen := k.came[to]; !seen {
		k.came[to] = came{from, what}
		k.queue = append(k.queue, to)
	}
	return to
}

// all has everything happen that can happen to it.
func (k *walk) all(w walked) {
	step := func(what string, happen func(w *walked, o *opening)) { k.step(w, what, happen) }
	if !w.allClose {
		step("grant", func(w *walked, o *opening) {
			if !w.gone {
				o.again(walkNow, k.grant)
			}
			w.gone = false
		})
		step("all close", func(w *walked, o *opening) {
			w.allClose = true
			o.shut()
			o.hurry()
		})
	}
	if w.gone {
		return
	}
	step("shut", func(w *walked, o *opening) { o.shut() })
	for timer := range timers {
		k.reach(w, timer)
	}
	for _, well := range []bool{true, false} {
		k.do(w, well)
		if w.held {
			k.journal(w, well)
		}
	}
	if do, _ := w.o.next(walkNow); do&(runStart|runStop) != 0 {
		step("not run", func(w *walked, o *opening) {
			o.runs(Process{}, later)
			o.ended(walkNow, Outcome{Err: errFake}, w.allClose)
		})
	}
	step("written", func(w *walked, o *opening) {
		if !w.held {
			o.recorded()
		}
	})
	k.crash(w, Recovered{})
	k.crash(w, Recovered{Stale: true})
	k.crash(w, Recovered{Damage: "line 3"})
}

const timers = 5

// reach has the time of one timer come: that of its end, which the disk may have otherwise, or of another try.
func (k *walk) reach(w walked, timer int) walked {
	return k.step(w, "time", func(w *walked, o *opening) {
		if t := []*time.Duration{&o.until, &o.disk.until, &o.limit, &o.rule.after, &o.command.after}[timer]; *t == later {
			*t = walkNow
		}
	})
}

// journal has it written, or not, while a command waits for that.
func (k *walk) journal(w walked, well bool) walked {
	return k.step(w, fmt.Sprint("journal ", well), func(w *walked, o *opening) {
		if well {
			o.recorded()
		}
		starts := o.command.doing == entering
		w.held, w.abandoned = false, starts && !well
		w.ran = w.ran || starts && well
	})
}

// do carries out what is to be done, well or not, and ends what is being done. It returns the last of what comes of it.
func (k *walk) do(w walked, well bool) walked {
	did := func(what string, happen func(w *walked, o *opening)) {
		w = k.step(w, fmt.Sprint(what, " ", well), happen)
	}
	var err error
	outcome := Outcome{}
	if !well {
		err, outcome.Status = errFake, 1
	}
	switch do, _ := w.o.next(walkNow); {
	case do&expire != 0:
		did("expire", func(w *walked, o *opening) { o.expire() })
	case do&endCommand != 0:
		did("end command", func(w *walked, o *opening) {
			if o.open {
				o.shut()
			}
			o.endsAt(later)
		})
	case do&forget != 0:
		did("forget", func(w *walked, o *opening) { w.gone = true })
	case do&save != 0:
		did("save", func(w *walked, o *opening) {
			if w.gone = !well; well {
				o.recorded()
			}
		})
	case do&(letIn|shutOut) != 0:
		did("rule", func(w *walked, o *opening) {
			o.changing(walkNow)
			w.lets = w.lets || o.open
		})
	}
	if do, _ := w.o.next(walkNow); !w.gone && do&(runStart|runStop) != 0 {
		did("run", func(w *walked, o *opening) {
			if do == runStart && o.key.start == "" || do == runStop && o.key.stop == "" {
				k.t.Fatalf("%s%s: it runs a command that there is not", k.grant.Door.Name, k.path(*w))
			}
			o.runs(Process{pid: 7, began: 8}, later)
			w.held = o.journaled()
			w.ran = w.ran || !w.held
		})
	}
	if w.o.rule.doing != nothing {
		did("worked", func(w *walked, o *opening) {
			leaves := o.rule.doing == leaving
			o.changed(walkNow, err, w.allClose)
			w.lets = w.lets && !(leaves && (well || o.givenUp != ""))
		})
		if w.allClose && !w.gone && w.o.rule.doing == nothing {
			did("flushed", func(w *walked, o *opening) {
				o.flushed()
				w.lets = false
			})
		}
	}
	if w.abandoned {
		did("abandoned", func(w *walked, o *opening) {
			o.notRun()
			w.abandoned = false
		})
	} else if w.o.command.doing != nothing && !w.held {
		did("ended", func(w *walked, o *opening) {
			stops := o.command.doing == leaving
			o.ended(walkNow, outcome, w.allClose)
			w.ran = w.ran && !(stops && (well || o.givenUp != "" && !o.command.in))
		})
	}
	return w
}

// crash kills the daemon, and starts another one.
func (k *walk) crash(w walked, r Recovered) {
	k.step(w, "crash", func(w *walked, o *opening) {
		if !o.disk.there { // step has looked whether anything is left
			w.gone = true
			return
		}
		e := o.entry()
		e.State, e.Until, e.Tries, e.Pid, e.Began = o.disk.state, o.disk.until, o.disk.tries, o.disk.pid, o.disk.began
		*w = walked{o: *resumed(walkNow, e, r), ran: w.ran}
		if o.grant = k.grant; o.open && (r.Stale || r.Damage != "") {
			k.t.Fatalf("%s%s, crash: it is left open", k.grant.Door.Name, k.path(*w))
		}
		w.lets = o.rule.in // the firewall is made anew
	})
}

// TestOpeningWalk goes to every state that an opening can be in, and has there everything happen that can happen. In each
// step it looks whether nothing is let in, or run, that is not on disk. From each state on it goes to the end, where what
// is no longer wanted is out, and its stop command was run if its start command had begun.
func TestOpeningWalk(t *testing.T) {
	ports := []Knock{{22, tcp}}
	states := 0
	for _, door := range []*Door{
		{Name: "commands", Start: "open", Stop: "close"},
		{Name: "start", Start: "open"},
		{Name: "ports", OpenPorts: ports},
		{Name: "ports and start", OpenPorts: ports, Start: "open"},
		{Name: "ports and stop", OpenPorts: ports, Stop: "close"},
		{Name: "ports and commands", OpenPorts: ports, Start: "open", Stop: "close"},
	} {
		if testing.Short() && door.Name == "ports and commands" {
			continue // most of the states
		}
		door.CmdTimeout = 2 * time.Hour
		k := &walk{t: t, grant: Grant{Door: door, Source: netip.MustParseAddr("192.0.2.7")}, came: map[walked]came{}, ends: map[bool]map[walked]bool{true: {}, false: {}}}
		start := walked{o: *newOpening(k.grant, walkNow, later), gone: true}.settled()
		k.came[start] = came{}
		for k.queue = append(k.queue, start); len(k.queue) > 0; {
			w := k.queue[0]
			k.queue = k.queue[1:]
			k.all(w)
		}
		for w := range k.came {
			k.toTheEnd(w, true)
			k.toTheEnd(w, false)
		}
		if states += len(k.came); len(k.queue) > 0 {
			t.Errorf("%s: %d states were not looked at", door.Name, len(k.queue))
		}
		t.Logf("%s: %d states", door.Name, len(k.came))
	}
	if states < 10000 {
		t.Errorf("got %d states, want many", states)
	}
}

// toTheEnd closes an opening, with everything done well from there on, or nothing.
func (k *walk) toTheEnd(w walked, well bool) {
	from, passed := w, map[walked]bool{}
	for !w.gone && !k.ends[well][w] {
		if passed[w] {
			k.t.Fatalf("%s%s: it is not closed in the end, with everything done %v: %+v", k.grant.Door.Name, k.path(from), well, w)
		}
		passed[w] = true
		w = k.step(w, "shut", func(w *walked, o *opening) { o.shut() })
		for timer := 2; timer < timers; timer++ {
			w = k.reach(w, timer)
		}
		if w.held {
			w = k.journal(w, well)
		}
		w = k.do(w, well)
		if w.o.left() || !well && w.allClose && w.o.rule.in && (w.o.disk.there || !w.lets && !w.ran) {
			break // the firewall is tried until the daemon ends, and what is left then is the next one's
		}
	}
	maps.Copy(k.ends[well], passed)
}
