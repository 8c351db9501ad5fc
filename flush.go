//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
func flushAll(e env, args []string) (err error) {
	defer func() {
		err = notBeside(err)
		if os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: run as root", err)
		}
	}()
	var o flushOptions
	if err := onlyOptions(args, o.options(), ": a file is named by -c"); err != nil {
		return err
	}
	config := &Config{}
	c, err := openConfig(cmp.Or(o.config, defaultConfigFile))
	if kept := e.stateDirs[0] + "/good.conf"; o.config == "" && errors.Is(err, fs.ErrNotExist) {
		c, err = openConfig(kept)
	}
	switch {
	case c != nil: // also with mistakes in it: they are no reason to leave doors open
		config = c
	case o.config != "" || !errors.Is(err, fs.ErrNotExist):
		return withoutSecrets(err)
	}
	file, err := filepath.Abs(cmp.Or(o.config, defaultConfigFile))
	if err != nil {
		return err
	}
	var state State
	defer state.close(&State{})
	err = state.openJournal(config, file, e.stateDirs)
	state.notes = nil // of which flush needs only those about what is left
	if err == nil {
		err = state.takeLeft(true, o.config == "")
	}
	if err != nil {
		return err
	}
	if state.lock, err = state.lockFirewall(e); err != nil {
		return err
	}
	log := &Log{out: e.stderr, date: e.date}
	for _, note := range state.notes {
		log.printf("%s", note)
	}
	doors := newDoors(e.now, log, Command.start)
	doors.firewall.configure(newApplier(config).inBackground, nil, false)
	state.resume(doors, e.now())
	doors.leaveNoTrace()
	nobody := make(chan Grant)
	close(nobody)
	doors.serve(nobody)
	if !doors.firewall.flushed || len(doors.open)+len(state.notes) > 0 {
		return errors.New("not everything could be closed: see above")
	}
	state.forgetFirewall()
	for _, r := range append(state.left, left{Recovered: state.recovered}) {
		if r.Lost != "" {
			return errors.New(r.Lost)
		}
	}
	fmt.Fprintln(e.stdout, "nothing of sesame is left in the firewall")
	return nil
}
