//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// serveOptions is the daemon's command line. Where the configuration says something else, the command line wins.
type serveOptions struct {
	config, interfaces, logFile, pidFile     string
	socket, keep                             string
	named                                    bool // interfaces are
	checking                                 bool
	daemon, verbose, debug, lookup, onlyIPv4 bool
}

func (o *serveOptions) options() []option {
	o.config = defaultConfigFile
	return append([]option{
		stringOption('c', "config", "FILE", "configuration (default "+defaultConfigFile+")", &o.config),
		{'i', "interface", "NAME,...", "listen on these interfaces (default: Interface of the configuration, or any)", func(v string) error {
			o.interfaces, o.named = v, true
			return nil
		}},
		flagOption('d', "daemon", "go to the background, once it listens", &o.daemon),
		stringOption('p', "pidfile", "FILE", "with -d, write the process number to FILE (default: PidFile of the configuration, or "+defaultPidFile+")", &o.pidFile),
		stringOption('g', "logfile", "FILE", "log to FILE (default: LogFile of the configuration, or standard error)", &o.logFile),
		flagOption('l', "lookup", "log the host names of those who complete a sequence", &o.lookup),
		flagOption('v', "verbose", "print to standard output what goes to a log file or the system log", &o.verbose),
		flagOption('D', "debug", "say on standard error for each hit why it counted or did not; this shows the ports", &o.debug),
		flagOption('4', "only-ip-v4", "take no notice of IPv6", &o.onlyIPv4),
		flagOption('t', "test", "read the configuration as sesame check does, and end", &o.checking),
		stringOption(0, "keep", "FILE", "for services: keep each configuration that works in FILE, and start with that one where the configuration is missing or wrong", &o.keep),
		stringOption('s', "socket", "PATH", "socket for sesame status and sesame close (default "+defaultControl+")", &o.socket),
	}, helpOptions()...)
}

// daemon is the daemon's life: it reads the configuration, opens sockets and log, starts the reader and the doors, and
// follows signals.
type daemon struct {
	env
	options      serveOptions
	manager      Manager
	dir          string // where the caller of -d was: what paths are relative to
	log          *Log
	debug        *Log
	syslog       *Syslog // nil until it is asked for
	config       *Config
	disabled     []*Door          // those of it that have no one-time sequence left
	on           []string         // what -i names
	active       []*Door          // those that can be knocked at: of config, or one-time doors with their next sequence
	links        map[int]*Link    // all links, as in the plan in force
	captures     map[int]*Capture // the same: by link, or 0 for the one that hears all
	auto         []string         // links that a default route has led out of
	linkLog      Throttle
	linksChanged chan struct{}
	linksAt      <-chan time.Time // when to read them again, changed or not
	routes       bool             // default routes are followed, too
	stopLinks    func()
	plans        chan Plan
	used         chan struct{} // a one-time sequence was used
	wake         int
	meter        Meter
	journal      *Journal // nil if there is no place for it, and nothing to write
	doors        *Doors
	settings     chan doorSettings
	about        Status
	wall         *Applier // the doors' goroutine has it work; nil: no door needs one
	firewall     *PidFile // the lock on it; nil: it is not ours
	pid          *PidFile // with -d
	off          []*Door  // that have no one-time sequence at the start
	watching     bool     // somebody tells of the firewall's changes
	silent       bool     // but not of all
}

