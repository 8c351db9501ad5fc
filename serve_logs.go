//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
)

// Logs is where the daemon's lines go, from the start to the end.
type Logs struct {
	log    *Log // knockd's lines
	debug  *Log // what -D shows, or nil
	name   string
	syslog *Syslog // nil until it is asked for
}

// openLogs opens the log and lets it write by itself.
func openLogs(e env, o *serveOptions, c *Config, background bool) (*Logs, error) {
	out, copied, names := e.stderr, io.Writer(nil), (*Names)(nil)
	switch {
	case background:
		out = io.Discard
	case o.verbose:
		out, copied = e.stdout, e.stdout
	}
	if o.lookup {
		names = newNames(e.now, net.DefaultResolver.LookupAddr)
	}
	l := &Logs{log: &Log{out: out, copy: copied, date: e.date, names: names}, name: e.name}
	err := l.open(c)
	if err != nil && o.logFile == "" && c.LogFile == stockLogFile {
		fmt.Fprintf(e.stderr, "%s: warning: %v\n", e.name, err)
		c.LogFile = ""
		err = l.open(c)
	}
	if err != nil {
		return nil, err
	}
	if background && c.LogFile == "" && !c.UseSyslog {
		fmt.Fprintf(e.stderr, "%s: warning: nothing will be logged: LogFile, -g or UseSyslog says where to\n", e.name)
	}
	l.log.start()
	if o.debug {
		l.debug = &Log{out: e.stderr, date: e.date}
		l.debug.start()
	}
	return l, nil
}

// open makes the log file and the system log those that the configuration names. The file is opened anew even when it
// is the same one (logrotate). After an error what was open stays in use.
func (l *Logs) open(c *Config) (err error) {
	if !c.UseSyslog {
		return l.log.open(c.LogFile, nil)
	}
	if l.syslog == nil {
		if l.syslog, err = openSyslog(l.name); err != nil {
			return err
		}
	}
	return l.log.open(c.LogFile, l.syslog)
}

// reopen is open after the start, and tells of it.
func (l *Logs) reopen(c *Config) {
	if err := l.open(c); err != nil {
		l.log.printf("%v: the one that was open stays", err)
	} else if c.LogFile != "" {
		l.log.printf("re-opening log file: %s", c.LogFile)
	}
}

// finish writes the lines that wait.
func (l *Logs) finish() {
	l.log.finish()
	if l.debug != nil {
		l.debug.finish()
	}
}
