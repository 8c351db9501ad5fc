//go:build linux

package main

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
)

// serveOptions is the daemon's command line. Where the configuration says something else, the command line wins.
type serveOptions struct {
	config, logFile, pidFile, socket, keep   string
	on                                       []string // the interfaces that -i names; nil without it
	notOn                                    error    // why it names none
	dir                                      string   // where the caller of -d was: what paths are relative to
	checking                                 bool
	daemon, verbose, debug, lookup, onlyIPv4 bool
}

func (o *serveOptions) options() []option {
	o.config = defaultConfigFile
	return append([]option{
		stringOption('c', "config", "FILE", "configuration (default "+defaultConfigFile+")", &o.config),
		{'i', "interface", "NAME,...", "listen on these interfaces (default: Interface of the configuration, or any)", func(v string) error {
			o.on, o.notOn = parseInterfaces(v)
			return nil
		}},
		flagOption('d', "daemon", "go to the background, once it listens", &o.daemon),
		stringOption('p', "pidfile", "FILE", "with -d, write the process number to FILE (default: PidFile of the configuration, or "+defaultPidFile+")", &o.pidFile),
		stringOption('g', "logfile", "FILE", "log to FILE (default: LogFile of the configuration, or standard error)", &o.logFile),
		flagOption('l', "lookup", "log the host names of those who complete a sequence", &o.lookup),
		flagOption('v', "verbose", "print to standard output what goes to a log file or the system log", &o.verbose),
		flagOption('D', "debug", "say on standard error for each hit why it counted or did not; this shows the ports", &o.debug),
		flagOption('4', "only-ip-v4", "ignore IPv6", &o.onlyIPv4),
		flagOption('t', "test", "read the configuration as sesame check does, and end", &o.checking),
		stringOption(0, "keep", "FILE", "for services: keep each configuration that works in FILE, and start with that one where the configuration is missing or wrong", &o.keep),
		stringOption('s', "socket", "PATH", "socket for sesame status and sesame close (default "+defaultControl+"; knockd has no -s PATH)", &o.socket),
		flagOption(0, "save-mem", "as knockd 0.8.2 has it, and -s when called knockd: nothing changes", new(bool)),
	}, helpOptions()...)
}

// optionsAs are those of the program by that name: -s is --save-mem for knockd's.
func (o *serveOptions) optionsAs(name string) []option {
	all := o.options()
	if name == "knockd" {
		i := slices.IndexFunc(all, func(o option) bool { return o.long == "socket" })
		all[i].short, all[i+1].short = 0, 's'
	}
	return all
}

// leaveDir makes the paths of options and configuration mean the same after the daemon has left the caller's folder.
func (o *serveOptions) leaveDir() (err error) {
	if o.dir, err = os.Getwd(); err != nil {
		return err
	}
	o.config, o.keep = o.resolve(o.config), o.resolve(o.keep)
	return nil
}

// resolve makes a path absolute that is relative to where the caller of -d was.
func (o *serveOptions) resolve(path string) string {
	if o.dir == "" || path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(o.dir, path)
}

// readConfig reads a configuration as the daemon follows it: with what the command line has instead.
func (o *serveOptions) readConfig(file string) (*Config, error) {
	c, err := openConfig(file)
	if err != nil {
		return nil, err
	}
	c.LogFile = o.resolve(cmp.Or(o.logFile, c.LogFile))
	c.PidFile = o.resolve(cmp.Or(o.pidFile, c.PidFile))
	if o.on != nil {
		c.Interfaces = o.on
	}
	for _, door := range c.Doors {
		door.OneTime = o.resolve(door.OneTime)
	}
	return c, nil
}

// triedSuffix is added to the name of the kept configuration for the text of one that is being tried. It stays there until
// another one is kept, and as long as it does nothing takes up that text: neither a start, nor a reload, of which a log's
// rotation makes one, too.
const triedSuffix = ".tried"
