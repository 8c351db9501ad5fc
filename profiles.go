package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// profile is whom the client knocks on, with what, and how: a section of the profiles file, or the command line.
type profile struct {
	section
	knockOptions
	line     int // of the section
	host     string
	ports    string // the sequence as it is written
	sequence []sentKnock
	oneTime  string // path of a file of one-time sequences, which hold instead, or ""
}

// keys are the options that a profile can have, and what else there is in it.
func (to *profile) keys() []option {
	opts := to.options()
	return append(opts[:len(opts)-3], // without list, version and help
		option{0, "tcpflags", "FLAGS", "", to.setFlags}, // as in knockd.conf
		stringOption(0, "host", "HOST", "", &to.host),
		stringOption(0, "sequence", "PORTS", "", &to.ports),
		stringOption(0, "one_time_sequences", "FILE", "", &to.oneTime))
}

// parseProfiles reads profiles in knockd's syntax. name stands in messages. The error is a configErrors with everything
// that is wrong, or that of reading r; there are no profiles then.
func parseProfiles(name string, r io.Reader) ([]*profile, error) {
	p := parser{kind: "profile", config: &Config{File: name}, keys: new(profile).keys()}
	if err := p.read(r); err != nil {
		return nil, err
	}
	for _, to := range p.profiles {
		p.finishProfile(to)
	}
	if err := p.mistakes(); err != nil {
		return nil, err
	}
	return p.profiles, nil
}

func (p *parser) startProfile(name string) {
	if name == "" {
		p.fail("a profile needs a name: [name]")
	}
	for _, other := range p.profiles {
		if other.name == name {
			p.fail("a profile %q stands on line %d already: give one of them another name", name, other.line)
		}
	}
	to := &profile{line: p.line}
	to.name, to.seen = name, map[string]int{}
	p.open, p.keys = &to.section, to.keys()
	p.profiles = append(p.profiles, to)
}

func (p *parser) setKey(key, value string, hasValue bool) {
	name := strings.ReplaceAll(strings.ToLower(key), "-", "_")
	var set func(string) error
	var names []string
	for _, k := range p.keys {
		names = append(names, k.long)
		if k.long != name {
			continue
		}
		if set = k.set; k.arg == "" {
			set = func(value string) error {
				yes, ok := parseYes(value)
				if !ok {
					return errors.New("yes or no is wanted")
				}
				if yes {
					return k.set("")
				}
				return nil
			}
		}
	}
	switch {
	case set == nil:
		p.failUnknown(key, hasValue, names)
	case p.open == nil:
		p.fail("%s stands before the first section: write a profile's [name] above it", name)
	case p.open.seen[name] != 0:
		p.fail("%s stands on line %d already: delete one of the two", name, p.open.seen[name])
	default:
		p.open.seen[name] = p.line
		value = withoutComment(value)
		if err := set(value); err != nil {
			// What stands behind a wrong key may be a sequence.
			text, _, _ := strings.Cut(err.Error(), ", not ")
			p.failSecret(value, "%s: %s", name, text)
		}
	}
}

// finishProfile reads the sequence, and looks at what needs the whole section.
func (p *parser) finishProfile(to *profile) {
	p.open, p.line = &to.section, to.seen["sequence"]
	wrong := to.wrong
	if to.ports != "" {
		p.eachKnock(to.ports, func(item string) error {
			k, err := to.parseSentKnock(item)
			to.sequence = append(to.sequence, k)
			return err
		})
	}
	p.line = to.line
	to.host = strings.TrimSuffix(strings.TrimPrefix(to.host, "["), "]")
	_, notPort := parseKnock(to.host, tcp)
	err := to.contradictions(to.sequence, nil)
	switch {
	case wrong: // what is missing may be the line that is
	case to.host == "" || strings.ContainsAny(to.host, " \t,") || notPort == nil:
		p.failSecret(to.host, "one host is needed: host = 192.0.2.1")
	case (to.ports == "") == (to.oneTime == ""):
		p.fail("one of sequence and one_time_sequences is needed, and not both: sequence = 7000, 8000:udp, 9000")
	case err != nil:
		p.fail("%v", err)
	}
}

// besideFile is a path that stands in a file: relative to its folder, or behind ~/ to the user's.
func besideFile(file, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, _ := os.UserHomeDir()
		return filepath.Join(home, rest)
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), path)
}

