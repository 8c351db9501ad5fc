//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

type flushOptions struct{ config string }

func (o *flushOptions) options() []option {
	return append([]option{
		stringOption('c', "config", "FILE", "configuration, for its StateDir (default "+defaultConfigFile+")", &o.config),
	}, helpOptions()...)
}

// flushAll closes what a daemon that does not run any more has left open, and removes every trace of sesame from the
// firewall. It can be run again and again.
func flushAll(e env, args []string) error {
	var o flushOptions
	rest, err := getopt(args, o.options())
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usageError(fmt.Sprintf("%q is one argument too many: a file is named by -c", rest[0]))
	}
	config := &Config{}
	file := o.config
	if file == "" {
		file = defaultConfigFile
	}
	switch c, err := openConfig(file); {
	case c != nil: // also with mistakes in it: they are no reason to leave doors open
		config = c
	case o.config != "" || !errors.Is(err, fs.ErrNotExist):
		return withoutSecrets(err)
	}
	d := daemon{env: e, log: &Log{out: e.stderr, date: e.date}, config: config}
	recovered, err := d.openJournal(config)
	if err != nil {
		return err
	}
	defer d.journal.close()
	lock, err := lockFirewall(filepath.Dir(e.socket))
	if err != nil {
		return err
	}
	defer lock.remove()
	doors := newDoors(e.now, d.log, Command.start)
	doors.journal.configure(d.journal.write)
	doors.firewall.configure(newApplier(config).inBackground, false)
	doors.resume(e.now(), recovered)
	doors.firewall.flushing.Store(true)
	nobody := make(chan Grant)
	close(nobody)
	doors.serve(nobody)
	if !doors.firewall.flushed || len(doors.journal.left) > 0 {
		return errors.New("not everything could be closed: see above")
	}
	d.journal.forgetFirewall()
	if recovered.Lost != "" {
		return errors.New(recovered.Lost)
	}
	fmt.Fprintln(e.stdout, "nothing of sesame is left in the firewall")
	return nil
}
