//go:build linux && !pure

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The manual pages are mdoc(7). What the tests read of it is written in one way throughout: an option is "Fl c" or
// "Fl -config", one to each Fl, or several short ones as in "Fl hV"; the head of a list's item is one line.

// manPage is the lines of a page by the heading that they stand under; what .Ss begins is not part of the .Sh around
// it.
type manPage struct {
	name     string
	headings []string
	lines    map[string][]string
}

func readManPage(t *testing.T, name string) manPage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("man", name))
	if err != nil {
		t.Fatal(err)
	}
	p := manPage{name: name, lines: map[string][]string{}}
	heading := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if h, ok := cutMacro(line, "Sh", "Ss"); ok {
			heading = h
			p.headings = append(p.headings, h)
			continue
		}
		p.lines[heading] = append(p.lines[heading], line)
	}
	return p
}

func cutMacro(line string, macros ...string) (rest string, ok bool) {
	for _, m := range macros {
		if rest, ok = strings.CutPrefix(line, "."+m+" "); ok {
			return rest, true
		}
	}
	return line, false
}

// under are the lines under headings, of which each must be there; all lines without any.
func (p manPage) under(t *testing.T, headings ...string) (lines []string) {
	t.Helper()
	if headings == nil {
		headings = append([]string{""}, p.headings...)
	}
	for _, h := range headings {
		if p.lines[h] == nil && h != "" && !slices.Contains(p.headings, h) {
			t.Fatalf("%s: there is no heading %q", p.name, h)
		}
		lines = append(lines, p.lines[h]...)
	}
	return lines
}

// items are the heads of list items that begin with the macro, without it.
func items(lines []string, macro string) (heads []string) {
	for _, line := range lines {
		if head, ok := cutMacro(line, "It "+macro); ok {
			heads = append(heads, head)
		}
	}
	return heads
}

// macroOrMark is what may follow a macro's argument.
var macroOrMark = regexp.MustCompile(`^([A-Z][a-z]|[,.;:()|])$`)

// flagsIn are the options that lines speak of, as -c or --config.
func flagsIn(t *testing.T, lines []string) (flags []string) {
	t.Helper()
	for _, line := range lines {
		if !strings.HasPrefix(line, ".") {
			continue
		}
		words := strings.Fields(line[1:])
		for i, w := range words {
			if w != "Fl" {
				continue
			}
			if i+1 == len(words) || i+2 < len(words) && !macroOrMark.MatchString(words[i+2]) {
				t.Errorf("%s: Fl is to have one argument", line)
				continue
			}
			if long, ok := strings.CutPrefix(words[i+1], "-"); ok {
				flags = append(flags, "--"+long)
				continue
			}
			for _, c := range words[i+1] {
				flags = append(flags, "-"+string(c))
			}
		}
	}
	return flags
}

// names are the option as -c and --config.
func (o option) names() (names []string) {
	if o.short != 0 {
		names = append(names, "-"+string(o.short))
	}
	return append(names, "--"+o.long)
}

// item is the option as the head of a list's item, up to the name of its argument.
func (o option) item() string {
	s := "Fl -" + o.long
	if o.short != 0 {
		s = "Fl " + string(o.short) + " , " + s
	}
	if o.arg != "" {
		s += " Ns = Ns Ar"
	}
	return s
}

