package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// configError is a mistake in a configuration. The value at fault is kept apart where it may be part of a secret:
// it is shown to the person who runs the program, and not written to a log.
type configError struct{ text, secret string }

// configErrors are all mistakes of one file, each a line that begins with file:line.
type configErrors []configError

func (e configErrors) Error() string {
	var lines []string
	for _, mistake := range e {
		if mistake.secret != "" {
			mistake.text += fmt.Sprintf(", not %q", mistake.secret)
		}
		lines = append(lines, mistake.text)
	}
	return strings.Join(lines, "\n")
}

// withoutSecrets is err as it may stand in a log.
func withoutSecrets(err error) error {
	mistakes, ok := errors.AsType[configErrors](err)
	if !ok {
		return err
	}
	mistakes = slices.Clone(mistakes)
	for i := range mistakes {
		mistakes[i].secret = ""
	}
	return mistakes
}

// byteOrderMark is what some editors begin a file with.
const byteOrderMark = "\xef\xbb\xbf"

const (
	maxConfigSize   = 1 << 20
	maxConfigErrors = 100 // and as many warnings
)

// section is a door or a profile while it is being read.
type section struct {
	name   string
	door   *Door
	seen   map[string]int // line of each directive, by canonical name
	start6 *string
	stop6  *string
	wrong  bool // a line of it is
}

// parser reads a file in knockd's syntax: a configuration, or the client's profiles.
type parser struct {
	kind        string // what a section is: a door or a profile
	config      *Config
	line        int
	errors      configErrors
	inOptions   bool
	optionsSeen map[string]int
	sections    []*section
	open        *section // the door being read, nil in [options] and before the first section
	profiles    []*profile
	keys        []option // that the profile being read can have
}

func (p *parser) where(line int, s *section) string {
	at := fmt.Sprintf("%s:%d: ", p.config.File, line)
	if s != nil {
		at += fmt.Sprintf("%s %q: ", p.kind, s.name)
	}
	return at
}

// fail notes a mistake on the present line, failSecret one whose value is not for logs, warn what only surprises.
func (p *parser) fail(format string, a ...any) {
	p.failSecret("", format, a...)
}

func (p *parser) failSecret(secret, format string, a ...any) {
	p.errors = append(p.errors, configError{p.where(p.line, p.open) + fmt.Sprintf(format, a...), secret})
	if p.open != nil {
		p.open.wrong = true
	}
}

func (p *parser) warn(format string, a ...any) {
	p.config.Warnings = append(p.config.Warnings, p.where(p.line, p.open)+fmt.Sprintf(format, a...))
}

// read reads the lines. The error is that of reading r, or p.errors when there is no use in reading on.
func (p *parser) read(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxConfigSize+1))
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if len(text) > maxConfigSize {
		p.line = 1
		p.fail("a configuration is at most %d bytes", maxConfigSize)
		return p.errors
	}
	text = bytes.TrimPrefix(text, []byte(byteOrderMark))
	for _, line := range strings.Split(string(text), "\n") {
		p.line++
		p.parseLine(strings.TrimSpace(line))
		if len(p.errors) >= maxConfigErrors {
			p.fail("too many mistakes: reading ends here")
			return p.errors
		}
	}
	return nil
}

// mistakes are all of them in the order of the lines, or nil.
func (p *parser) mistakes() error {
	if p.errors == nil {
		return nil
	}
	sort.SliceStable(p.errors, func(i, j int) bool {
		return lineOf(p.config, p.errors[i].text) < lineOf(p.config, p.errors[j].text)
	})
	return p.errors[:min(len(p.errors), maxConfigErrors)]
}

