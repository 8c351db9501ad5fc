//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fakeFirewall is a firewall in memory. It knows the commands and the words of rules that ours are made of, and fails
// the test on any other.
type fakeFirewall struct {
	t         *testing.T
	iptables  map[string]fakeChains // by name of the tool
	nft       []*fakeTable
	handle    int
	processes int
	refuses   string // a word in rules that this kernel does not know
}

// fakeChains are the chains of table filter by name; a rule is its words.
type fakeChains map[string][]string

// fakeTable is a table of nft's.
type fakeTable struct {
	name   string // inet sesame
	header map[string]string
	rules  map[string][]string // by chain
	sets   map[string][]string // elements by set, each "key rest"
}

var errFake = errors.New("exit status 1")

func newFakeFirewall(t *testing.T) *fakeFirewall {
	return &fakeFirewall{t: t, iptables: map[string]fakeChains{"iptables": {"INPUT": nil}, "ip6tables": {"INPUT": nil}}}
}

func (f *fakeFirewall) do(calls []Call) {
	f.t.Helper()
	if err := runCalls(calls, f.run); err != nil {
		f.t.Error(err)
	}
}

func (f *fakeFirewall) run(argv []string, input string) (out string, err error) {
	f.t.Helper()
	f.processes++
	line := strings.Join(argv, " ")
	tool := strings.TrimSuffix(argv[0], "-restore")
	chains := f.iptables[tool]
	switch {
	case chains == nil && argv[0] != "nft":
		f.t.Fatalf("unknown program: %v", argv)
	case line == tool+"-restore -w -n":
		err = f.restore(tool, input)
	case line == "nft -f -":
		err = f.script(input)
	case strings.HasPrefix(line, "nft list chain "):
		out, err = f.listChain(argv[3]+" "+argv[4], argv[5], false)
	case strings.HasPrefix(line, "nft -a list chain "):
		out, err = f.listChain(argv[4]+" "+argv[5], argv[6], true)
	case argv[1] == "-w" && argv[2] == "-S":
		out, err = chains.print(argv[3:]...)
	case argv[1] == "-w":
		err = chains.change(f, argv[2:])
	default:
		f.t.Fatalf("unknown command: %v", argv)
	}
	return out, err
}

// restore carries out the lines of table filter, or none of them.
func (f *fakeFirewall) restore(tool, input string) error {
	body, ok := strings.CutPrefix(input, "*filter\n")
	body, ok2 := strings.CutSuffix(body, "COMMIT\n")
	if !ok || !ok2 {
		f.t.Fatalf("not one table: %s", input)
	}
	chains := maps.Clone(f.iptables[tool])
	for line := range strings.Lines(body) {
		if name, ok := strings.CutPrefix(line, ":"); ok {
			chains[strings.TrimSuffix(name, " - [0:0]\n")] = nil
		} else if err := chains.change(f, splitWords(line)); err != nil {
			return err
		}
	}
	f.iptables[tool] = chains
	return nil
}

