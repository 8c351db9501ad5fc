//go:build linux

package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Doors is the goroutine that owns what is open: its timers, its commands, its place in the firewall and on the disk.
type Doors struct {
	openings
	now func() time.Duration
	doorNews
	began   time.Duration
	patient bool // at the end it waits for what the firewall is doing, too, which has limits of its own
}

// doorNews is what the doors hear beside grants, and what they say of the daemon.
type doorNews struct {
	changed  <-chan []firewallNews // somebody has changed the firewall: the daemon itself, too
	settings <-chan doorSettings
	asks     <-chan Ask
	about    Status // what the daemon says of itself
	counters func() Counters
}

// leaveNoTrace has nothing of ours left in the firewall at the end, however long that takes.
func (d *Doors) leaveNoTrace() {
	d.firewall.flushing.Store(true)
	d.patient = true
}

func (d *Doors) hear(news doorNews) { d.doorNews = news }

// doorSettings is what a reload, or another set of links, changes for the doors; what is nil stays.
type doorSettings struct {
	reload    bool
	about     Status
	rules     *Ruleset
	work      func(task firewallTask, done func(error))
	report    func() firewallReport
	save      func([]Entry) error
	packets   string // with save: the file of the packets that are used
	recovered Recovered
	watched   bool
	built     func() // told when the firewall is as it says; may be nil
}

func newDoors(now func() time.Duration, log *Log, run func(Command, func(Outcome)) (Process, error)) *Doors {
	return &Doors{
		now:      now,
		doorNews: doorNews{counters: func() Counters { return Counters{} }},
		openings: openings{
			open:     map[openKey]*opening{},
			oneTime:  oneTimeUses{uses: map[[2]string]bool{}},
			commands: commandQueue{run: run, ended: make(chan endedJob), running: map[openKey]*job{}, turn: map[string]time.Duration{}},
			firewall: firewallQueue{done: make(chan firewallDone, 2)},
			logs:     doorLogs{newThrottles(log, doorBurst, doorInterval)},
			crash:    func(string) {},
		},
	}
}

// serve opens doors for the grants until their channel is closed. Then it closes all doors, side by side, waits for
// their commands for stopDeadline, and returns.
func (d *Doors) serve(grants <-chan Grant) {
	d.began = d.now()
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	defer signal.Stop(children)
	timer := time.NewTimer(0)
	deadline := never
	for {
		select {
		case g, ok := <-grants:
			if ok {
				d.grant(d.now(), g)
				for range len(grants) { // more of them, before the rest is looked at
					if g, ok := <-grants; ok {
						d.grant(d.now(), g)
					}
				}
				break
			}
			grants = nil
			deadline = d.now() + stopDeadline
			d.closeAll()
		case <-children:
			d.commands.reap()
		case e := <-d.commands.ended:
			d.end(d.now(), e.job, e.outcome)
		case done := <-d.firewall.done:
			d.applied(d.now(), done)
		case news := <-d.changed:
			d.firewall.hear(news)
		case s := <-d.settings:
			d.configure(d.now(), s)
		case ask := <-d.asks:
			ask.answer <- d.answer(d.now(), ask.Request)
		case <-timer.C:
		}
		now := d.now()
		d.tick(now)
		if d.patient && d.firewall.working {
			deadline = max(deadline, now+time.Second)
		}
		if d.closing && (d.toClose() == 0 && d.firewall.finished() || now >= deadline) {
			d.abandon()
			return
		}
		next := min(d.next(now), deadline)
		if len(d.open) > 0 {
			next = min(next, now+checkEvery) // timers stand still while the machine sleeps, and the time of boot does not
		}
		timer.Reset(max(next-now, 0))
	}
}

// tick does what is to be done now: commands to start, the journal, and the firewall.
func (d *Doors) tick(now time.Duration) {
	d.settle(now)
	d.launch(now)
	d.commit(now)
	d.apply(now)
	d.logs.flush(now)
}

// next is when tick will have something to do.
func (d *Doors) next(now time.Duration) time.Duration {
	return min(d.nextDue(now), d.journal.next(), d.firewall.next(d.closing), d.logs.next())
}