func (p *parser) parseLine(line string) {
	if line == "" || line[0] == '#' {
		return
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		p.fail("a control character (%#02x) has no place in a configuration: delete it", line[i])
		return
	}
	if line[0] == '[' && line[len(line)-1] == ']' {
		p.startSection(strings.TrimSpace(line[1 : len(line)-1]))
		return
	}
	if line[0] == '[' {
		name, _, closed := strings.Cut(line[1:], "]")
		if closed {
			p.fail("a section is [name] and nothing behind it: put the rest on a line of its own")
		} else {
			p.fail("a section is [name]: the ] is missing")
		}
		p.startSection(strings.TrimSpace(name)) // so that what follows is read as meant
		return
	}
	key, value, hasValue := strings.Cut(line, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if p.kind == "profile" {
		p.setKey(key, value, hasValue)
		return
	}
	d, known := findDirective(key)
	switch {
	case !known:
		p.failUnknown(key, hasValue, directiveNames())
	case !hasValue && d.name != "UseSyslog":
		p.fail("%s needs a value: %s = ...", d.name, d.name)
	case !p.inOptions && p.open == nil:
		p.fail("%s stands before the first section: write [options] or a door's [name] above it", d.name)
	case p.inOptions && !d.inOption:
		p.fail("%s belongs in a door's section, not in [options]", d.name)
	case p.open != nil && !d.inDoor:
		p.fail("%s belongs in [options]", d.name)
	default:
		seen := p.optionsSeen
		if p.open != nil {
			seen = p.open.seen
		}
		if before := seen[d.name]; before != 0 && !accumulates[d.name] {
			p.warn("%s stands on line %d already: this line holds", d.name, before)
		}
		d.set(p, value)
		seen[d.name] = p.line
	}
}

// failUnknown notes a key that is none of the names.
func (p *parser) failUnknown(key string, hasValue bool, names []string) {
	switch {
	case strings.ContainsAny(strings.TrimSuffix(key, "_6"), "0123456789"):
		// It may be a sequence without its =, or the rest of one that was broken over two lines.
		p.failSecret(key, "a line is [section], Directive = value or # comment")
	case !hasValue:
		p.fail("%q is no directive: a line is [section], Directive = value or # comment%s", key, didYouMean(key, names))
	default:
		p.fail("unknown directive %q%s", key, didYouMean(key, names))
	}
}

func (p *parser) startSection(name string) {
	p.open, p.inOptions = nil, false
	switch {
	case p.kind == "profile":
		p.startProfile(name)
		return
	case name == "":
		p.fail("a section needs a name: [options] or a door's [name]")
		name = "?" // so that what follows is still checked
	case strings.EqualFold(name, "options"):
		p.inOptions = true
		return
	case !utf8.ValidString(name):
		p.fail("a door's name must be UTF-8 text: it stands in the log")
	}
	p.open = &section{
		name: name,
		door: &Door{Name: name, Line: p.line, SeqTimeout: defaultSeqTimeout, CmdTimeout: defaultCmdTimeout,
			Decoys: true},
		seen: map[string]int{},
	}
	p.sections = append(p.sections, p.open)
}

// parseYes reads yes or no. ok is false for everything else.
func parseYes(value string) (yes, ok bool) {
	switch strings.ToLower(withoutComment(value)) {
	case "yes", "true", "on", "1":
		return true, true
	case "no", "false", "off", "0":
		return false, true
	}
	return false, false
}

// parseSequence reads knocks with commas between them. With a mistake in them there may be fewer, or none.
func (p *parser) parseSequence(value string) (sequence []Knock) {
	p.eachKnock(value, func(item string) error {
		k, err := parseKnock(item, tcp)
		if err == nil {
			sequence = append(sequence, k)
		}
		return err
	})
	return sequence
}

// eachKnock has parse read each item of a sequence. It may say what is wrong with it, and not what was given.
func (p *parser) eachKnock(value string, parse func(item string) error) {
	value = withoutComment(value)
	if n := strings.Count(value, ",") + 1; n > maxKnocks {
		p.fail("Sequence: a sequence has 1 to %d knocks, not %d", maxKnocks, n)
		return
	}
	for _, item := range strings.Split(value, ",") {
		if item = strings.TrimSpace(item); item == "" {
			p.fail("Sequence: an item is empty: a port is a number from 1 to 65535, and commas stand only between ports")
		} else if err := parse(item); err != nil {
			p.failSecret(item, "Sequence: %v", err)
		}
	}
}

// withoutComment takes off a comment, which in knockd's syntax belongs to the value: nobody means it to.
func withoutComment(value string) string {
	for i := 1; i < len(value); i++ {
		if value[i] == '#' && (value[i-1] == ' ' || value[i-1] == '\t') {
			return strings.TrimSpace(value[:i])
		}
	}
	if strings.HasPrefix(value, "#") {
		return ""
	}
	return value
}

func lineOf(c *Config, warning string) (line int) {
	n, _, _ := strings.Cut(strings.TrimPrefix(warning, c.File+":"), ":")
	line, _ = strconv.Atoi(n)
	return line
}