func serve(e env, args []string) error {
	d := daemon{env: e, plans: make(chan Plan), linksChanged: make(chan struct{}, 1), used: make(chan struct{}, 1), settings: make(chan doorSettings, 1)}
	rest, err := getopt(args, d.options.options())
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usageError(fmt.Sprintf("%q is one argument too many", rest[0]))
	}
	if d.on, err = d.options.interfaceList(); err != nil {
		return usageError("option -i: " + err.Error())
	}
	if d.options.checking {
		return withoutSecrets(check(e, []string{"-c", d.options.config}))
	}
	d.manager = takeManager()
	if d.options.daemon && d.manager != "" {
		fmt.Fprintf(e.stderr, "%s: warning: -d is passed over: systemd has the daemon in the background already\n", e.name)
		d.options.daemon = false
	}
	if !d.options.daemon {
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
	var err error
	if caller != nil {
		if d.dir, err = os.Getwd(); err != nil {
			return err
		}
		for _, path := range []*string{&d.options.config, &d.options.logFile, &d.options.pidFile, &d.options.keep} {
			*path = d.resolve(*path)
		}
	}
	// From here on no signal ends the daemon half-way. SIGHUP has a channel of its own, so that many of them do not
	// push out a SIGTERM. SIGPIPE is taken, and not ignored, as commands would inherit that.
	hangups, ends := make(chan os.Signal, 1), make(chan os.Signal, 2)
	signal.Notify(hangups, unix.SIGHUP)
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT)
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	defer signal.Stop(hangups)
	defer signal.Stop(ends)
	closeOnExec()

	defer func() {
		if d.pid != nil {
			d.pid.remove()
		}
	}()
	plan, stop, err := d.begin(d.options.config, caller != nil)
	if err != nil && d.options.keep != "" {
		plan, stop, err = d.beginKept(err, caller != nil)
	}
	if err != nil {
		// Standard error may be a service manager's log.
		return withoutSecrets(err)
	}
	defer stop()
	if caller != nil {
		if err := letGo(caller); err != nil {
			return err
		}
	}
	grants := make(chan Grant, maxGrants)
	reader := &Reader{
		plan: plan, now: d.now, log: d.log, debug: d.debug, grants: grants, plans: d.plans, wake: d.wake,
		opened: map[string]*Throttle{}, meter: &d.meter,
		steps:  Throttle{log: d.log, burst: stepBurst, interval: stepInterval},
		drops:  Throttle{log: d.log, burst: dropBurst, interval: dropInterval},
		served: func() ([]Knock, error) { return servedPorts(procNet) },
	}
	closed := make(chan struct{})
	d.log.printf("starting up, listening on %s", d.describeInterfaces(d.config))
	for line := range strings.Lines(d.about.ConfigError) {
		d.log.printf("warning: %s", strings.TrimSuffix(line, "\n"))
	}
	d.logOdd()
	d.logWarnings(d.config)
	d.logDisabled(d.off)
	if d.debug != nil {
		d.debug.printf("packets to ports that are no door's knock or decoy are not seen, and not shown here")
	}
	d.manager.tell("READY=1")
	d.keepConfig()
	go reader.run()
	go func() {
		d.doors.serve(grants)
		close(closed)
	}()
	var ending os.Signal
	for ending == nil {
		select {
		case <-hangups:
			d.reload()
		case <-d.linksChanged:
			d.followLinks()
		case <-d.linksAt:
			d.followLinks()
		case <-d.used:
			d.nextSequences()
		case ending = <-ends:
		}
	}
	d.manager.tell("STOPPING=1")
	// Who tries it out by hand wants no trace of it. Else closed is the safe side.
	d.doors.firewall.flushing.Store(ending == unix.SIGINT)
	// A daemon that is started now is to wait for this one's end.
	for _, lock := range []*PidFile{d.pid, d.firewall} {
		if lock != nil {
			lock.retire()
		}
	}
	if d.journal != nil {
		d.journal.lock.retire()
	}
	close(d.plans)
	d.wakeReader()
	for {
		select {
		case <-closed:
			if d.doors.firewall.flushed && d.journal != nil {
				d.journal.forgetFirewall()
			}
			if d.config.hides() && ending != unix.SIGINT {
				d.log.printf("shutting down: hidden ports stay hidden, and sesame flush removes every trace")
			} else {
				d.log.printf("shutting down")
			}
			return nil
		case sig := <-ends:
			// procd sends SIGTERM twice. SIGINT is a person's, who does not want to wait.
			if sig == unix.SIGINT {
				d.log.printf("ended at once by a second signal (%v): doors may be open", sig)
				return errLogged
			}
		}
	}
}