// checkOptionItems compares the options that a page lists with those of the code.
func checkOptionItems(t *testing.T, where string, lines []string, opts []option) {
	t.Helper()
	var got, want []string
	for _, head := range items(lines, "Fl") {
		head, _, _ = strings.Cut("Fl "+head+" ", " Ar ")
		if strings.HasSuffix(head, "= Ns") {
			head += " Ar"
		}
		got = append(got, strings.TrimSpace(head))
	}
	for _, o := range opts {
		want = append(want, o.item())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got options\n%s\nwant\n%s", where, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// checkOptionsKnown looks for options in the lines that are none.
func checkOptionsKnown(t *testing.T, where string, lines []string, opts []option) {
	t.Helper()
	var known []string
	for _, o := range opts {
		known = append(known, o.names()...)
	}
	for _, flag := range flagsIn(t, lines) {
		if !slices.Contains(known, flag) {
			t.Errorf("%s: there is no option %s", where, flag)
		}
	}
}

// checkSynopsis looks whether each option stands in the lines of a synopsis.
func checkSynopsis(t *testing.T, where string, lines []string, opts []option) {
	t.Helper()
	checkOptionsKnown(t, where, lines, opts)
	flags := flagsIn(t, lines)
	for _, o := range opts {
		if !slices.ContainsFunc(o.names(), func(name string) bool { return slices.Contains(flags, name) }) {
			t.Errorf("%s: option --%s is missing", where, o.long)
		}
	}
}

// TestManOptions has each option of each command in its page, and no other.
func TestManOptions(t *testing.T) {
	help := helpOptions()
	sesame, knock, conf := readManPage(t, "sesame.8"), readManPage(t, "knock.1"), readManPage(t, "knockd.conf.5")
	checkOptionItems(t, "sesame.8", sesame.under(t, "DESCRIPTION"), help)
	synopsis := map[string][]string{}
	command := ""
	for _, line := range sesame.under(t, "SYNOPSIS") {
		if name, ok := cutMacro(line, "Nm"); ok {
			command = strings.TrimPrefix(name, "sesame Cm ")
		}
		synopsis[command] = append(synopsis[command], line)
	}
	var all []option
	for _, c := range subcommands() {
		opts, where := c.opts(), "sesame.8: sesame "+c.name
		all = append(all, opts...)
		if synopsis[c.name] == nil {
			t.Errorf("%s is missing in the synopsis", where)
		}
		lines := sesame.under(t, "sesame "+c.name)
		switch {
		case c.name == "knock":
			checkOptionItems(t, "knock.1", knock.under(t, "DESCRIPTION"), opts)
			checkSynopsis(t, "knock.1: synopsis", knock.under(t, "SYNOPSIS"), opts)
			checkOptionsKnown(t, "knock.1", knock.under(t), opts)
			continue
		case c.name == "serve":
			checkOptionsKnown(t, "knockd.conf.5", conf.under(t), opts)
		}
		own := opts[:len(opts)-len(help)]
		checkOptionItems(t, where, lines, own)
		checkOptionsKnown(t, where, lines, opts)
		if len(own) > 0 {
			checkSynopsis(t, where+": synopsis", synopsis[c.name], opts)
		}
	}
	checkOptionsKnown(t, "sesame.8", sesame.under(t), all)
	for name := range synopsis {
		if name != "knockd" && !slices.ContainsFunc(subcommands(), func(c subcommand) bool { return c.name == name }) {
			t.Errorf("sesame.8: synopsis: there is no command %q", name)
		}
	}
}

// TestManDirectives has each directive in the part of knockd.conf(5) for its section, with its other name, and no
// other.
func TestManDirectives(t *testing.T) {
	page := readManPage(t, "knockd.conf.5")
	listed := func(headings ...string) (names []string) {
		for _, head := range items(page.under(t, headings...), "Ic") {
			name, _, _ := strings.Cut(head, " =")
			name, _, _ = strings.Cut(name, " Op")
			names = append(names, name)
		}
		return names
	}
	options, doors := listed("OPTIONS"), listed("What opens it", "What is opened")
	known := map[string]bool{}
	for _, d := range directives {
		name := d.name
		if d.alias != "" {
			name += " , " + d.alias
		}
		known[name] = true
		if got := slices.Contains(options, name); got != d.inOption {
			t.Errorf("%s in the list of options: got %v, want %v", name, got, d.inOption)
		}
		// UseSyslog in a door is explained among the options.
		if got := slices.Contains(doors, name); got != d.inDoor && name != "UseSyslog" {
			t.Errorf("%s in the lists of doors: got %v, want %v", name, got, d.inDoor)
		}
	}
	for _, name := range slices.Concat(options, doors) {
		if !known[name] {
			t.Errorf("there is no directive %q", name)
		}
	}
	knockd := regexp.MustCompile(`^(UseSyslog|LogFile|PidFile|Interface|Sequence|One_Time_Sequences|Seq_Timeout|TCPFlags|Target|(Start|Stop)_Command(_6)?|Cmd_Timeout)\b`)
	for heading, n := range map[string]int{"OPTIONS": 4, "What opens it": 5, "What is opened": 5} {
		for i, name := range listed(heading) {
			if i < n != knockd.MatchString(name) && heading+name != "What opens itInterface" { // knockd knows it among the options
				t.Errorf("%s: %s is item %d: knockd's come first", heading, name, i+1)
			}
		}
	}
	for _, line := range page.under(t) { // wherever the text names one
		if rest, ok := cutMacro(line, "Ic"); ok {
			name, _, _ := strings.Cut(rest, " ")
			if _, ok := findDirective(name); !ok {
				t.Errorf("%s: there is no directive %q", line, name)
			}
		}
	}
}

// literalBlocks are the displays of a page that a comment before them calls by that kind, as they are printed.
func literalBlocks(t *testing.T, page manPage, kind string) (blocks []string) {
	t.Helper()
	lines := page.under(t)
	for i := range lines {
		if !strings.HasPrefix(lines[i], ".Bd -literal") || lines[i-1] != `.\" `+kind {
			continue
		}
		n := slices.Index(lines[i:], ".Ed")
		text := strings.NewReplacer(`\-`, "-").Replace(strings.Join(lines[i+1:i+n], "\n") + "\n")
		if strings.Contains(text, `\`) {
			t.Errorf("%s: an escape that this test does not know: %s", page.name, text)
		}
		blocks = append(blocks, text)
	}
	return blocks
}

// TestManConfigurations reads every example: there is nothing to say against it.
func TestManConfigurations(t *testing.T) {
	page := readManPage(t, "knockd.conf.5")
	configurations, oneTime := literalBlocks(t, page, "configuration"), literalBlocks(t, page, "one-time")
	for _, text := range configurations {
		c, err := parseConfig("example", strings.NewReader(text))
		if err != nil || len(c.Warnings) > 0 || len(c.Doors) == 0 {
			t.Errorf("got %v, warnings %q, want a configuration with doors:\n%s", err, c.Warnings, text)
		}
	}
	for _, text := range oneTime {
		if unused, mistakes := parseOneTime("example", []byte(text)); mistakes != nil || len(unused) != 2 {
			t.Errorf("got %d lines left, %v, want 2 and no mistake:\n%s", len(unused), mistakes, text)
		}
	}
	all := 0
	for _, line := range page.under(t) {
		if strings.HasPrefix(line, ".Bd") {
			all++
		}
	}
	if len(configurations) < 3 || len(oneTime) == 0 || len(configurations)+len(oneTime) != all {
		t.Errorf("got %d configurations and %d one-time files in %d displays, want each display to be one of them",
			len(configurations), len(oneTime), all)
	}
}

// TestManProfiles has each key of a profile in knock(1), and no other, and its example is a profile.
func TestManProfiles(t *testing.T) {
	lines := readManPage(t, "knock.1").under(t, "PROFILES")
	var listed []string
	for _, head := range items(lines, "Ic") {
		listed = append(listed, strings.Split(head, " , ")...)
	}
	names := append([]string{"host", "sequence", "one_time_sequences", "key", "open", "key_port", "tcpflags"}, listed...)
	for _, o := range new(knockOptions).options() {
		names = append(names, o.long)
	}
	for _, name := range names {
		_, err := parseProfiles("profiles", strings.NewReader("[a]\n"+name+" = ?\n"))
		if err == nil {
			t.Fatalf("%s = ? is no mistake", name)
		}
		known := !strings.Contains(err.Error(), "unknown directive")
		if got := slices.Contains(listed, name); got != known {
			t.Errorf("%s in the list: got %v, want %v", name, got, known)
		}
	}
	_, example, _ := strings.Cut(strings.Join(lines, "\n"), "\n.Bd -literal -offset indent\n")
	example, _, _ = strings.Cut(example, "\n.Ed")
	if profiles, err := parseProfiles("profiles", strings.NewReader(example)); err != nil || len(profiles) != 1 {
		t.Errorf("the example: got %v, %v, want one profile", profiles, err)
	}
}

// TestManCommands has the environment of a door's commands, and what is replaced in them, in knockd.conf(5).
func TestManCommands(t *testing.T) {
	lines := readManPage(t, "knockd.conf.5").under(t, "COMMANDS")
	command := func(line string) Command {
		return doorCommand(line, Grant{Door: &Door{Name: "ssh"}, Source: netip.MustParseAddr("192.0.2.7"), User: "alice"})
	}
	var want []string
	for _, v := range slices.Concat(command("").Env, inherited(nil)) {
		name, value, _ := strings.Cut(v, "=")
		want = append(want, name)
		if dirs := strings.ReplaceAll(value, ":", " , "); name == "PATH" && !slices.Contains(lines, ".Pa "+dirs+" .") {
			t.Errorf("the default of PATH, %s, is missing", value)
		}
	}
	got := items(lines, "Ev")
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("variables: got %q, want %q", got, want)
	}
	escapes := regexp.MustCompile(`%\w+%`).FindAllString(strings.Join(lines, "\n"), -1)
	if len(escapes) == 0 {
		t.Error("no escape is explained")
	}
	for _, e := range escapes {
		if command(e).Line != "192.0.2.7" {
			t.Errorf("%s is not replaced by the source", e)
		}
	}
}

// TestManStatus has each member of what status --json prints in sesame(8).
func TestManStatus(t *testing.T) {
	full := troubledStatus()
	full.Links = testStatus().Links
	var printed map[string]any
	if err := json.Unmarshal([]byte(full.json()), &printed); err != nil {
		t.Fatal(err)
	}
	inCode, inPage := map[string]bool{}, map[string]bool{}
	for name, value := range printed {
		inCode[name] = true
		if list, ok := value.([]any); ok {
			value = list[0]
		}
		members, _ := value.(map[string]any)
		for member := range members {
			inCode[name+"."+member] = true
		}
	}
	parent := ""
	depth := 0
	for _, line := range readManPage(t, "sesame.8").under(t, "sesame status") {
		name, isMember := cutMacro(line, "It Va")
		switch {
		case strings.HasPrefix(line, ".Bl"):
			depth++
		case line == ".El":
			depth--
		case isMember && depth == 2: // within the list of options
			parent = name
			inPage[parent] = true
		case isMember:
			inPage[parent+"."+name] = true
		}
	}
	if len(inCode) < 25 {
		t.Errorf("got %d members", len(inCode))
	}
	for name := range inCode {
		if !inPage[name] {
			t.Errorf("%s is missing", name)
		}
	}
	for name := range inPage {
		if !inCode[name] {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestManFiles has the files that the program uses in sesame(8).
func TestManFiles(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	j, err := openJournal(state)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if err := os.WriteFile(j.path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := j.read(); err != nil {
		t.Fatal(err)
	}
	if err := j.noteFirewall(nil); err != nil {
		t.Fatal(err)
	}
	if err := (&codeSteps{state + "/codes", bootTime, time.Now, func() bool { return true }}).use("key", codeStep(time.Duration(time.Now().UnixNano()))); err != nil {
		t.Fatal(err)
	}
	j.keepTable("table inet sesame {\n}\n")
	if err := os.WriteFile(j.packetsFile(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	lock, err := lockFirewall(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.remove()
	want := []string{defaultConfigFile, manifestFile, "/etc/default/knockd", "/etc/sysconfig/knockd", "/etc/conf.d/sesame", "/etc/conf.d/knock", "/etc/config/sesame", defaultControl, defaultPidFile, defaultPidFile + ".lock", syslogSocket, keptOnRouter, "/var/lib/sesame/good.conf", keptOnRouter + triedSuffix, "/var/lib/sesame/good.conf" + triedSuffix,
		filepath.Dir(defaultControl) + strings.TrimRight(strings.TrimPrefix(lock.path, folder), "0123456789") + "*"}
	made, err := os.ReadDir(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range made {
		want = append(want, filepath.Join(realEnv().stateDirs[0], f.Name()))
	}
	got := items(readManPage(t, "sesame.8").under(t, "FILES"), "Pa")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestManSignals has the signals that serve follows, and the exit statuses.
func TestManSignals(t *testing.T) {
	source, err := os.ReadFile("serve.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`signal\.Notify\([\w.]+, (unix\..*)\)`).FindAllStringSubmatch(string(source), -1) {
		want = append(want, strings.Split(strings.ReplaceAll(m[1], "unix.", ""), ", ")...)
	}
	page := readManPage(t, "sesame.8")
	if got := items(page.under(t, "sesame serve"), "Dv"); len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("signals: got %q, want %q", got, want)
	}
	client := readManPage(t, "knock.1")
	for _, page := range []manPage{page, client} {
		want := []string{"0", "1", "2"}
		if page.name == client.name {
			want = append(want, fmt.Sprint(int(statusShut)))
		}
		var got []string
		for _, line := range page.under(t, "EXIT STATUS") {
			if status, ok := cutMacro(line, "It"); ok {
				got = append(got, status)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: exit statuses: got %q, want %q", page.name, got, want)
		}
	}
}

// inManDiagnostics are the words of the pages' DIAGNOSTICS that stand for something else.
var inManDiagnostics = regexp.MustCompile(
	`\b(ADDRESS|OUTCOME|DOOR|TIME|PORTS|REASON|COMMAND|TEXT|NAME|LIST|FILE|TOOL|SOCKET|N lines|N)\b`)

// TestManDiagnostics has only lines there that the program prints.
func TestManDiagnostics(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
	}
	for _, name := range []string{"sesame.8", "knock.1", "knockd.conf.5"} {
		seen := 0
		for _, line := range readManPage(t, name).under(t, "DIAGNOSTICS") {
			said, ok := cutMacro(line, "It")
			if !ok {
				continue
			}
			seen++
			for _, part := range inManDiagnostics.Split(said, -1) {
				if !strings.Contains(code.String(), strings.TrimPrefix(part, ": ")) { // the door's name may be put before it
					t.Errorf("%s: %s: no code prints %q", name, said, part)
				}
			}
		}
		if seen == 0 {
			t.Errorf("%s has none", name)
		}
	}
}

// TestManNumbers has the bounds and defaults of the code in the pages.
func TestManNumbers(t *testing.T) {
	text := func(name string, headings ...string) string {
		var s []string
		for _, line := range readManPage(t, name).under(t, headings...) {
			if strings.HasPrefix(line, ".It ") || !strings.HasPrefix(line, ".") {
				s = append(s, line)
			}
		}
		return strings.Join(s, " ")
	}
	conf, doors := text("knockd.conf.5"), text("knockd.conf.5", "What opens it", "What is opened")
	var o knockOptions
	o.options()
	for _, tt := range []struct{ in, want string }{
		{conf, fmt.Sprintf("whole numbers from 0 to %d", maxSeconds)},
		{conf, fmt.Sprintf("such as 0x%x, which is the default", defaultMark)},
		{doors, fmt.Sprintf("The 1 to %d knocks", maxKnocks)},
		{doors, fmt.Sprintf("The 1 to %d ports", maxOpenPorts)},
		{doors, fmt.Sprintf("at most %d, for which nothing is hidden", maxHideExcept)},
		{doors, fmt.Sprintf("so long after its first knock. The default is %d.", defaultSeqTimeout/time.Second)},
		{doors, fmt.Sprintf("With a code in it, it is %d.", codeSeqTimeout/time.Second)},
		{doors, fmt.Sprintf("from 1 to %d. The base is %d unless", 1<<16-codeHalves, defaultBase)},
		{conf, fmt.Sprintf("After %d wrong codes within an hour", wrongCodes)},
		{conf, map[int]string{20000: "After 20,000 it asks for three"}[manyWrong]},
		{conf, map[time.Duration]string{5 * time.Minute: "one of up to five minutes ago or ahead"}[farSteps*codeTime]},
		{doors, fmt.Sprintf("How long the door is open. The default is %d.", defaultCmdTimeout/time.Second)},
		{doors, fmt.Sprintf("at once, from 1 to %d. The default is %d.", maxMaxOpen, defaultMaxOpen)},
		{conf, fmt.Sprintf("The first %d bytes", maxOutput)},
		{conf, fmt.Sprintf("Up to %d start commands run at once, %d of them of one door", maxRunning, maxRunningDoor)},
		{conf, map[time.Duration]string{time.Minute: "run a minute longer than"}[startGrace]},
		{conf, map[time.Duration]string{10 * time.Minute: "command is ended after ten minutes"}[stopLimit]},
		{conf, map[int]string{8: "at most eight times within an hour"}[maxTries*int(maxTrying/time.Hour)]},
		{conf, map[int]string{1 << 20: "It has at most 1 MB"}[maxOneTimeSize]},
		{text("sesame.8"), map[time.Duration]string{10 * time.Second: "within ten seconds"}[stopDeadline]},
		{text("knock.1"), fmt.Sprintf("The default is %d.", o.delay.Milliseconds())},
		{text("knock.1"), fmt.Sprintf("The 1 to %d knocks", maxKnocks)},
	} {
		if tt.want == "" || !strings.Contains(tt.in, tt.want) {
			t.Errorf("%q is missing, or not so any more", tt.want)
		}
	}
}

// TestManExamples reads the options of each command line in the examples.
func TestManExamples(t *testing.T) {
	for name, prompt := range map[string]string{"sesame.8": "# ", "knock.1": "$ "} {
		tried := 0
		for _, line := range readManPage(t, name).under(t, "EXAMPLES") {
			line = strings.ReplaceAll(strings.TrimPrefix(line, ".Dl "), `\-`, "-")
			line, ok := strings.CutPrefix(line, prompt)
			if !ok {
				continue
			}
			for _, one := range strings.Split(line, " && ") {
				words := strings.Fields(one)
				if words[0] == "sesame" {
					words = words[1:]
				}
				for _, c := range subcommands() {
					if words[0] != c.name && words[0] != c.alias {
						continue
					}
					tried++
					if _, err := getopt(words[1:], c.opts()); err != nil {
						t.Errorf("%s: %s: %v", name, one, err)
					}
				}
			}
		}
		if tried < 2 {
			t.Errorf("%s: got %d command lines in the examples", name, tried)
		}
	}
}

// TestManLint has mandoc find nothing in the pages, but for pages of others that this machine does not have.
func TestManLint(t *testing.T) {
	if _, err := exec.LookPath("mandoc"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must have mandoc: make test installs it")
		}
		t.Skip("needs mandoc: apt install mandoc")
	}
	pages, err := filepath.Glob("man/*")
	if err != nil || len(pages) != 3 {
		t.Fatalf("got pages %q, %v, want 3", pages, err)
	}
	var out, complaint bytes.Buffer
	cmd := exec.Command("mandoc", append([]string{"-T", "lint"}, pages...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil && exitStatus(err) != 1 { // 1 is for remarks on style
		t.Errorf("mandoc: %v: %s%s", err, out.String(), complaint.String())
	}
	for line := range strings.Lines(out.String()) {
		if !strings.Contains(line, "STYLE: referenced manual not found: ") {
			t.Error(line)
		}
	}
}
