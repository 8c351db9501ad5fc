package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxProfiles = 1000

// profile is whom the client knocks on, with what, and how: a section of the profiles file, or the command line.
type profile struct {
	knockOptions
	name     string
	line     int // of the section
	host     string
	ports    string // the sequence as it is written
	sequence []sentKnock
	oneTime  string // path of a file of one-time sequences, which hold instead, or ""
	totp     TOTP   // for totp in the sequence
	keys     string // the same: a key, as it is written, or ""
	open     string // what it asks for
	keyPort  uint16
	key      *keyKnock
}

// parseProfiles reads profiles in knockd's syntax. name stands in messages. The error is a configErrors with everything
// that is wrong, or that of reading r; there are no profiles then.
func parseProfiles(name string, r io.Reader) ([]*profile, error) {
	p := profileParser{ini: ini{file: name}}
	if err := p.read(r, p.start, p.set); err != nil {
		return nil, err
	}
	for i, to := range p.profiles {
		p.finish(p.sections[i], to)
	}
	if err := p.mistakes(); err != nil {
		return nil, err
	}
	return p.profiles, nil
}

// profileParser reads the language of the profiles: a section for each, with the client's options and some keys more.
type profileParser struct {
	ini
	profiles []*profile
	sections []*section // of the profiles
	keys     []option   // that the profile being read can have
}

func (p *profileParser) start(name string) *section {
	if name == "" || len(p.profiles) >= maxProfiles {
		p.fail("a profile needs a name: [name], and there can be %d of them", maxProfiles)
	}
	for _, other := range p.profiles {
		if other.name == name {
			p.fail("there is a profile %q on line %d already: give one of them another name", name, other.line)
		}
	}
	to := &profile{name: name, line: p.line, keyPort: defaultKeyPort}
	opts := to.options()
	p.keys = append([]option{
		stringOption(0, "host", "HOST", "", &to.host),
		stringOption(0, "sequence", "PORTS", "", &to.ports),
		stringOption(0, "one_time_sequences", "FILE", "", &to.oneTime),
		{long: "totp", arg: "SECRET", set: func(v string) (err error) {
			to.totp, err = parseTOTP(v)
			return err
		}},
		stringOption(0, "key", "KEYS", "", &to.keys),
		stringOption(0, "open", "PORTS", "", &to.open),
		numberOption(0, "key_port", "PORT", "", "", 1, 65535, func(n int) { to.keyPort = uint16(n) }),
		{long: "tcpflags", arg: "FLAGS", set: to.setFlags}, // as in knockd.conf
	}, opts[:len(opts)-4]...) // without list, show, version and help
	p.profiles, p.sections = append(p.profiles, to), append(p.sections, p.newSection(fmt.Sprintf("profile %q: ", name)))
	return p.sections[len(p.sections)-1]
}

func (p *profileParser) set(key, value string, hasValue bool) {
	if p.section == nil {
		p.fail("the first line is to be the [name] of a profile")
		return
	}
	name := strings.ReplaceAll(strings.ToLower(key), "-", "_")
	var names []string
	for _, o := range p.keys {
		names = append(names, o.long)
	}
	i := slices.Index(names, name)
	if i < 0 {
		p.failUnknown(key, hasValue, names)
		return
	}
	if name == "tcpflags" {
		name = "flags"
	}
	if before := p.note(name); before != 0 {
		p.fail("%s is on line %d already: delete one of the two", name, before)
	}
	value = withoutComment(value)
	yes, ok := parseYes(value)
	var err error
	switch {
	case p.keys[i].arg != "" || yes:
		err = p.keys[i].set(value)
	case !ok:
		err = errors.New("yes or no is needed")
	}
	if err != nil {
		// What stands behind a wrong key may be a sequence.
		text, _, _ := strings.Cut(err.Error(), ", not ")
		p.failSecret(value, "%s: %s", name, text)
	}
}