// profilesFile is where the client's profiles are.
func profilesFile() (string, error) {
	folder := os.Getenv("XDG_CONFIG_HOME")
	var err error
	switch {
	case runtime.GOOS == "windows":
		folder, err = os.UserConfigDir()
	case !filepath.IsAbs(folder): // a relative path is to be ignored (XDG Base Directory Specification)
		folder, err = os.UserHomeDir()
		folder += "/.config"
	}
	return filepath.Join(folder, "sesame", "profiles"), err
}

// readProfiles reads the profiles file, and warns if others can read it.
func readProfiles(e env) (file string, profiles []*profile, err error) {
	if file, err = profilesFile(); err != nil {
		return "", nil, fmt.Errorf("looking for profiles: %w", err)
	}
	f, err := os.Open(file)
	if err != nil {
		return file, nil, err
	}
	defer f.Close()
	e.checkPrivate(file)
	profiles, err = parseProfiles(file, f)
	return file, profiles, err
}

// checkPrivate warns of a file that others can read.
func (e env) checkPrivate(path string) {
	if info, err := os.Stat(path); err == nil && info.Mode()&0o044 != 0 && runtime.GOOS != "windows" {
		fmt.Fprintf(e.stderr, "warning: %s: others can read it, and it holds the secret: chmod 600 %s\n", path, path)
	}
}

// listProfiles prints the name of each profile, its host, and the port that it verifies; nothing of its sequence.
func listProfiles(e env) error {
	file, profiles, err := readProfiles(e)
	if err != nil {
		return withoutSecrets(err)
	}
	if len(profiles) == 0 {
		return fmt.Errorf("there are no profiles in %s", file)
	}
	for _, p := range profiles {
		verifies := ""
		if p.verify != 0 {
			verifies = fmt.Sprintf(" verifies port %d", p.verify)
		}
		fmt.Fprintf(e.stdout, "%-15s %s%s\n", p.name, p.host, verifies)
	}
	return nil
}

// parse reads the command line: HOST and its ports, or the name of a profile. Of a profile those options hold that the
// command line does not have. With --list it lists them and returns no profile.
func (o *knockOptions) parse(e env, args []string) (*profile, error) {
	opts := o.options()
	rest, err := getopt(args, opts)
	switch {
	case err != nil:
		return nil, err
	case o.list && len(args) > 1:
		return nil, usageError("--list stands alone: it lists the profiles")
	case o.list:
		return nil, listProfiles(e)
	}
	host, sequence, wrong := o.parseArguments(rest)
	if wrong == nil {
		return &profile{host: host, sequence: sequence}, nil
	}
	if len(rest) != 1 {
		return nil, usageError(wrong.Error())
	}
	name := rest[0]
	if o.quiet {
		e.stderr = io.Discard
	}
	file, profiles, err := readProfiles(e)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, p := range profiles {
		if p.name == name {
			p.oneTime = besideFile(file, p.oneTime)
			e.checkPrivate(p.oneTime)
			return p, o.over(p, opts, args)
		}
		names = append(names, p.name)
	}
	text := wrong.Error()
	if !strings.ContainsAny(name, ".:,") { // else it was meant for a host
		hint := didYouMean(name, names)
		if err != nil {
			hint = ", which is not there"
		}
		text = fmt.Sprintf("no profile %q in %s%s; else %s", name, file, hint, text)
	}
	return nil, usageError(text)
}

// over has the options of the command line, which opts set in o, win over those of the profile.
func (o *knockOptions) over(p *profile, opts []option, args []string) error {
	given := *o
	*o = p.knockOptions
	_, err := getopt(args, opts)
	// Of what excludes each other, the command line has no way to take back what the profile has.
	if given.ipv4 || given.ipv6 {
		o.ipv4, o.ipv6 = given.ipv4, given.ipv6
	}
	if given.quiet || given.verbose {
		o.quiet, o.verbose = given.quiet, given.verbose
	}
	if given.verify != 0 {
		o.stdio = given.stdio
	}
	return err
}

// use returns what is to be knocked. A sequence of a one-time file is marked there as used before, on the disk, and is
// one that no other client has.
func (p *profile) use(o *knockOptions) (sequence []sentKnock, err error) {
	switch {
	case p.oneTime != "":
		sequence, err = takeOneTime(p.oneTime, o)
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

func takeOneTime(file string, o *knockOptions) (sequence []sentKnock, err error) {
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
		if err := o.contradictions(sequence, nil); err != nil {
			return nil, err
		}
		if err := useOneTime(file, l.sequence); err != errUsed {
			return sequence, err
		}
	}
	return nil, fmt.Errorf("all sequences in %s are used: write new ones into it, and into the daemon's file", file)
}