// answer tells the state of things, or closes doors before their time.
func (d *Doors) answer(now time.Duration, r Request) Answer {
	if r.Close {
		n := 0
		for _, o := range d.open {
			if r.wants(o.key.door, o.key.source, o.grant.Link) && o.shut() {
				d.say(now, o, "closed by hand")
				n++
			}
		}
		whom := ""
		if r.Source.IsValid() {
			whom = " for " + r.Source.String()
		}
		if n == 0 && r.Door != "" {
			return Answer{Err: fmt.Errorf("door %q is not open%s: sesame status shows which are", r.Door, whom)}
		}
		return Answer{Closing: n}
	}
	s := d.about
	s.Uptime = now - d.began
	s.Firewall, s.FirewallWarnings, s.FirewallSince = d.firewall.said.choice, d.firewall.said.warnings, now-d.firewall.since
	for _, h := range d.rules.Hidden {
		ports := joinKnocks(h.Ports)
		for _, b := range h.Behind {
			ports += "," + b.String()
		}
		s.Hidden = append(s.Hidden, HiddenPorts{h.Door, strings.Split(strings.Trim(ports, ","), ","), h.Links, h.Except})
	}
	s.Refused = d.refused.at(now)
	for _, o := range d.open {
		open := OpenDoor{Door: o.key.door, Source: o.key.source, Link: o.grant.Link, Ports: o.grant.Door.opens(), Since: now - o.since}
		switch o.state() {
		case Starting:
			open.State = "opening"
		case Closing:
			open.State = "closing"
		default:
			open.State, open.ClosesIn, open.StartError = "open", max(o.until-now, 0), o.startError
			if o.failedToOpen() {
				open.State = "failed"
			}
		}
		s.Open = append(s.Open, open)
	}
	for _, f := range d.givenUp {
		f.Since = now - f.Since
		s.Failed = append(s.Failed, f)
	}
	s.Counters = d.counters()
	s.Counters.CommandFailures = d.failures
	return Answer{Status: s}
}

// configure takes up what a reload has changed.
func (d *Doors) configure(now time.Duration, s doorSettings) {
	d.about = s.about
	if s.rules == nil || d.closing {
		return
	}
	d.setRules(*s.rules, s.reload, s.built)
	if s.save != nil {
		d.journal.configure(s.save)
		d.packets.configure(s.packets)
		d.journal.touch()
		d.resume(now, s.recovered)
	}
	if s.work != nil {
		d.firewall.configure(s.work, s.report, s.watched)
	}
	d.firewall.makeAnew()
}

// resume takes up what an earlier daemon has left open: what is overdue, or not known to be open, is closed now, and so
// is everything from before a reboot, with one try.
func (d *Doors) resume(now time.Duration, r Recovered) {
	for _, trouble := range []string{r.Damage, r.Lost} {
		if trouble != "" {
			d.logs.log.printf("%s", trouble)
		}
	}
	for _, e := range r.Entries {
		if !r.Stale && endLeftover(e.Pid, e.Began) {
			d.logs.log.printf("%s: ended a command of an earlier daemon, process %d", e.Door, e.Pid)
		}
		d.crash("resumed")
		o := resumed(now, e, r)
		switch {
		case d.open[o.key] != nil:
			continue
		case o.open:
			d.logs.log.printfNamed("%v: %s: still open, for %v", e.Source, e.Door, (e.Until - now).Round(time.Second))
		default:
			d.logs.log.printfNamed("%v: %s: left open by an earlier daemon: closing it", e.Source, e.Door)
		}
		d.open[o.key] = o
		d.journal.touch() // with this boot
	}
}

// abandon says which commands have not ended.
func (d *Doors) abandon() {
	d.logs.finish()
	for _, j := range d.commands.running {
		d.logs.log.printf("%s: command did not end within %v: %s", j.key.door, stopDeadline, j.command.Line)
	}
	for _, o := range d.due(never-1, runStop) {
		d.logs.log.printf("%s: command not run: no time was left: %s", o.key.door, doorCommand(o.key.stop, o.grant).Line)
	}
	for _, o := range d.open {
		if !o.rule.out() {
			d.logs.log.printfNamed("%v: %s: not closed within %v: the firewall refused the change", o.key.source, o.key.door, stopDeadline)
		}
	}
}
