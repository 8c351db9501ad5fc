//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

type checkOptions struct {
	config            string
	verbose, onlyIPv4 bool
}

func (o *checkOptions) options() []option {
	o.config = defaultConfigFile
	return append([]option{
		stringOption('c', "config", "FILE", "configuration (default "+defaultConfigFile+")", &o.config),
		flagOption('v', "verbose", "show the sequences and commands, too: they are secret; and what serve would do to the firewall", &o.verbose),
	}, helpOptions()...)
}

func check(e env, args []string) error {
	var o checkOptions
	if err := onlyOptions(args, o.options(), ": a file is named by -c"); err != nil {
		return err
	}
	return o.check(e)
}

// check reads a configuration as serve would, and prints what it understood. What would surprise goes to standard
// error as warnings. It changes nothing.
func (o checkOptions) check(e env) error {
	c, err := openConfig(o.config)
	if c == nil {
		return err
	}
	warnings := c.Warnings
	unused, mistakes, unreadable := c.oneTimeFiles()
	if err == nil && mistakes != nil {
		err = mistakes
	}
	var report string
	if err == nil {
		err = servedCodes(c)
	}
	if err == nil {
		warnings = append(warnings, hostWarnings(c, o.onlyIPv4)...)
		file, _ := filepath.Abs(o.config)
		if c.hasCodes() {
			if w := newCodeSteps(e, c, file).warning(); w != "" {
				warnings = append(warnings, fmt.Sprintf("%s: %s", c.File, w))
			}
		}
		if c.native() {
			links, _ := readLinks(true) // who cannot read them cannot listen either, and is told so
			var more []string
			report, more, err = newApplier(c).describe(c, links, o.verbose)
			warnings = append(warnings, more...)
		}
		for _, u := range unreadable {
			warnings = append(warnings, u.text)
		}
	}
	for _, w := range warnings {
		fmt.Fprintf(e.stderr, "warning: %s\n", w)
	}
	if err != nil {
		return err // what would keep serve from starting
	}
	fmt.Fprintln(e.stdout, "configuration OK")
	for _, d := range c.Doors {
		fmt.Fprintln(e.stdout, describeDoor(d, len(unused[d.OneTime]), o.verbose))
	}
	fmt.Fprint(e.stdout, report)
	return nil
}

// servedCodes finds ports of this host's services among those of codes. Knocks there would be connections.
func servedCodes(c *Config) error {
	served, _ := servedPorts(procNet) // serve asks anew, and says what is wrong
	for _, d := range c.Doors {
		if i := slices.IndexFunc(served, d.takesHalf); i >= 0 {
			return fmt.Errorf("%s:%d: door %q: TOTP: something on this host listens on %v, which is among the ports of its codes: "+
				"write another base: TOTP = SECRET 30000", c.File, d.line("TOTP"), d.Name, served[i])
		}
	}
	return nil
}

// describe is, in lines, which firewall would open the doors, and why. dryRun adds the commands. links are this host's. An
// error is what would keep serve from starting.
func (a *Applier) describe(c *Config, links map[int]*Link, dryRun bool) (report string, warnings []string, err error) {
	rules := c.ruleset(c.Interfaces, linkNames(links, true), links)
	choice, err := pickFirewall(a.option, a.mark, rules, a.run)
	if err != nil && os.Geteuid() != 0 {
		return "", []string{c.File + ": only root can look at the firewall, which is to open doors: run check as root"}, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", c.File, err)
	}
	choice = choice.fit(a.inspect(inspectLimit), rules)
	for _, w := range append(choice.Warnings, behindWarnings(rules)...) {
		warnings = append(warnings, c.File+": "+w)
	}
	for _, d := range c.Doors {
		if d.native() && !d.Hide && choice.idle {
			warnings = append(warnings, fmt.Sprintf("%s:%d: door %q: %s: everybody can reach its ports: write Hide = yes", c.File, d.Line, d.Name, nothingDrops))
		}
	}
	report = fmt.Sprintf("firewall: %v\n", choice)
	if !dryRun {
		return report, warnings, nil
	}
	calls := describeCalls(slices.Concat(choice.build(rules), choice.admit()))
	tracking := "these rules need no connection tracking"
	if strings.Contains(calls, "ct state") || strings.Contains(calls, "--ctstate") {
		tracking = "these rules switch connection tracking on"
	}
	report += tracking + "\nat its start serve would run:\n" + calls
	for _, d := range c.Doors {
		for _, source := range []string{"192.0.2.7", "2001:db8::7"} {
			calls := choice.open(Pass{Door: d.Name, Source: netip.MustParseAddr(source), Ports: d.OpenPorts, Behind: d.Behind, Left: d.CmdTimeout}, nil)
			if d.native() && calls != nil {
				report += fmt.Sprintf("to open door %q for %s it would run:\n%s", d.Name, source, describeCalls(calls))
			}
		}
	}
	where := "nft list table inet sesame"
	if ipt, ok := choice.Firewall.(iptablesFirewall); ok {
		where = strings.Join(ipt.tools[0].argv("-S "+ourChain), " ")
	}
	return report + "to see who is let in, run:\n    " + where + "\n", warnings, nil
}

