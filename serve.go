package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const defaultConfigFile = "/etc/knockd.conf"

// serveOptions is the daemon's command line. Where the configuration says something else, the command line wins.
type serveOptions struct {
	config, interfaces, logFile string
	named                       bool // interfaces are
	verbose, debug, onlyIPv4    bool
}

func (o *serveOptions) options() []option {
	o.config = defaultConfigFile
	return append([]option{
		stringOption('c', "config", "FILE", "configuration (default "+defaultConfigFile+")", &o.config),
		{'i', "interface", "NAME,...", "listen on these interfaces (default: Interface of the configuration, or all)", func(v string) error {
			o.interfaces, o.named = v, true
			return nil
		}},
		stringOption('g', "logfile", "FILE", "log to FILE (default: LogFile of the configuration, or standard error)", &o.logFile),
		flagOption('v', "verbose", "with a log file, print the log lines to standard output as well", &o.verbose),
		flagOption('D', "debug", "say on standard error for each hit why it counted or did not; this shows the ports", &o.debug),
		flagOption('4', "only-ip-v4", "take no notice of IPv6", &o.onlyIPv4),
	}, helpOptions()...)
}

// daemon is the daemon's life: it reads the configuration, opens sockets and log, starts the reader and the doors, and
// follows signals.
type daemon struct {
	options  serveOptions
	now      func() time.Duration
	log      *Log
	debug    *Log
	config   *Config
	on       []string     // what -i names; nil: all
	listened map[int]bool // indexes of the links listened on
	plans    chan Plan
	wake     int
}

func serve(e env, args []string) error {
	d := daemon{now: e.now, plans: make(chan Plan, 1)}
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
	config, err := d.readConfig()
	if err != nil {
		// Standard error may be a service manager's log.
		return withoutSecrets(err)
	}
	// From here on no signal ends the daemon half-way. SIGHUP has a channel of its own, so that many of them do not
	// push out a SIGTERM. SIGPIPE is taken, and not ignored, as commands would inherit that.
	hangups, ends := make(chan os.Signal, 1), make(chan os.Signal, 2)
	signal.Notify(hangups, unix.SIGHUP)
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT)
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	defer signal.Stop(hangups)
	defer signal.Stop(ends)
	// Commands are to inherit nothing that the caller has left open. Linux 5.9; without it they do, as with knockd.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)

	d.config = config
	plan, err := d.plan(config)
	if err != nil {
		return err
	}
	if plan.captures, err = openCaptures(plan, d.interfaces(config)); err != nil {
		return err
	}
	d.log = &Log{out: e.stderr, date: time.Now}
	if d.options.verbose {
		d.log.out, d.log.copy = e.stdout, e.stdout
	}
	if d.options.debug {
		d.debug = &Log{out: e.stderr, date: time.Now}
	}
	if err := d.log.open(d.logFile(config)); err != nil {
		for _, c := range plan.captures {
			c.close()
		}
		return err
	}
	if d.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("making an eventfd: %w", err)
	}
	d.listened = plan.listened
	grants := make(chan Grant, maxGrants)
	reader := &Reader{
		plan: plan, now: d.now, log: d.log, debug: d.debug, grants: grants, plans: d.plans, wake: d.wake,
		opened: map[string]*Throttle{},
		steps:  Throttle{log: d.log, burst: stepBurst, interval: stepInterval},
	}
	closed := make(chan struct{})
	d.log.printf("starting up, listening on %s", describeInterfaces(d.interfaces(config)))
	d.logWarnings(config)
	if d.debug != nil {
		d.debug.printf("packets to ports that are no door's knock are not seen, and not shown here")
	}
	go reader.run()
	go func() {
		newDoors(d.now, d.log, Command.start).serve(grants)
		close(closed)
	}()
	for {
		select {
		case <-hangups:
			d.reload()
			continue
		case <-ends:
		}
		break
	}
	close(d.plans)
	d.wakeReader()
	select {
	case <-closed:
		d.log.printf("shutting down")
		return nil
	case sig := <-ends:
		d.log.printf("ended at once by a second signal (%v): doors may be open", sig)
		return errLogged
	}
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

// interfaces are the names to listen on; nil is all of them.
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

func describeInterfaces(names []string) string {
	if names == nil {
		return "any (all interfaces)"
	}
	return strings.Join(names, ", ")
}

// openConfig reads the configuration in file. With mistakes in it there is a Config too, for its warnings.
func openConfig(file string) (*Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("opening the configuration: %w: -c names another file", err)
	}
	defer f.Close()
	c, err := parseConfig(file, f)
	if c == nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode()&0o004 != 0 {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s: others can read it, and it holds the secret: chmod 600 %s", file, file))
	}
	if c.UseSyslog {
		c.Warnings = append(c.Warnings, file+": UseSyslog has no effect yet: the log goes to LogFile or standard error")
	}
	if c.PidFile != "" {
		c.Warnings = append(c.Warnings, file+": PidFile has no effect yet: the daemon stays in the foreground")
	}
	return c, err
}

