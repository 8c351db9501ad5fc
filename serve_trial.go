//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// trialRetry is how long after a failed return to the kept configuration the next one is made.
const trialRetry = 10 * time.Second

// Trial is a configuration that is in force until a time, or until somebody keeps it.
type Trial struct {
	options *serveOptions
	log     *Log
	asks    chan trialAsk
	over    <-chan time.Time // nil: nothing is being tried
}

// trialAsk is a request of sesame try. The channel has room for the answer.
type trialAsk struct {
	word   string
	time   time.Duration
	answer chan trialAnswer
}

type trialAnswer struct {
	text string
	err  error
}

// ask is for the control's goroutine: the daemon's answers one of
//
//	try SECONDS    puts the configuration into force for so long
//	keep           keeps it
//	back           does not
func (t *Trial) ask(line string) (text string, known bool, err error) {
	word, value, _ := strings.Cut(line, " ")
	seconds, notNumber := strconv.ParseUint(value, 10, 16)
	switch word {
	case "try":
		known = notNumber == nil
	case "keep", "back":
		known = value == ""
	}
	if !known {
		return "", false, nil
	}
	ask := trialAsk{word, time.Duration(seconds) * time.Second, make(chan trialAnswer, 1)}
	busy := time.After(answerTime)
	select {
	case t.asks <- ask:
	case <-busy:
		return "", true, errBusy
	}
	a := <-ask.answer
	return a.text, true, a.err
}

// answer carries out a request, with what is in force, and take to bring another into force.
func (t *Trial) answer(ask trialAsk, s *Setup, take func(*Setup)) {
	text, err := t.carryOut(ask, s, take)
	ask.answer <- trialAnswer{text, err}
}

func (t *Trial) carryOut(ask trialAsk, s *Setup, take func(*Setup)) (text string, err error) {
	switch {
	case ask.word == "try":
		return fmt.Sprintf("%s is in force for %v\n", t.options.config, ask.time), t.begin(ask.time, s, take)
	case t.over == nil && s.config.File == t.options.keep:
		return "", errors.New("it was not kept: the kept configuration is in force again")
	case t.over == nil:
		return "", fmt.Errorf("nothing is being tried: %s is in force", s.config.File)
	case ask.word == "back":
		return "it was not kept: the kept configuration is in force again\n", t.back(s, take)
	}
	now, _ := os.ReadFile(t.options.config)
	same := t.options.tried(now)
	t.over = nil
	_ = os.Remove(t.options.keep + triedSuffix) // or it would not be kept
	s.keep(t.log)
	if !hasText(t.options.keep, s.config.text) {
		return "", errors.New("it cannot be kept, and the log says why: it is in force until the next start")
	}
	t.log.printf("%s was tried, and is kept", t.options.config)
	if !same {
		return fmt.Sprintf("what was tried is kept; %s has changed since, and a reload takes that up\n", t.options.config), nil
	}
	return t.options.config + " is kept\n", nil
}

// begin brings the configuration into force, and notes before that it is not to be taken up by a start.
func (t *Trial) begin(limit time.Duration, s *Setup, take func(*Setup)) error {
	if t.options.keep == "" {
		return errors.New("the daemon has no configuration to go back to: start it with --keep /var/lib/sesame/good.conf")
	}
	if _, err := os.Stat(t.options.keep); err != nil {
		return fmt.Errorf("there is no configuration to go back to: %w", err)
	}
	c, err := t.options.readConfig(t.options.config)
	if err != nil {
		return withoutSecrets(err)
	}
	if hasText(t.options.keep, c.text) {
		return fmt.Errorf("there is nothing to try: %s is the configuration that is kept", c.File)
	}
	next, err := s.bring(c, "")
	if err != nil {
		return withoutSecrets(err)
	}
	if _, err := writeFile(t.options.keep+triedSuffix, t.options.written(c.text), nil, nil); err != nil {
		next.close(s)
		return err
	}
	t.log.printf("%s is tried for %v", c.File, limit)
	t.over = time.After(limit)
	take(next)
	return nil
}

// back brings the kept configuration into force again.
func (t *Trial) back(s *Setup, take func(*Setup)) error {
	trouble, err := t.options.trouble(t.options.triedError())
	var c *Config
	if err == nil {
		c, err = t.options.readConfig(t.options.keep)
	}
	var next *Setup
	if err == nil {
		next, err = s.bring(c, trouble)
	}
	if err != nil {
		err = withoutSecrets(err)
		t.log.printf("warning: going back to the kept configuration: %v: it is tried again", err)
		t.over = time.After(trialRetry)
		return err
	}
	t.over = nil
	logLines(t.log, "warning: ", trouble)
	take(next)
	return nil
}
