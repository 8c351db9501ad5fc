//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is the daemon's life: it brings configurations into force, starts the reader and the doors, and follows signals.
type daemon struct {
	env
	options  serveOptions
	usage    error // what is wrong with the command line of a service; nil: nothing
	notifier Notifier
	hangups  chan os.Signal // SIGHUP alone, so that many of them do not push out a SIGTERM
	ends     chan os.Signal
	pid      *PidFile // with -d
	setup    *Setup   // what is in force
	logs     *Logs
	doors    *Doors
	settings chan doorSettings
	asks     chan Ask
	used     chan struct{} // a one-time sequence was used
	meter    Meter
	control  *Control // nil: another daemon answers already
	unwatch  func()   // ends the news of the firewall
	bare     bool     // it has given up what commands may need
	trial    Trial
}

func serve(e env, args []string) error {
	d := daemon{
		env: e, hangups: make(chan os.Signal, 1), ends: make(chan os.Signal, 2),
		settings: make(chan doorSettings, 1), asks: make(chan Ask), used: make(chan struct{}, 1),
	}
	err := onlyOptions(args, d.options.optionsAs(e.name), "")
	if err == nil && d.options.notOn != nil {
		err = usageError("option -i: " + d.options.notOn.Error())
	}
	if _, misused := err.(usageError); err != nil && (!misused || d.options.keep == "") {
		return err
	}
	d.usage = err
	if d.options.checking {
		return withoutSecrets(checkOptions{config: d.options.config, onlyIPv4: d.options.onlyIPv4}.check(e))
	}
	d.notifier = newNotifier()
	background := d.options.daemon
	if background && d.notifier != "" {
		fmt.Fprintf(e.stderr, "%s: warning: -d is ignored: systemd already runs the daemon in the background\n", e.name)
		background = false
	}
	if background && endedByUnit() {
		fmt.Fprintf(e.stderr, "%s: warning: systemd ends a daemon that goes to the background: leave out -d, or write Type=forking into the unit\n", e.name)
	}
	if !background {
		return d.live(nil)
	}
	caller := detached()
	if caller == nil {
		return detach()
	}
	return d.live(caller)
}

// live is the daemon's life, from the configuration to its end. caller is whom to tell that it listens, or nil in the
// foreground.
func (d *daemon) live(caller *os.File) error {
	if caller != nil {
		if err := d.options.leaveDir(); err != nil {
			return err
		}
	}
	// From here on no signal ends the daemon half-way. SIGPIPE is taken, and not ignored, as commands would inherit that.
	signal.Notify(d.hangups, unix.SIGHUP)
	signal.Notify(d.ends, unix.SIGTERM, unix.SIGINT)
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	closeOnExec()
	defer func() {
		if d.pid != nil {
			d.pid.remove()
		}
	}()
	next, err := d.begin(caller != nil)
	if err != nil {
		// Standard error may be a service manager's log.
		return withoutSecrets(err)
	}
	defer d.finish()
	if caller != nil {
		if next.trouble != "" {
			fmt.Fprintf(d.stderr, "%s: warning: %s\n", d.name, next.trouble)
		}
		if err := letGo(caller); err != nil {
			return err
		}
	}
	d.bare = giveUpPrivileges(next.config)
	closed := d.start(next)
	hideMemory() // last: what has been done until now may need /proc
	return d.end(d.followNews(), closed)
}

// begin brings the first configuration. Where the one asked for does not work, it is the one that was kept when it last
// did: a hidden port is neither to become open at a boot, nor to stay closed to its owner, for a mistake in a file. Where
// none is kept, or it does not work either, the error is the first one.
func (d *daemon) begin(background bool) (*Setup, error) {
	listener, err := newListener(d.options.onlyIPv4, d.options.debug)
	if err != nil {
		return nil, err
	}
	d.setup = &Setup{env: d.env, options: &d.options, listener: listener, state: &State{}}
	first := d.usage
	if first == nil {
		next, err := d.beginWith(d.options.config, "", background)
		if _, isHeld := errors.AsType[*heldError](err); err == nil || isHeld || d.options.keep == "" {
			return next, err
		}
		first = err
	}
	trouble, err := d.options.trouble(first)
	if err != nil {
		return nil, first
	}
	next, err := d.beginWith(d.options.keep, trouble, background)
	if err != nil {
		fmt.Fprintf(d.stderr, "%s: the kept configuration does not work either: %v\n", d.name, withoutSecrets(err))
		// One that was tried is better than no daemon: what is hidden stays hidden, from its owner, too.
		if os.Remove(d.options.keep+triedSuffix) != nil {
			return nil, first
		}
		return d.beginWith(d.options.config, withoutSecrets(first).Error()+", but the kept configuration does not work", background)
	}
	return next, nil
}