// readConfig reads the configuration and refuses what serve cannot do.
func (d *daemon) readConfig() (*Config, error) {
	c, err := openConfig(d.options.config)
	if err != nil {
		return nil, err
	}
	if errs := unserved(c); errs != nil {
		return nil, errs
	}
	return c, nil
}

// unserved lists the doors that ask for what is not built yet.
func unserved(c *Config) (errs configErrors) {
	for _, door := range c.Doors {
		for _, what := range []struct {
			name string
			used bool
		}{{"One_Time_Sequences", door.OneTime != ""}, {"Target", door.Target.IsValid()}} {
			if what.used {
				errs = append(errs, configError{text: fmt.Sprintf("%s:%d: door %q: %s is not supported yet: take the door out to run without it",
					c.File, door.Line, door.Name, what.name)})
			}
		}
	}
	return errs
}

func (d *daemon) logWarnings(c *Config) {
	for _, w := range c.Warnings {
		d.log.printf("warning: %s", w)
	}
}

// plan makes what the reader goes by, without captures.
func (d *daemon) plan(c *Config) (Plan, error) {
	links, err := readLinks()
	if err != nil {
		return Plan{}, err
	}
	on, err := listenedOn(links, d.interfaces(c))
	if err != nil {
		return Plan{}, err
	}
	p := Plan{links: links, listened: map[int]bool{}, own: map[[16]byte]bool{}, matcher: newMatcher(c.Doors, maxAttempts), wide: d.options.debug}
	p.matcher.onlyChanges = !d.options.debug
	for _, l := range on {
		p.listened[l.Index] = true
		for _, addr := range l.Addresses {
			if addr.Is4() || !d.options.onlyIPv4 {
				p.own[addr.As16()] = true
				p.spec.Addresses = append(p.spec.Addresses, addr)
			}
		}
	}
	p.spec = filterSpec(c.Doors, p.spec.Addresses, d.options.onlyIPv4)
	return p, nil
}

// openCaptures opens one capture for each interface, or a single one for all of them.
func openCaptures(p Plan, names []string) (captures []*Capture, err error) {
	indexes := []int{0}
	if names != nil {
		indexes = indexes[:0]
		for index := range p.listened {
			indexes = append(indexes, index)
		}
		slices.Sort(indexes)
	}
	if len(indexes) > maxCaptures {
		return nil, fmt.Errorf("%d interfaces are named, more than %d: name none to listen on all", len(indexes), maxCaptures)
	}
	for _, index := range indexes {
		c, err := openCapture(index, p.filter(), ringSize/len(indexes))
		if err != nil {
			for _, c := range captures {
				c.close()
			}
			return nil, err
		}
		captures = append(captures, c)
	}
	return captures, nil
}

// reload takes up the configuration anew. If it is bad, the one in force stays. Open doors keep their time.
func (d *daemon) reload() {
	d.log.printf("re-reading config file: %s", d.options.config)
	config, err := d.readConfig()
	var plan Plan
	if err == nil {
		plan, err = d.plan(config)
	}
	// Other links, or one of the same name that was made anew.
	if err == nil && (!slices.Equal(d.interfaces(config), d.interfaces(d.config)) ||
		d.interfaces(config) != nil && !maps.Equal(plan.listened, d.listened)) {
		plan.captures, err = openCaptures(plan, d.interfaces(config))
	}
	logFile := d.logFile(d.config)
	if err == nil {
		logFile = d.logFile(config)
	}
	if err := d.log.open(logFile); err != nil {
		d.log.printf("%v: the one that was open stays", err)
	} else if logFile != "" {
		d.log.printf("re-opening log file: %s", logFile)
	}
	if err != nil {
		for line := range strings.Lines(withoutSecrets(err).Error()) {
			d.log.printf("%s", strings.TrimSuffix(line, "\n"))
		}
		d.log.printf("the configuration stays as it was")
		return
	}
	d.logWarnings(config)
	d.config, d.listened = config, plan.listened
	select {
	case old := <-d.plans: // the reader has not taken it up yet, and goes straight to the new one
		if plan.captures == nil {
			plan.captures = old.captures
		} else {
			for _, c := range old.captures {
				c.close()
			}
		}
	default:
	}
	d.plans <- plan
	d.wakeReader()
}

func (d *daemon) wakeReader() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(d.wake, one[:])
}

// bootTime is the time since boot, which no NTP answer moves (clock_gettime(2), CLOCK_BOOTTIME).
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(os.NewSyscallError("clock_gettime", err)) // Linux 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}
