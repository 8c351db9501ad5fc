package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"
	"strings"
)

// configError is a mistake in a configuration. The value at fault is kept apart where it may be part of a secret:
// it is shown to the person who runs the program, and not written to a log.
type configError struct {
	text, secret string
	line         int
}

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

func (e configErrors) sort() {
	sort.SliceStable(e, func(i, j int) bool { return e[i].line < e[j].line })
}

// byteOrderMark is what some editors begin a file with.
const byteOrderMark = "\xef\xbb\xbf"

const (
	maxConfigSize   = 1 << 20
	maxConfigErrors = 100 // and as many warnings
)

// section is one of the file, as far as messages are about it.
type section struct {
	title string         // how they begin: `door "a": `, or ""
	seen  map[string]int // line of each directive, and of its [name] by ""
	wrong bool           // a line of it is
}

// ini is a file in knockd's syntax while it is read: lines of [section], Directive = value and # comment. Which sections
// and directives there are, and what they mean, a language on it says. What is wrong or will surprise is noted with its
// line.
type ini struct {
	file             string   // as messages have it
	line             int      // that they are about
	section          *section // that the line is in; nil before the first one
	errors, warnings configErrors
}

// newSection is one that begins on this line.
func (p *ini) newSection(title string) *section {
	return &section{title: title, seen: map[string]int{"": p.line}}
}

// note notes that the section has a directive on this line, and returns the line before where it has it, too, or 0.
func (p *ini) note(directive string) (before int) {
	before, p.section.seen[directive] = p.section.seen[directive], p.line
	return before
}

// at goes to a directive of a section that has been read, or to its [name] by "", and without a section to the top.
func (p *ini) at(s *section, directive string) *ini {
	p.section, p.line = s, 1
	if s != nil {
		p.line = s.seen[directive]
	}
	return p
}

// fail notes a mistake on the present line, failSecret one whose value is not for logs, warn what only surprises.
func (p *ini) fail(format string, a ...any) {
	p.failSecret("", format, a...)
}

func (p *ini) failSecret(secret, format string, a ...any) {
	p.errors = append(p.errors, configError{p.here(format, a...), secret, p.line})
	if p.section != nil {
		p.section.wrong = true
	}
}

func (p *ini) warn(format string, a ...any) {
	p.warnings = append(p.warnings, configError{p.here(format, a...), "", p.line})
}

func (p *ini) here(format string, a ...any) string {
	title := ""
	if p.section != nil {
		title = p.section.title
	}
	return fmt.Sprintf("%s:%d: %s", p.file, p.line, title) + fmt.Sprintf(format, a...)
}

// mistakes are the first ones in the order of the lines, or nil.
func (p *ini) mistakes() error {
	if p.errors == nil {
		return nil
	}
	p.errors.sort()
	p.forget()
	return p.errors
}

// forget drops the mistakes that are too many to tell.
func (p *ini) forget() { p.errors = p.errors[:min(len(p.errors), maxConfigErrors)] }

// surprises are the first warnings in the order of the lines, and how many there are more.
func (p *ini) surprises() (lines []string) {
	p.warnings.sort()
	for _, w := range p.warnings[:min(len(p.warnings), maxConfigErrors)] {
		lines = append(lines, w.text)
	}
	if n := len(p.warnings) - maxConfigErrors; n > 0 {
		lines = append(lines, fmt.Sprintf("%s: %d more warnings", p.file, n))
	}
	return lines
}

// read reads the file. The language's start makes a section of a [name], and its set reads a directive. The error is that
// of reading r, or p.errors when there is no use in reading on.
func (p *ini) read(r io.Reader, start func(name string) *section, set func(key, value string, hasValue bool)) error {
	text, err := io.ReadAll(io.LimitReader(r, maxConfigSize+1))
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if len(text) > maxConfigSize {
		p.at(nil, "").fail("a configuration is at most %d bytes", maxConfigSize)
		return p.errors
	}
	for _, line := range p.lines(text) {
		switch i := strings.IndexFunc(line, isControl); {
		case i >= 0:
			p.fail("a control character (%#02x) is not allowed in a configuration: delete it", line[i])
		case line[0] == '[':
			name := p.sectionName(line)
			p.section = nil // a name that is wrong is a mistake of neither section
			p.section = start(name)
		default:
			key, value, hasValue := strings.Cut(line, "=")
			set(strings.TrimSpace(key), strings.TrimSpace(value), hasValue)
		}
		if len(p.errors) >= maxConfigErrors {
			p.fail("too many mistakes: reading ends here")
			return p.errors
		}
	}
	return nil
}

// lines goes to each line with something on it, and yields where in the text it begins, and it without blanks around it.
func (p *ini) lines(text []byte) iter.Seq2[int, string] {
	return func(yield func(at int, line string) bool) {
		rest := strings.TrimPrefix(string(text), byteOrderMark)
		at := len(text) - len(rest)
		for line := range strings.SplitAfterSeq(rest, "\n") {
			p.line++
			if s := strings.TrimSpace(line); s != "" && s[0] != '#' && !yield(at, s) {
				return
			}
			at += len(line)
		}
	}
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// sectionName is the name in a [name]. Without its ], and with more behind it, what follows is still read as it is meant.
func (p *ini) sectionName(line string) string {
	name, whole := strings.CutSuffix(line[1:], "]")
	if !whole {
		var closed bool
		if name, _, closed = strings.Cut(name, "]"); closed {
			p.fail("a section is [name] and nothing after it: put the rest on a line of its own")
		} else {
			p.fail("a section is [name]: the ] is missing")
		}
	}
	return strings.TrimSpace(name)
}

// failUnknown notes a key that is none of the names.
func (p *ini) failUnknown(key string, hasValue bool, names []string) {
	switch {
	case strings.ContainsAny(strings.TrimSuffix(key, "_6"), "0123456789"):
		// It may be a sequence without its =, or the rest of one that was broken over two lines.
		p.failSecret(key, "a line is [section], Directive = value or # comment")
	case !hasValue:
		p.fail("%q is not a directive: a line is [section], Directive = value or # comment%s", key, didYouMean(key, names))
	default:
		p.fail("unknown directive %q%s", key, didYouMean(key, names))
	}
}

// readSequence has parse read knocks with commas between them. It may say what is wrong with one, and not what was given:
// then there are fewer in the sequence, or none.
func readSequence[K interface{ half() bool }](p *ini, value string, parse func(item string) (K, error)) (sequence []K) {
	value = withoutComment(value)
	if n := strings.Count(value, ",") + 1; n > maxKnocks {
		p.fail("Sequence: a sequence has 1 to %d knocks, not %d", maxKnocks, n)
		return nil
	}
	halves := 0
	for _, item := range strings.Split(value, ",") {
		if item = strings.TrimSpace(item); item == "" {
			p.fail("Sequence: an item is empty: a port is a number from 1 to 65535, and commas only go between ports")
		} else if k, err := parse(item); err != nil {
			p.failSecret(item, "Sequence: %v", err)
		} else if sequence = append(sequence, k); k.half() {
			sequence = append(sequence, k)
			halves += 2
		}
	}
	if halves > 0 && (halves > 2 || sequence[0].half() || len(sequence) > maxKnocks) {
		p.fail("Sequence: totp stands there once, after a knock, and as two of %d knocks at most: Sequence = 7000, totp", maxKnocks)
		return nil
	}
	return sequence
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