// beginWith brings the configuration of a file, and the log, the doors and the firewall for it; but no goroutine of the
// reader's or the doors' runs yet.
func (d *daemon) beginWith(file, trouble string, background bool) (*Setup, error) {
	c, err := d.options.readConfig(file)
	if err == nil && d.options.tried(c.text) {
		err = d.options.triedError()
	}
	if err != nil {
		return nil, err
	}
	if background && d.pid == nil {
		d.pid, err = claimPidFile(cmp.Or(c.PidFile, defaultPidFile), endTime)
		_, isHeld := errors.AsType[*heldError](err)
		switch {
		case err != nil && (c.PidFile != "" || isHeld):
			return nil, err
		case err != nil:
			fmt.Fprintf(d.stderr, "%s: warning: %v\n", d.name, err)
		}
	}
	next, err := d.setup.bring(c, trouble)
	if err != nil {
		return nil, err
	}
	d.logs, err = openLogs(d.env, &d.options, c, background)
	if err != nil && trouble != "" { // a log is no reason to leave a port open
		next.addTrouble(err)
		c.LogFile, c.UseSyslog = "", false
		d.logs, err = openLogs(d.env, &d.options, c, background)
	}
	if err == nil {
		if err = d.setUpDoors(next); err != nil {
			d.logs.finish()
		}
	}
	if err != nil {
		next.close(d.setup)
		return nil, err
	}
	d.trial = Trial{options: &d.options, log: d.logs.log, asks: make(chan trialAsk)}
	d.listenControl()
	return next, nil
}

// setUpDoors makes the doors, with what an earlier daemon has left open and with the firewall as it must be: before
// anything is let in.
func (d *daemon) setUpDoors(next *Setup) error {
	d.doors = newDoors(d.now, d.logs.log, Command.start)
	d.doors.oneTime.configure(useOneTime, next.state.codes.use, d.used)
	d.doors.tellPoints(d.crash)
	state := next.state
	if state.journal != nil {
		d.doors.packets.configure(state.journal.packetsFile())
	}
	state.resume(d.doors, d.now())
	d.doors.setRules(next.listener.rules(), false, nil)
	if err := state.buildFirewall(d.env, d.logs.log, next.listener, d.doors.ruleset(d.now())); err != nil {
		return err
	}
	if state.applier != nil {
		d.doors.firewall.configure(state.applier.inBackground, state.applier.report, false)
		d.doors.firewall.different(d.now()) // which are logged
	}
	// Where changes are not told of, the firewall is looked at again and again.
	changed := make(chan []firewallNews)
	d.unwatch = state.watchFirewall(changed)
	d.doors.hear(doorNews{changed, d.settings, d.asks, next.status(), d.meter.read})
	d.doors.firewall.watch(d.now(), state.told)
	return nil
}

// listenControl lets others ask for the status, unless another daemon answers already.
func (d *daemon) listenControl() {
	var err error
	if d.control, err = listenControl(cmp.Or(d.options.socket, d.socket)); err != nil {
		d.logs.log.printf("warning: sesame status and sesame close will not work: %v", err)
		return
	}
	go d.control.serve(d.setup.listener.ask, d.asks, d.trial.ask)
}

// start brings the first configuration into force, with reader and doors from then on. closed is closed when the doors
// have ended.
func (d *daemon) start(first *Setup) (closed <-chan struct{}) {
	d.logs.log.printf("starting up, listening on %v", first.listener)
	logLines(d.logs.log, "warning: ", first.trouble)
	if d.logs.debug != nil {
		d.logs.debug.printf("packets to ports that are no door's knock or decoy are not seen, and not shown here")
	}
	grants := first.listener.start(d.now, d.date, first.state.codes.waits, d.logs.log, d.logs.debug, &d.meter)
	ended := make(chan struct{})
	go func() {
		d.doors.serve(grants)
		close(ended)
	}()
	d.notifier.tell("READY=1")
	d.commit(first)
	return ended
}