// describeCalls prints calls as a shell would take them, indented.
func describeCalls(calls []Call) string {
	var s strings.Builder
	for _, c := range calls {
		for line := range strings.Lines(c.String()) {
			s.WriteString("    " + strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return s.String()
}

// describeDoor is one line that begins with the door's name and a colon. Only with secrets it shows the sequence; unused
// is how many one-time sequences there are.
func describeDoor(d *Door, unused int, secrets bool) string {
	var s strings.Builder
	switch {
	case d.OneTime != "":
		fmt.Fprintf(&s, "%s: %d one-time %s left in %s,", d.Name, unused, plural(unused, "sequence"), d.OneTime)
	case d.Sequence == nil: // it has keys
		fmt.Fprintf(&s, "%s:", d.Name)
	case secrets:
		fmt.Fprintf(&s, "%s: %s", d.Name, d.sequence())
	default:
		fmt.Fprintf(&s, "%s: %d %s", d.Name, len(d.Sequence), plural(len(d.Sequence), "knock"))
	}
	if d.Sequence != nil || d.OneTime != "" {
		fmt.Fprintf(&s, " within %v", d.SeqTimeout)
	}
	for i, k := range d.Keys {
		s.WriteString([]string{" by the key of ", ", "}[min(i, 1)] + k.Name)
	}
	if d.Strict {
		s.WriteString(", strictly")
	}
	for i, p := range d.Allow {
		s.WriteString([]string{" from ", ", "}[min(i, 1)] + p.String())
	}
	if d.Interfaces != nil {
		fmt.Fprintf(&s, " on %s", strings.Join(d.Interfaces, ", "))
	}
	start, stop := d.Start, d.Stop
	if start == "" {
		start, stop = d.Start6, d.Stop6
	}
	switch {
	case d.native():
		fmt.Fprintf(&s, ", opens %s for %v", strings.Join(d.opens(), ","), d.CmdTimeout)
		if d.Start+d.Start6+d.Stop+d.Stop6 != "" {
			s.WriteString(" and runs a command")
		}
		if d.Hide {
			s.WriteString(", hidden otherwise")
		}
		for i, p := range d.HideExcept {
			s.WriteString([]string{" except from ", ","}[min(i, 1)] + p.String())
		}
	case start == "":
		s.WriteString(", runs nothing")
	case stop == "":
		s.WriteString(", runs a command")
	default:
		fmt.Fprintf(&s, ", opens for %v", d.CmdTimeout)
	}
	if secrets {
		for _, c := range shellLines(d) {
			if c.line != "" {
				fmt.Fprintf(&s, "; %s = %s", c.name, c.line)
			}
		}
	}
	return s.String()
}

// hostWarnings are about what the configuration asks for and this host does not have.
func hostWarnings(c *Config, onlyIPv4 bool) (warnings []string) {
	warn := func(d *Door, directive, format string, a ...any) {
		warnings = append(warnings, fmt.Sprintf("%s:%d: door %q: ", c.File, d.line(directive), d.Name)+fmt.Sprintf(format, a...))
	}
	links, err := readLinks(true)
	if err == nil {
		for i, list := range c.lists(c.Interfaces) {
			at := c.InterfaceLine
			if i > 0 {
				at = c.Doors[slices.IndexFunc(c.Doors, func(d *Door) bool { return int(d.List) == i })].line("Interface")
			}
			for _, s := range linkStates([][]string{list}, links) {
				if s.odd() {
					warnings = append(warnings, fmt.Sprintf("%s:%d: %s", c.File, at, s.news(strings.Join(linkNames(links, false), ", "))))
				}
			}
		}
	}
	if err := notHandedOn(c); err != nil {
		warnings = append(warnings, fmt.Sprintf("%s: %v", c.File, err))
	}
	for _, chain := range []string{"input", "forward"} {
		file := fw4Includes + chain + "/sesame.nft"
		if text, err := os.ReadFile(file); err == nil && !(nftFirewall{mark: c.FirewallMark}).ours(string(text)) && slices.ContainsFunc(c.Doors, (*Door).native) {
			warnings = append(warnings, fmt.Sprintf("%s: Firewall_Mark is 0x%x, and %s lets another one in: who has knocked "+
				"stays out for a moment when fw4 reloads: write the mark there, too", c.File, c.FirewallMark, file))
		}
	}
	for _, d := range c.Doors {
		var missing []string
		for _, command := range shellLines(d) {
			if p := program(command.line); p != "" && !slices.Contains(missing, p) && !runs(p) {
				missing = append(missing, p)
				warn(d, command.name, "there is no program %q on this host", p)
			}
		}
		if !onlyIPv4 && c.listens6(d, links) && d.Lines["Start_Command_6"] == 0 && filepath.Base(program(d.Start)) == "iptables" && strings.Contains(d.Start, "%IP%") {
			warn(d, "Start_Command", "iptables fails for knocks over IPv6: write a Start_Command_6 with ip6tables, or one without a value")
		}
		if info, err := os.Stat(d.OneTime); err == nil {
			if othersRead(info) {
				warnings = append(warnings, fmt.Sprintf("%s: others can read it, and it holds the secret: chmod 600 %s", d.OneTime, d.OneTime))
			}
			if err := unix.Access(d.OneTime, unix.W_OK); err != nil {
				warnings = append(warnings, fmt.Sprintf("%s: writing it: %v: what cannot be marked as used opens nothing", d.OneTime, err))
			}
		}
	}
	return append(warnings, establishedWarning(c)...)
}

// listens6 reports whether a door can be knocked on over IPv6: an interface that it listens on has such an address.
func (c *Config) listens6(d *Door, links map[int]*Link) (yes bool) {
	for _, l := range links {
		yes = yes || namesWhole(c.lists(c.Interfaces)[d.List], l) && slices.ContainsFunc(l.Addresses, netip.Addr.Is6)
	}
	from6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	return yes && !d.Target.Is4() && (d.Allow == nil || slices.ContainsFunc(d.Allow, from6))
}

// establishedWarning tells of doors whose closing by iptables commands will stall live connections: the host's rules
// drop, and none accepts established connections. With native doors we do that. It says nothing where the rules cannot
// be read.
func establishedWarning(c *Config) (warnings []string) {
	i := slices.IndexFunc(c.Doors, func(d *Door) bool { return strings.Contains(d.Stop, "iptables") && !d.native() })
	if i < 0 {
		return nil
	}
	rules, _, err := execute([]string{"iptables", "-w", "-S"}, "", inspectLimit)
	if err != nil {
		return nil
	}
	// The accept may stand in a chain that INPUT jumps to, as with ufw. What such chains drop is mostly a few sources.
	drops, chains := false, []string{"INPUT"}
	for i := 0; i < len(chains); i++ {
		for rule := range strings.Lines(rules) {
			_, rest, _ := strings.Cut(rule, " ") // -A CHAIN ... -j TARGET, or -P CHAIN POLICY
			chain, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
			_, target, jumps := strings.Cut(" "+rest, " -j ")
			target, _, _ = strings.Cut(target, " ")
			switch {
			case chain != chains[i]:
			case i == 0 && (rest == "DROP" || target == "DROP" || target == "REJECT"):
				drops = true
			case target == "ACCEPT" && strings.Contains(rest, "ESTABLISHED"):
				return nil
			case jumps && !slices.Contains(chains, target):
				chains = append(chains, target)
			}
		}
	}
	if !drops {
		return nil
	}
	return []string{fmt.Sprintf("%s:%d: door %q: connections stall when it closes, as no rule accepts established ones: "+
		"iptables -I INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", c.File, c.Doors[i].line("Stop_Command"), c.Doors[i].Name)}
}

// shellLine is a command of a door, by its directive.
type shellLine struct{ name, line string }

func shellLines(d *Door) []shellLine {
	return []shellLine{{"Start_Command", d.Start}, {"Start_Command_6", d.Start6}, {"Stop_Command", d.Stop}, {"Stop_Command_6", d.Stop6}}
}

// program is the first word of a shell line where it plainly is a program's name or path, else "".
func program(line string) string {
	word := line
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		word = line[:i]
	}
	word = strings.TrimRight(word, ";")
	if strings.ContainsAny(word, "%$`'\"\\*?[]{}()<>|&;=!~") || strings.Contains(word, "/") && word[0] != '/' {
		return ""
	}
	return word
}

// runs reports whether a command of a door can begin with the word: a program, or a word of the shell's.
func runs(word string) bool {
	if word[0] == '/' {
		_, err := findProgram(word, nil)
		return err == nil
	}
	_, _, err := execute([]string{"/bin/sh", "-c", `command -v -- "$0"`, word}, "", inspectLimit)
	return err == nil
}
