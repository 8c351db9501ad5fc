//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestINI reads a language in which every name and key but "x" is known: what it gets, and what is said of the lines.
func TestINI(t *testing.T) {
	for _, test := range []struct{ name, in, got, mistakes string }{
		{"nothing", "", "", ""},
		{"comments and blanks", "# a\n\n \t\r\n", "", ""},
		{"sections and directives", "a=1\n[s]\n b = 2 = 3 # c\nbare\n", "1 a=1|2 [s]|3 b=2 = 3 # c|4 bare", ""},
		{"byte order mark and CRLF", "\xef\xbb\xbf[s]\r\na =\r\n", "1 [s]|2 a=", ""},
		{"brackets in a name", "[[ s ]]", "1 [[ s ]]", ""},
		{"broken sections", "[s] a\n[s\n[", "1 [s]|2 [s]|3 []",
			"f:1: a section is [name] and nothing after it: put the rest on a line of its own\n" +
				"f:2: s: a section is [name]: the ] is missing\nf:3: s: a section is [name]: the ] is missing"},
		{"control characters", "[s]\na\x00\nb\x7f=\n# \x1b", "1 [s]",
			"f:2: s: a control character (0x00) is not allowed in a configuration: delete it\n" +
				"f:3: s: a control character (0x7f) is not allowed in a configuration: delete it"},
		{"unknown", "[x]\nx=1\nx\nx7000", "1 [x]|2 x=1|3 x|4 x7000",
			"f:1: no section x\nf:2: x: unknown directive \"x\"\n" +
				"f:3: x: \"x\" is not a directive: a line is [section], Directive = value or # comment\n" +
				"f:4: x: a line is [section], Directive = value or # comment, not \"x7000\""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := ini{file: "f"}
			var got []string
			err := p.read(strings.NewReader(test.in), func(name string) *section {
				got = append(got, fmt.Sprintf("%d [%s]", p.line, name))
				if name == "x" {
					p.fail("no section x")
				}
				return p.newSection(name + ": ")
			}, func(key, value string, hasValue bool) {
				if hasValue {
					value = "=" + value
				}
				got = append(got, fmt.Sprintf("%d %s%s", p.line, key, value))
				if key[0] == 'x' {
					p.failUnknown(key, hasValue, nil)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(got, "|"); got != test.got {
				t.Errorf("got %q, want %q", got, test.got)
			}
			mistakes := ""
			if err := p.mistakes(); err != nil {
				mistakes = err.Error()
			}
			if mistakes != test.mistakes {
				t.Errorf("mistakes: got\n%s\nwant\n%s", mistakes, test.mistakes)
			}
		})
	}
}

// TestINISecrets keeps the value at fault out of what may be logged, and has mistakes in the order of their lines.
func TestINISecrets(t *testing.T) {
	p := ini{file: "f"}
	p.line = 7
	s := p.newSection("s: ")
	p.section = s
	p.line = 9
	if before := p.note("Sequence"); before != 0 {
		t.Errorf("on line %d already", before)
	}
	if k := readSequence(&p, "7000, secret, 8000:udp # c", parseKnock); joinKnocks(k) != "7000:tcp,8000:udp" {
		t.Errorf("got %v", k)
	}
	p.at(s, "").fail("a door")
	p.at(nil, "").fail("a file")
	err := fmt.Errorf("wrapped: %w", p.mistakes())
	const said = "f:1: a file\nf:7: s: a door\nf:9: s: Sequence: a port is a number from 1 to 65535"
	if got := withoutSecrets(err).Error(); got != said {
		t.Errorf("without secrets: got\n%s\nwant\n%s", got, said)
	}
	if got, want := p.mistakes().Error(), said+`, not "secret"`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !s.wrong || p.at(s, "Sequence").line != 9 || p.note("Sequence") != 9 {
		t.Errorf("got %+v", s)
	}
}