// followNews follows what happens, until a signal ends the daemon.
func (d *daemon) followNews() (ending os.Signal) {
	for {
		select {
		case <-d.hangups:
			d.reload()
		case <-d.setup.listener.changed:
			d.setup.followLinks(d.settings)
		case <-d.setup.listener.retry:
			d.setup.followLinks(d.settings)
		case <-d.used:
			d.setup.nextSequences(d.logs.log)
		case ask := <-d.trial.asks:
			d.trial.answer(ask, d.setup, d.take)
		case <-d.trial.over:
			_ = d.trial.back(d.setup, d.take)
		case ending = <-d.ends:
			return ending
		}
	}
}

// reload takes up the configuration anew. If it is bad, the one in force stays. Open doors keep their time.
func (d *daemon) reload() {
	d.logs.log.printf("re-reading config file: %s", d.options.config)
	var next *Setup
	c, err := d.options.readConfig(d.options.config)
	if err == nil {
		switch tried := d.options.tried(c.text); {
		case tried && d.trial.over == nil:
			err = d.options.triedError()
		case !tried && d.trial.over != nil:
			err = errors.New("another configuration is being tried: keep it first (sesame try --keep), or wait")
		}
	}
	if err == nil {
		if c.StateDir != d.setup.config.StateDir {
			d.logs.log.printf("warning: another StateDir is taken up at the next start")
		}
		next, err = d.setup.bring(c, "")
	}
	if err != nil {
		d.logs.reopen(d.setup.config)
		d.setup.refuse(d.logs.log, err)
		d.settings <- doorSettings{about: d.setup.status()}
		return
	}
	d.take(next)
}

// take brings next into force, and has its log.
func (d *daemon) take(next *Setup) {
	d.logs.reopen(next.config)
	d.commit(next)
}

// commit brings next into force, and, unless it is a trial, keeps its configuration for the next start.
func (d *daemon) commit(next *Setup) {
	before := d.setup
	d.setup = next
	log := d.logs.log
	if doors := next.config.commands(); d.bare && doors != nil {
		log.printf("warning: the daemon has given up the privileges of commands, as no door had one: restart it for %s", strings.Join(doors, ", "))
	}
	if before.config == nil { // reader and doors have begun with it
		next.logWarnings(log)
		next.keep(log)
		return
	}
	settings := next.settings(before)
	if settings.work != nil { // what the firewall refuses is not in force
		settings.built = func() { next.keep(log) }
	}
	d.settings <- settings
	next.logWarnings(log)
	next.listener.replace(before.listener)
	if settings.built == nil {
		next.keep(log)
	}
}

// end closes all doors. closed is closed when they are.
func (d *daemon) end(ending os.Signal, closed <-chan struct{}) error {
	d.notifier.tell("STOPPING=1")
	// Who tries it out by hand wants no trace of it. Else closed is the safe side.
	d.doors.firewall.flushing.Store(ending == unix.SIGINT)
	// A daemon that is started now is to wait for this one's end.
	if d.pid != nil {
		d.pid.retire()
	}
	d.setup.state.retire()
	d.setup.listener.end()
	for {
		select {
		case <-closed:
			if d.doors.firewall.flushed {
				d.setup.state.forgetFirewall()
			}
			if d.setup.config.hides() && ending != unix.SIGINT {
				d.logs.log.printf("shutting down: hidden ports stay hidden, and sesame flush removes every trace")
			} else {
				d.logs.log.printf("shutting down")
			}
			return nil
		case sig := <-d.ends:
			// procd sends SIGTERM twice. SIGINT is a person's, who does not want to wait.
			if sig == unix.SIGINT {
				d.logs.log.printf("ended at once by a second signal (%v): doors may be open", sig)
				return errLogged
			}
		}
	}
}

// finish ends what begin has begun.
func (d *daemon) finish() {
	if d.control != nil {
		d.control.close()
	}
	d.unwatch()
	d.logs.finish()
}

// bootTime is the time since boot, which no NTP answer moves (clock_gettime(2), CLOCK_BOOTTIME).
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(os.NewSyscallError("clock_gettime", err)) // Linux 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}