// finish reads the sequence, and looks at what needs the whole section.
func (p *profileParser) finish(s *section, to *profile) {
	wrong := s.wrong
	if to.ports != "" {
		p.at(s, "sequence")
		to.sequence = readSequence(&p.ini, to.ports, to.parseSentKnock)
	}
	p.at(s, "")
	if to.keys != "" {
		key, err := parseKeyKnock(to.keys, to.open)
		if err != nil {
			p.fail("%v", err)
		}
		to.key, to.sequence = &key, []sentKnock{{Knock: Knock{to.keyPort, udp}}}
	}
	to.host = strings.TrimSuffix(strings.TrimPrefix(to.host, "["), "]")
	_, notPort := parseKnock(to.host)
	err := to.contradictions(to.host, to.sequence, nil)
	switch {
	case wrong || to.ports != "" && to.sequence == nil: // what is missing may be the line that is
	case to.host == "" || strings.ContainsAny(to.host, " \t,") || notPort == nil:
		p.failSecret(to.host, "one host is needed: host = 192.0.2.1")
	case len(slices.DeleteFunc([]string{to.ports, to.oneTime, to.keys}, func(s string) bool { return s == "" })) != 1:
		p.fail("one of sequence, one_time_sequences and key is needed, and no other: sequence = 7000, 8000:udp, 9000")
	case slices.ContainsFunc(to.sequence, sentKnock.half) != (to.totp.secret != ""):
		p.fail("totp = SECRET and totp in the sequence need each other: sequence = 7000, totp")
	case to.keys == "" && to.open != "":
		p.fail("open is what a key asks for, and there is none: key = KEY_BASE64 HMAC_KEY_BASE64")
	case err != nil:
		p.fail("%v", err)
	}
}

// besideFile is a path that stands in a file: relative to its folder, or behind ~/ to the user's.
func besideFile(file, path string) string {
	folder := filepath.Dir(file)
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		folder, _ = os.UserHomeDir()
		path = rest
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(folder, path)
}

// profilesFile is where the profiles are.
func profilesFile() (string, error) {
	folder := os.Getenv("XDG_CONFIG_HOME")
	switch {
	case runtime.GOOS == "windows":
		if folder = os.Getenv("AppData"); folder == "" {
			return "", errors.New("looking for profiles: %AppData% is not set")
		}
	case !filepath.IsAbs(folder): // a relative path is to be ignored (XDG Base Directory Specification)
		home, _ := os.UserHomeDir()
		folder = home + "/.config"
	}
	return filepath.Join(folder, "sesame", "profiles"), nil
}

// readProfiles reads the profiles file, and warns if others can read it.
func readProfiles(warnings io.Writer) (file string, profiles []*profile, err error) {
	if file, err = profilesFile(); err != nil {
		return "", nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return file, nil, err
	}
	defer f.Close()
	checkPrivate(warnings, file)
	profiles, err = parseProfiles(file, f)
	return file, profiles, err
}

// findProfile returns the profile of that name, or nil, and the names of all.
func findProfile(name string, warnings io.Writer) (found *profile, file string, names []string, err error) {
	file, profiles, err := readProfiles(warnings)
	for _, p := range profiles {
		if p.name == name {
			found = p
		}
		names = append(names, p.name)
	}
	return found, file, names, err
}

// noProfiles says how to make the first one.
func noProfiles(file string) string {
	return fmt.Sprintf("there are no profiles in %s: sesame add makes one; or put lines such as these there, and let nobody else read it (chmod 600):\n%s",
		file, "[home]\nhost = 192.0.2.1\nsequence = 7000, 18000:udp, 9000\nverify = 22")
}

// checkPrivate warns of a file that others can read.
func checkPrivate(warnings io.Writer, path string) {
	if info, err := os.Stat(path); err == nil && info.Mode()&0o044 != 0 && runtime.GOOS != "windows" {
		fmt.Fprintf(warnings, "warning: %s: others can read it, and it holds the secret: chmod 600 %s\n", path, path)
	}
}

// listProfiles prints the name of each profile, its host, and the port that it verifies; nothing of its sequence.
func listProfiles(e env) error {
	file, profiles, err := readProfiles(e.stderr)
	switch {
	case errors.Is(err, os.ErrNotExist) || err == nil && len(profiles) == 0:
		return errors.New(noProfiles(file))
	case err != nil:
		return withoutSecrets(err)
	}
	for _, p := range profiles {
		verifies := ""
		if p.port != 0 {
			verifies = " verifies port " + strconv.Itoa(int(p.port))
		}
		fmt.Fprintf(e.stdout, "%-15s %s%s\n", p.name, p.host, verifies)
	}
	return nil
}