// splitWords splits at spaces, but not within double quotes.
func splitWords(line string) (words []string) {
	for i, part := range strings.Split(strings.TrimSpace(line), `"`) {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

func (c fakeChains) change(f *fakeFirewall, words []string) error {
	f.t.Helper()
	chain, there := c[words[1]]
	if !there {
		return errFake
	}
	if words[0] == "-X" {
		delete(c, words[1])
		return nil
	}
	from, at := 2, 1
	if n, err := strconv.Atoi(words[2]); words[0] == "-I" && err == nil {
		from, at = 3, n
	}
	if f.refuses != "" && slices.Contains(words, f.refuses) {
		return errFake
	}
	if _, there := c[words[len(words)-1]]; !there && words[len(words)-1] == ourChain {
		return errFake // the chain to jump to
	}
	rule := c.rule(f, words[from:])
	i := slices.Index(chain, rule)
	switch {
	case words[0] == "-I":
		c[words[1]] = slices.Insert(slices.Clone(chain), at-1, rule)
	case words[0] == "-A":
		c[words[1]] = append(slices.Clip(chain), rule)
	case i < 0:
		return errFake
	case words[0] == "-D":
		c[words[1]] = slices.Delete(slices.Clone(chain), i, i+1)
	case words[0] != "-C":
		f.t.Fatalf("unknown command: %v", words)
	}
	return nil
}

// rule is a rule as -S prints it.
func (c fakeChains) rule(f *fakeFirewall, words []string) string {
	f.t.Helper()
	for i := 0; i < len(words); i++ {
		switch words[i] {
		case "!":
		case "-s", "-i", "-p", "--dport", "--ctstate", "--comment", "--mark":
			i++
		case "--tcp-flags":
			i += 2
		case "-m":
			if i++; !slices.Contains([]string{"tcp", "udp", "conntrack", "comment", "mark"}, words[i]) {
				f.t.Fatalf("unknown match: %v", words)
			}
		case "-j":
			i++
			if _, there := c[words[i]]; !there && !slices.Contains([]string{"ACCEPT", "DROP", "RETURN"}, words[i]) {
				f.t.Fatalf("unknown target: %v", words)
			}
		default:
			f.t.Fatalf("unknown word %q in rule: %v", words[i], words)
		}
	}
	return strings.Join(quoteWords(words), " ")
}

// print is what iptables -S prints, of one chain or all.
func (c fakeChains) print(only ...string) (string, error) {
	s := ""
	if len(only) == 0 {
		s = "-P INPUT ACCEPT\n"
		only = slices.Sorted(maps.Keys(c))
	}
	for _, name := range only {
		if _, there := c[name]; !there {
			return "", errFake
		}
		if name != "INPUT" {
			s += "-N " + name + "\n"
		}
	}
	for _, name := range only {
		for _, rule := range c[name] {
			s += "-A " + name + " " + rule + "\n"
		}
	}
	return s, nil
}

func (f *fakeFirewall) table(name string) *fakeTable {
	i := slices.IndexFunc(f.nft, func(t *fakeTable) bool { return t.name == name })
	if i < 0 {
		return nil
	}
	return f.nft[i]
}

// script carries out an nft script, or nothing of it.
func (f *fakeFirewall) script(input string) (err error) {
	f.t.Helper()
	var before []*fakeTable
	for _, t := range f.nft {
		before = append(before, &fakeTable{t.name, t.header, maps.Clone(t.rules), maps.Clone(t.sets)})
	}
	defer func() {
		if err != nil {
			f.nft = before
		}
	}()
	if f.refuses != "" && strings.Contains(input, f.refuses) {
		return errFake
	}
	var block *fakeTable
	object := ""
	for line := range strings.Lines(input) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case block != nil && line == "}":
			if object == "" {
				block = nil
			}
			object = ""
		case block != nil && object == "":
			object = words[1]
			block.header[object] = ""
			if words[0] == "set" {
				block.sets[object] = nil
			} else {
				block.rules[object] = nil
			}
		case block != nil && strings.HasPrefix(line, "elements = "):
			block.add(object, strings.TrimPrefix(line, "elements = "))
		case block != nil && (words[0] == "type" || words[0] == "size" || words[0] == "flags"):
			block.header[object] += "\t\t" + line + "\n"
		case block != nil:
			f.handle++
			block.rules[object] = append(block.rules[object], fmt.Sprintf("%s # handle %d", line, f.handle))
		case words[0] == "table" || words[0] == "add" && words[1] == "table":
			words = words[len(words)-3:]
			name := words[0] + " " + words[1]
			if words[2] != "{" {
				name = words[1] + " " + words[2]
			}
			if f.table(name) == nil {
				f.nft = append(f.nft, &fakeTable{name, map[string]string{}, map[string][]string{}, map[string][]string{}})
			}
			if words[2] == "{" {
				block = f.table(name)
			}
		case strings.HasPrefix(line, "delete table "):
			name := words[2] + " " + words[3]
			if f.table(name) == nil {
				return errFake
			}
			f.nft = slices.DeleteFunc(f.nft, func(t *fakeTable) bool { return t.name == name })
		case words[1] == "element" || words[1] == "rule":
			t := f.table(words[2] + " " + words[3])
			if t == nil {
				return errFake
			}
			_, text, _ := strings.Cut(line, " "+words[4]+" ")
			rules := t.rules[words[4]]
			switch words[0] + " " + words[1] {
			case "add element":
				t.add(words[4], text)
			case "delete element":
				if !t.remove(words[4], text) {
					return errFake
				}
			case "add rule": // position 7 RULE
				i := slices.IndexFunc(rules, func(r string) bool { return strings.HasSuffix(r, "# handle "+words[6]) })
				if i < 0 || words[5] != "position" {
					return errFake
				}
				f.handle++
				t.rules[words[4]] = slices.Insert(slices.Clone(rules), i+1, fmt.Sprintf("%s # handle %d", strings.Join(words[7:], " "), f.handle))
			case "insert rule":
				f.handle++
				t.rules[words[4]] = append([]string{fmt.Sprintf("%s # handle %d", text, f.handle)}, rules...)
			case "delete rule":
				i := slices.IndexFunc(rules, func(r string) bool { return strings.HasSuffix(r, "# "+text) })
				if i < 0 {
					return errFake
				}
				t.rules[words[4]] = slices.Delete(slices.Clone(rules), i, i+1)
			default:
				f.t.Fatalf("unknown nft command: %s", line)
			}
		default:
			f.t.Fatalf("unknown nft command: %s", line)
		}
	}
	return nil
}

