//go:build linux

package main

import (
	"cmp"
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
	if err := onlyOptions(args, o.options(), ": a file is named by -c"); err != nil {
		return err
	}
	config := &Config{}
	c, err := openConfig(cmp.Or(o.config, defaultConfigFile))
	if kept := e.stateDir + "/good.conf"; o.config == "" && errors.Is(err, fs.ErrNotExist) {
		c, err = openConfig(kept)
	}
	switch {
	case c != nil: // also with mistakes in it: they are no reason to leave doors open
		config = c
	case o.config != "" || !errors.Is(err, fs.ErrNotExist):
		return withoutSecrets(err)
	}
	journal, recovered, err := readJournal(config, e.stateDir)
	if journal != nil {
		defer journal.close()
	}
	if err != nil {
		return err
	}
	lock, err := lockFirewall(filepath.Dir(e.socket))
	if err != nil {
		return err
	}
	defer lock.remove()
	doors := newDoors(e.now, &Log{out: e.stderr, date: e.date}, Command.start)
	doors.journal.configure(journal.write)
	doors.firewall.configure(newApplier(config).inBackground, nil, false)
	doors.resume(e.now(), recovered)
	doors.firewall.flushing.Store(true)
	nobody := make(chan Grant)
	close(nobody)
	doors.serve(nobody)
	if !doors.firewall.flushed || len(doors.journal.left) > 0 {
		return errors.New("not everything could be closed: see above")
	}
	journal.forgetFirewall()
	if recovered.Lost != "" {
		return errors.New(recovered.Lost)
	}
	fmt.Fprintln(e.stdout, "nothing of sesame is left in the firewall")
	return nil
}