// begin brings the first configuration into force: links, captures, log, journal and firewall, but no goroutine of the
// reader's or the doors' runs yet. stop ends what it has begun; after an error nothing of it is left.
func (d *daemon) begin(file string, background bool) (plan Plan, stop func(), err error) {
	var undo []func()
	stop = func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	d.about = Status{}
	if d.config, err = d.readConfig(file); err != nil {
		return plan, stop, err
	}
	if background && d.pid == nil {
		if d.pid, err = takePidFile(d.pidFile(), endTime); err != nil {
			return plan, stop, err
		}
	}
	if err = missingCapability(d.config); err != nil {
		return plan, stop, err
	}
	// The links are watched before they are read, so that no change is missed.
	if err = d.watch(d.config); err != nil {
		return plan, stop, err
	}
	undo = append(undo, func() {
		d.stopLinks()
		d.stopLinks = nil
	})
	on, off, err := d.sequences(d.config)
	if err != nil && file != d.options.keep { // whose one-time files may have mistakes: its other doors are to open
		return plan, stop, err
	}
	links, err := d.readLinks(d.config)
	if err != nil {
		return plan, stop, err
	}
	plan = d.planFor(d.config, on, links)
	plan.matcher = d.newMatcher(on)
	captures, err := openCaptures(&plan, d.lists(d.config), nil)
	defer func() {
		if err != nil { // else they are the reader's
			closeCaptures(captures, nil)
		}
	}()
	if err != nil {
		return plan, stop, err
	}
	d.active, d.off, d.links, d.captures = on, off, links, captures
	if err = d.openLog(background); err != nil {
		return plan, stop, err
	}
	undo = append(undo, d.finishLogs)
	d.linkLog = Throttle{log: d.log, burst: linkBurst, interval: linkInterval}
	stopWatching, err := d.setUpDoors()
	if err != nil {
		d.letGoOfState()
		return plan, stop, err
	}
	undo = append(undo, stopWatching)
	if d.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		err = fmt.Errorf("making an eventfd: %w", err)
	}
	return plan, stop, err
}

// letGoOfState gives up the journal and the lock on the firewall, which are left as they are.
func (d *daemon) letGoOfState() {
	if d.journal != nil {
		d.journal.close()
	}
	if d.firewall != nil {
		d.firewall.remove()
	}
	d.journal, d.firewall, d.wall = nil, nil, nil
}

// beginKept begins with the configuration that was kept when it last worked, as the one asked for does not: a hidden
// port is neither to become open at a boot, nor to stay closed to its owner, for a mistake in a file. Where there is none,
// or it does not work either, the error is the first one.
func (d *daemon) beginKept(first error, background bool) (plan Plan, stop func(), err error) {
	kept, err := os.Stat(d.options.keep)
	if err != nil {
		return plan, nil, first
	}
	if plan, stop, err = d.begin(d.options.keep, background); err != nil {
		fmt.Fprintf(d.stderr, "%s: the kept configuration does not work either: %v\n", d.name, withoutSecrets(err))
		return plan, nil, first
	}
	d.about.ConfigError = fmt.Sprintf("%v; running with the configuration of %s", withoutSecrets(first), kept.ModTime().Format(time.DateTime))
	d.doors.about = d.about
	return plan, stop, nil
}

// keepConfig keeps the configuration in force for beginKept. What is there already is not written again: a router's flash
// wears out, and the file's time says since when it has worked.
func (d *daemon) keepConfig() {
	if d.options.keep == "" || d.config.File == d.options.keep {
		return
	}
	if was, err := os.ReadFile(d.options.keep); err == nil && bytes.Equal(was, d.config.text) {
		return
	}
	if _, err := writeFile(d.options.keep, d.config.text, nil, nil); err != nil {
		d.log.printf("warning: keeping the configuration: %v: with a mistake in it, the next start fails", err)
	}
}