// parse reads the command line: HOST and its ports, or the name of a profile. Of a profile those options hold that the
// command line does not have. With --list it lists them and returns no profile.
func (o *knockOptions) parse(e env, args []string, command bool) (*profile, error) {
	opts := o.options()
	rest, err := getopt(args, opts)
	switch {
	case err != nil:
		return nil, err
	case o.list && len(args) > 1:
		return nil, usageError("--list takes no other arguments: it lists the profiles")
	case o.list:
		return nil, listProfiles(e)
	}
	host, sequence, err := o.parseArguments(rest)
	if err == nil {
		return &profile{host: host, sequence: sequence}, nil
	}
	wrong := usageError(err.Error())
	if len(rest) > 1 {
		return nil, wrong
	}
	name := ""
	if len(rest) == 1 {
		name = rest[0]
	}
	warnings := e.stderr
	if o.quiet {
		warnings = io.Discard
	}
	p, file, names, err := findProfile(name, warnings)
	switch {
	case name == "" && len(names) > 0:
		return nil, wrong + usageError("; or one of your profiles: "+strings.Join(names, ", "))
	case name == "" && (err == nil || errors.Is(err, os.ErrNotExist)):
		return nil, wrong + usageError("; "+noProfiles(file)+"\n")
	case name == "":
		return nil, wrong
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, err
	case p != nil:
		p.oneTime = besideFile(file, p.oneTime)
		checkPrivate(warnings, p.oneTime)
		return p, o.over(p.knockOptions, opts, args, command)
	}
	if strings.ContainsAny(name, ".:,") { // it was meant for a host
		return nil, wrong
	}
	where := fmt.Sprintf(" in %s%s", file, didYouMean(name, names))
	if err != nil {
		where = fmt.Sprintf(": %s does not exist: sesame add makes one", file)
	}
	return nil, usageError(fmt.Sprintf("no profile %q%s; otherwise %s", name, where, wrong))
}

// use returns what is to be knocked. A sequence of a one-time file is marked there as used before, on the disk, and is
// one that no other client has.
func (p *profile) use(o *knockOptions) (sequence []sentKnock, err error) {
	switch {
	case p.oneTime != "":
		sequence, err = p.takeOneTime(o)
	case p.ports != "": // the command line may have other flags than the profile
		sequence, _, err = o.parseSequence(p.ports)
	default:
		sequence = p.sequence
	}
	if err != nil {
		return nil, fmt.Errorf("nothing has been knocked: %w", err)
	}
	return sequence, nil
}

// code has the code of a step in the place of totp in a sequence.
func (p *profile) code(sequence []sentKnock, step uint32) []sentKnock {
	sequence = slices.Clone(sequence)
	i := slices.IndexFunc(sequence, sentKnock.half)
	for n, port := range p.totp.ports(p.totp.code(step)) {
		sequence[i+n].Port = port
	}
	return sequence
}

// showPorts prints what is to be knocked now, and for how long that holds: until two steps after the present one have begun.
func (p *profile) showPorts(e env) error {
	if p.totp.secret == "" {
		return usageError("--show is for a profile with totp in its sequence")
	}
	now := e.date()
	step := codeStep(time.Duration(now.UnixNano()))
	var ports []string
	for _, k := range p.code(p.sequence, step) {
		ports = append(ports, strings.TrimSuffix(k.String(), ":tcp"))
	}
	_, err := fmt.Fprintf(e.stdout, "%s %s\nfor %.0f seconds\n", p.host, strings.Join(ports, " "), (time.Duration(step+2)*codeTime - time.Duration(now.UnixNano())).Seconds())
	return err
}

func (p *profile) takeOneTime(o *knockOptions) (sequence []sentKnock, err error) {
	file := p.oneTime
	text, err := readOneTime(file)
	if err != nil {
		return nil, err
	}
	unused, mistakes := parseOneTime(file, text)
	if mistakes != nil {
		return nil, mistakes
	}
	for _, l := range unused {
		sequence = nil
		for _, k := range l.sequence {
			sequence = append(sequence, o.sent(k))
		}
		if err := o.contradictions(p.host, sequence, nil); err != nil {
			return nil, err
		}
		if err := useOneTime(file, l.sequence); err != errUsed {
			return sequence, err
		}
	}
	return nil, fmt.Errorf("all sequences in %s are used: write new ones into it, and into the daemon's file", file)
}