// add puts elements in; one that is there stays as it is, as in kernels before 6.13.
func (t *fakeTable) add(set, elements string) {
	for e := range strings.SplitSeq(strings.Trim(elements, "{ }"), ", ") {
		if t.find(set, e) < 0 {
			t.sets[set] = append(slices.Clip(t.sets[set]), e)
		}
	}
}

func (t *fakeTable) remove(set, elements string) bool {
	for e := range strings.SplitSeq(strings.Trim(elements, "{ }"), ", ") {
		i := t.find(set, e)
		if i < 0 {
			return false
		}
		t.sets[set] = slices.Delete(slices.Clone(t.sets[set]), i, i+1)
	}
	return true
}

func (t *fakeTable) find(set, element string) int {
	key, _, _ := strings.Cut(element, " timeout ")
	return slices.IndexFunc(t.sets[set], func(e string) bool { k, _, _ := strings.Cut(e, " timeout "); return k == key })
}

func (f *fakeFirewall) listChain(table, chain string, handles bool) (string, error) {
	t := f.table(table)
	if t == nil {
		return "", errFake
	}
	rules, there := t.rules[chain]
	if !there {
		return "", errFake
	}
	return t.printChain(chain, rules, handles), nil
}

func (t *fakeTable) printChain(name string, rules []string, handles bool) string {
	s := "\tchain " + name + " {\n" + t.header[name]
	for _, rule := range rules {
		if !handles {
			rule, _, _ = strings.Cut(rule, " # handle ")
		}
		s += "\t\t" + rule + "\n"
	}
	return s + "\t}\n"
}

// listing is what nft list ruleset prints.
func (f *fakeFirewall) listing(handles bool) (s string) {
	for _, t := range f.nft {
		s += "table " + t.name + " {\n"
		for _, name := range slices.Sorted(maps.Keys(t.sets)) {
			s += "\tset " + name + " {\n" + t.header[name]
			if len(t.sets[name]) > 0 {
				s += "\t\telements = { " + strings.Join(t.sets[name], ",\n\t\t\t     ") + " }\n"
			}
			s += "\t}\n"
		}
		for _, name := range slices.Sorted(maps.Keys(t.rules)) {
			s += t.printChain(name, t.rules[name], handles)
		}
		s += "}\n"
	}
	return s
}

// inspect is what the daemon would see.
func (f *fakeFirewall) inspect() (in Inspection) {
	in.NFT = listed(f.listing(true))
	for _, name := range []string{"iptables", "ip6tables"} {
		rules, _ := f.iptables[name].print()
		in.Tools = append(in.Tools, Tool{iptables: iptables{name, true}, Rules: listed(rules)})
	}
	return in
}

// runCalls runs calls as the daemon does. run returns standard output.
func runCalls(calls []Call, run func(argv []string, input string) (string, error)) error {
	for _, c := range calls {
		if c.Unless != nil {
			if _, err := run(c.Unless, ""); err == nil {
				continue
			}
		}
		_, err := run(c.Argv, c.Input)
		if err != nil && c.Otherwise != nil {
			for less := range c.Otherwise {
				if _, err = run(c.Argv, less); err == nil {
					break
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// answers run only those commands that ask nothing of the host's rules, as a host would that looks like this.
func (in Inspection) run(argv []string, _ string) (out string, err error) {
	works := slices.ContainsFunc(in.Tools, func(t Tool) bool { return t.name == argv[0] })
	switch {
	case argv[0] == "nft":
		return "", in.NFTError
	case !works:
		return "", errFake
	case argv[1] == "--version":
		return argv[0] + " v1.8.9 (nf_tables)\n", nil
	}
	return "", nil
}

// applier is one for a host that looks like this.
func (in Inspection) applier(c *Config) *Applier {
	return &Applier{option: c.Firewall, mark: c.FirewallMark, run: in.run, inspect: func(time.Duration) Inspection { return in }}
}