// setUpDoors makes the doors, with what an earlier daemon has left open and with the firewall as it must be. stop ends
// what watches the firewall.
func (d *daemon) setUpDoors() (stop func(), err error) {
	d.doors = newDoors(d.now, d.log, Command.start)
	d.doors.oneTime.configure(useOneTime, d.used)
	d.doors.settings, d.doors.crash = d.settings, d.crash
	d.doors.counters, d.doors.began = d.meter.read, d.now()
	recovered, err := d.openJournal(d.config)
	if err != nil && (d.config.closes() || d.journal != nil) {
		return nil, err
	}
	if d.journal != nil {
		d.doors.journal.configure(d.journal.write)
	}
	d.doors.resume(d.now(), recovered)
	if err := d.setUpFirewall(d.config); err != nil {
		return nil, err
	}
	d.about.Version, d.about.Pid = versionName(), os.Getpid()
	d.tellAbout(d.config)
	d.doors.about = d.about
	// Where changes are not told of, the firewall is looked at again and again.
	changed := make(chan struct{}, 1)
	stopWatching, err := watchFirewall(changed)
	if d.watching = err == nil; d.watching {
		d.doors.changed = changed
	} else {
		stopWatching = func() {}
	}
	d.doors.firewall.watch(d.now(), d.watching && !d.silent)
	return d.setUpControl(stopWatching), nil
}

// setUpControl lets others ask for the status, unless another daemon answers already. stop ends that, and does what before
// does.
func (d *daemon) setUpControl(before func()) (stop func()) {
	path := d.options.socket
	if path == "" {
		path = d.socket
	}
	control, err := listenControl(path)
	if err != nil {
		d.log.printf("warning: sesame status and sesame close will not work: %v", err)
		return before
	}
	asks := make(chan Ask)
	d.doors.asks = asks
	go control.serve(asks)
	return func() {
		control.close()
		before()
	}
}

// tellAbout notes for sesame status what configuration is in force.
func (d *daemon) tellAbout(c *Config) {
	d.about.Config, d.about.Listening = c.File, d.describeInterfaces(c)
	d.about.Links = linkStates(d.lists(c), d.links)
	d.about.ConfigRead, d.about.ConfigError, d.about.ReloadError = d.date(), "", ""
}

// doorSettings is what another configuration means for the doors. It refuses what cannot be kept.
func (d *daemon) doorSettings(c *Config, links map[int]*Link) (s doorSettings, err error) {
	rules := d.rules(c, links)
	s.rules, s.reload, s.about = &rules, true, d.about
	if c.StateDir != d.config.StateDir {
		d.log.printf("warning: another StateDir is taken up at the next start")
	}
	if d.journal == nil && c.closes() {
		defer func() {
			if err != nil && d.journal != nil { // the next reload has to try again
				d.journal.close()
				d.journal = nil
			}
		}()
		if s.recovered, err = d.openJournal(c); err != nil {
			return s, err
		}
		s.save = d.journal.write
	}
	if c.native() {
		wall := newApplier(c)
		if err := wall.choose(rules); err != nil {
			return s, fmt.Errorf("setting up the firewall: %w", err)
		}
		if err := d.takeFirewall(); err != nil {
			return s, err
		}
		s.about.Firewall = wall.choice.Reason
		d.wall = newApplier(c).after(d.wall)
		s.work, s.watched = d.wall.inBackground, d.watching && !wall.silent
	}
	return s, nil
}

// openJournal opens the journal, and reads what is in it.
func (d *daemon) openJournal(c *Config) (r Recovered, err error) {
	dir := c.StateDir
	if dir == "" {
		dir = d.stateDir
	}
	if d.journal, err = openJournal(dir); err != nil {
		d.journal = nil
		return r, err
	}
	return d.journal.read()
}

// setUpFirewall chooses the firewall and makes our part of it, if a door needs one, or else removes what is left of an
// earlier configuration that needed one.
func (d *daemon) setUpFirewall(c *Config) error {
	if d.journal != nil {
		d.addAuto(d.journal.autoLinks())
	}
	d.doors.setRules(d.rules(c, d.links), false)
	rules := d.doors.ruleset(d.now(), nil)
	wall := newApplier(c)
	if !c.native() && len(rules.Open) == 0 {
		if d.journal == nil || !d.journal.notesFirewall() {
			return nil
		}
		lock, err := lockFirewall(filepath.Dir(d.socket))
		if err != nil {
			d.log.printf("warning: what an earlier configuration has left in the firewall stays: %v", err)
			return nil
		}
		defer lock.remove()
		d.log.printf("firewall: no door needs it any more: what is left there is removed")
		if err := wall.do(firewallTask{kind: taskFlush}); err != nil {
			return fmt.Errorf("removing what is left in the firewall: %w", err)
		}
		d.journal.forgetFirewall()
		return nil
	}
	hidden := d.journal.notesFirewall() // by an earlier daemon
	if err := d.takeFirewall(); err != nil {
		return err
	}
	if err := wall.build(rules); err != nil {
		err = fmt.Errorf("setting up the firewall: %w", err)
		if hidden {
			return fmt.Errorf("%w: what is hidden stays hidden: sesame flush leaves no trace", err)
		}
		_ = wall.do(firewallTask{kind: taskFlush})
		d.journal.forgetFirewall()
		return err
	}
	d.log.printf("firewall: %s", wall.choice.Reason)
	for _, w := range wall.choice.Warnings {
		d.log.printf("warning: firewall: %s", w)
	}
	d.about.Firewall, d.silent = wall.choice.Reason, wall.silent
	d.wall = wall
	d.doors.firewall.configure(wall.inBackground, false)
	return nil
}

// takeFirewall makes the firewall this daemon's, and notes that on the disk.
func (d *daemon) takeFirewall() (err error) {
	if d.firewall == nil {
		if d.firewall, err = lockFirewall(filepath.Dir(d.socket)); err != nil {
			return err
		}
	}
	return d.journal.noteFirewall(d.auto)
}

// resolve makes a path absolute that is relative to where the caller of -d was.
func (d *daemon) resolve(path string) string {
	if d.dir == "" || path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.dir, path)
}

// openLog opens the log and lets it write by itself.
func (d *daemon) openLog(background bool) error {
	d.log = &Log{out: d.stderr, date: d.date}
	switch {
	case background:
		d.log.out = io.Discard
	case d.options.verbose:
		d.log.out, d.log.copy = d.stdout, d.stdout
	}
	if d.options.lookup {
		d.log.names = newNames(d.now, net.DefaultResolver.LookupAddr)
	}
	syslog, err := d.syslogOf(d.config)
	if err == nil {
		err = d.log.open(d.logFile(d.config), syslog)
	}
	if err != nil {
		return err
	}
	if background && d.logFile(d.config) == "" && syslog == nil {
		fmt.Fprintf(d.stderr, "%s: warning: nothing will be logged: LogFile, -g or UseSyslog says where to\n", d.name)
	}
	d.log.start()
	if d.options.debug {
		d.debug = &Log{out: d.stderr, date: d.date}
		d.debug.start()
	}
	return nil
}

func (d *daemon) finishLogs() {
	d.log.finish()
	if d.debug != nil {
		d.debug.finish()
	}
}

// syslogOf is the system log if the configuration asks for it.
func (d *daemon) syslogOf(c *Config) (*Syslog, error) {
	if !c.UseSyslog {
		return nil, nil
	}
	if d.syslog == nil {
		var err error
		if d.syslog, err = openSyslog(d.name); err != nil {
			return nil, err
		}
	}
	return d.syslog, nil
}

// maxGrants is how many grants may wait for the doors.
const maxGrants = 1024

// interfaceList is what -i says; nil without it.
func (o *serveOptions) interfaceList() ([]string, error) {
	if !o.named {
		return nil, nil
	}
	return parseInterfaces(o.interfaces)
}

// interfaces are the list of those doors that have none of their own.
func (d *daemon) interfaces(c *Config) []string {
	if d.options.named {
		return d.on
	}
	return c.Interfaces
}

func (d *daemon) logFile(c *Config) string {
	if d.options.logFile != "" {
		return d.options.logFile
	}
	return c.LogFile
}

func (d *daemon) pidFile() string {
	switch {
	case d.options.pidFile != "":
		return d.options.pidFile
	case d.config.PidFile != "":
		return d.config.PidFile
	}
	return defaultPidFile
}

// readConfig reads a configuration, with paths as the daemon can use them.
func (d *daemon) readConfig(file string) (*Config, error) {
	c, err := openConfig(file)
	if err != nil {
		return nil, err
	}
	c.LogFile, c.PidFile = d.resolve(c.LogFile), d.resolve(c.PidFile)
	for _, door := range c.Doors {
		door.OneTime = d.resolve(door.OneTime)
	}
	return c, nil
}

func (d *daemon) logWarnings(c *Config) {
	for _, w := range c.Warnings {
		d.log.printf("warning: %s", w)
	}
	for _, door := range c.Doors {
		if d.options.onlyIPv4 && door.Target.Is6() {
			d.log.printf("warning: %s:%d: door %q: Target is an IPv6 address, of which -4 takes no notice: it cannot open", c.File, door.Line, door.Name)
		}
	}
}

// logDisabled names, once and in knockd's words, the doors that have no one-time sequence left.
func (d *daemon) logDisabled(off []*Door) {
	for _, door := range off {
		if !slices.Contains(d.disabled, door) {
			d.log.printf("no more sequences left in the one time sequences file for door %s --> disabling the door", door.Name)
		}
	}
	d.disabled = off
}

// reload takes up the configuration anew. If it is bad, the one in force stays. Open doors keep their time.
func (d *daemon) reload() {
	d.log.printf("re-reading config file: %s", d.options.config)
	next, err := d.prepare()
	good := d.config
	if err == nil {
		good = next.config
	}
	syslog, logErr := d.syslogOf(good)
	if logErr == nil {
		logErr = d.log.open(d.logFile(good), syslog)
	}
	if logErr != nil {
		d.log.printf("%v: the one that was open stays", logErr)
	} else if file := d.logFile(good); file != "" {
		d.log.printf("re-opening log file: %s", file)
	}
	if err != nil {
		d.logMistakes(err)
		d.log.printf("the configuration stays as it was")
		d.about.ReloadError = withoutSecrets(err).Error()
		d.settings <- doorSettings{about: d.about}
		return
	}
	d.config, d.active, d.links, d.captures = next.config, next.active, next.plan.links, next.captures
	d.about = next.settings.about
	d.tellAbout(d.config)
	next.settings.about = d.about
	d.settings <- next.settings
	d.logOdd()
	d.logWarnings(d.config)
	d.logDisabled(next.off)
	d.send(next.plan)
	d.keepConfig()
}

// prepared is what another configuration means, before it comes into force.
type prepared struct {
	config      *Config
	active, off []*Door // with sequences, and without one
	plan        Plan
	captures    map[int]*Capture
	settings    doorSettings
}

// prepare reads the configuration and gets ready what it needs. With an error nothing has changed.
func (d *daemon) prepare() (next prepared, err error) {
	if next.config, err = d.readConfig(d.options.config); err != nil {
		return next, err
	}
	if err = missingCapability(next.config); err != nil {
		return next, err
	}
	if next.active, next.off, err = d.sequences(next.config); err != nil {
		return next, err
	}
	if err = d.watch(next.config); err != nil {
		return next, err
	}
	auto, wall := d.auto, d.wall
	links, err := d.readLinks(next.config)
	if err != nil {
		return next, err
	}
	next.plan = d.planFor(next.config, next.active, links)
	next.plan.matcher = d.newMatcher(next.active)
	next.settings, err = d.doorSettings(next.config, links)
	// Last of all: what comes while old and new captures are there counts twice.
	if err == nil {
		if next.captures, err = openCaptures(&next.plan, d.lists(next.config), d.captures); err != nil {
			closeCaptures(next.captures, d.captures)
			d.undo(next.settings, wall)
		}
	}
	if err != nil {
		d.auto = auto // else followLinks takes what is new for hidden
	}
	return next, err
}

// undo takes back what doorSettings has done.
func (d *daemon) undo(s doorSettings, wall *Applier) {
	d.wall = wall
	if s.save != nil {
		d.journal.close()
		d.journal = nil // the next reload has to try again
	}
}

// logMistakes logs each line of err, without what may be a secret.
func (d *daemon) logMistakes(err error) {
	for line := range strings.Lines(withoutSecrets(err).Error()) {
		d.log.printf("%s", strings.TrimSuffix(line, "\n"))
	}
}

// bootTime is the time since boot, which no NTP answer moves (clock_gettime(2), CLOCK_BOOTTIME).
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(os.NewSyscallError("clock_gettime", err)) // Linux 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}
