//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The journal is what is open, on the disk, so that it is closed whatever happens to the daemon. It is a text file:
//
//	sesame journal 1 BOOT-ID NETNS-INODE<tab>SUM
//	"DOOR"<tab>SOURCE<tab>"LINK"<tab>STATE<tab>SINCE<tab>UNTIL<tab>"START"<tab>"STOP"<tab>PORTS<tab>TRIES<tab>PID<tab>BEGAN<tab>SUM
//	end 1<tab>SUM
//
// with a line for each entry: strings as strconv.Quote writes them, times in nanoseconds, ports as 22:tcp, or as Behind
// prints them with ; for blanks, with blanks between them, numbers decimal. SUM is the line's checksum, so that damage to
// one line leaves the others readable. The last line has how many entries there are; its checksum is that of the whole
// file before it.

const (
	journalVersion = 1
	maxJournalSize = 16 << 20 // bytes
)

// Entry is one opening of a door as the journal has it: what will close it.
type Entry struct {
	Door         string
	Source       netip.Addr // no zone
	Link         string     // the interface that the knock came in on
	State        OpeningState
	Since, Until time.Duration // CLOCK_BOOTTIME
	Start, Stop  string        // shell lines as the configuration has them; "" is none
	Ports        []Knock       // of a native door
	Behind       []Behind      // the same, on hosts behind this one
	Tries        int           // how often its closing has failed
	Pid          int           // of the command that runs; 0: none
	Began        uint64        // when that process was started, in clock ticks since boot (proc_pid_stat(5), starttime)
}

// OpeningState is how far an opening is.
type OpeningState uint8

const (
	Starting OpeningState = iota // let in by the firewall, then the start command
	Open                         // until the time is up
	Closing                      // shut out by the firewall, and the stop command
)

var openingStates = []string{Starting: "starting", Open: "open", Closing: "closing"}

func (s OpeningState) String() string { return openingStates[s] }

// openKey tells openings apart. It has what is done and not the door, so that a door is still the same one after a
// reload, unless that has changed.
type openKey struct {
	door, start, stop, ports string
	source                   netip.Addr
	link                     string // of a link-local source
}

// retryAfter is the pause before a journal that could not be written is tried again, and a stop command that could not be
// started (no memory, no process).
const retryAfter = time.Second

// journalWriter says when the journal is to be written.
type journalWriter struct {
	save  func([]Entry) error // nil: there is none
	dirty bool                // it is not what it should be
	after time.Duration       // not written before, after it could not be, except for a new opening
}

// touch takes note that the journal is to have something else.
func (w *journalWriter) touch() { w.dirty = true }

// configure takes up a journal, or another one.
func (w *journalWriter) configure(save func([]Entry) error) { w.save = save }

// due is whether the journal is to be written now. opens is whether something waits for that.
func (w *journalWriter) due(now time.Duration, opens bool) bool {
	return w.save != nil && w.dirty && (now >= w.after || opens)
}

// next is when it will be.
func (w *journalWriter) next() time.Duration {
	if w.save == nil || !w.dirty {
		return never
	}
	return w.after
}

// write has the entries written.
func (w *journalWriter) write(now time.Duration, entries []Entry) error {
	err := w.save(entries)
	if w.dirty = err != nil; w.dirty {
		w.after = now + retryAfter
	}
	return err
}

// scope is where a journal's times, processes and rules mean something.
type scope struct {
	boot  string // the kernel's random number for this boot
	netns uint64 // the network namespace's inode; 0: this kernel has none
}

// unknownScope stands for one that cannot be read.
var unknownScope = scope{boot: "unknown"}

// currentScope is where the daemon runs.
func currentScope() (scope, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return scope{}, fmt.Errorf("telling this boot from others: %w: /proc must be mounted", err)
	}
	at := scope{boot: strings.TrimSpace(string(boot))}
	// Not /proc/self: that is the first thread, which may be one that has gone elsewhere and never come back (onThread).
	var ns unix.Stat_t
	switch err := unix.Stat("/proc/thread-self/ns/net", &ns); err {
	case nil:
		at.netns = ns.Ino
	case unix.ENOENT: // built without CONFIG_NET_NS
	default:
		return scope{}, fmt.Errorf("telling this network namespace from others: %w", err)
	}
	return at, nil
}

// checksum is FNV-1a of 64 bits, in hexadecimal, and the end of the line. Each step of it maps states one to one, so
// that no change of a single byte goes unnoticed.
func checksum(s string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return fmt.Sprintf("%016x\n", h.Sum64())
}

func sealed(line string) string { return line + "\t" + checksum(line) }

// formatJournal writes a journal.
func formatJournal(at scope, entries []Entry) []byte {
	text := []byte(at.line())
	for _, e := range entries {
		text = append(text, e.line()...)
	}
	text = fmt.Appendf(text, "end %d", len(entries))
	return fmt.Appendf(text, "\t%s", checksum(string(text)))
}

func (s scope) line() string {
	return sealed(fmt.Sprintf("sesame journal %d %s %d", journalVersion, s.boot, s.netns))
}

func (e Entry) line() string {
	return sealed(fmt.Sprintf("%q\t%v\t%q\t%v\t%d\t%d\t%q\t%q\t%s\t%d\t%d\t%d", e.Door, e.Source, e.Link, e.State, int64(e.Since),
		int64(e.Until), e.Start, e.Stop, e.ports(), e.Tries, e.Pid, e.Began))
}

func (e Entry) ports() string {
	words := []string{}
	for _, k := range e.Ports {
		words = append(words, k.String())
	}
	for _, b := range e.Behind {
		words = append(words, strings.ReplaceAll(b.String(), " ", ";"))
	}
	return strings.Join(words, " ")
}

// native is whether it opens ports.
func (e Entry) native() bool { return len(e.Ports)+len(e.Behind) > 0 }

// errNewer is that a journal is one of a version not known here.
var errNewer = errors.New("written by a newer sesame")

// damagedJournal is an error: a journal is not as it was written.
type damagedJournal struct {
	first string // line that is not, and why
	lines int    // how many are not
	gone  int    // how many of these were entries
	// lost are the doors whose entries cannot be read and may have had a stop command: quoted names, or unknownDoor.
	lost []string
}

const (
	unknownDoor = "one of unknown name"
	maxLostName = 1000 // bytes; a longer one is damage
)

func (d *damagedJournal) Error() string {
	if d.lines > 1 {
		return fmt.Sprintf("%s (the first of %d damaged lines)", d.first, d.lines)
	}
	return d.first
}

// lose notes what a damaged line had.
func (d *damagedJournal) lose(line string) {
	d.gone++
	fields := strings.Split(line, "\t")
	if len(fields) == 13 && fields[7] == `""` {
		return // no stop command, and what the firewall has is found there
	}
	door := unknownDoor
	if name, err := strconv.Unquote(fields[0]); err == nil && len(name) <= maxLostName {
		door = strconv.Quote(name)
	}
	if !slices.Contains(d.lost, door) {
		d.lost = append(d.lost, door)
	}
}

// parseJournal reads a journal. Where its error is an errNewer, nothing has been read. Any other is a damagedJournal; what
// could be read is returned, unknownScope if it was not that.
func parseJournal(text []byte) (at scope, entries []Entry, err error) {
	s := string(text)
	number, start, ended := 0, 0, false
	var damage damagedJournal
	note := func(what string) {
		if damage.lines++; damage.lines == 1 {
			damage.first = fmt.Sprintf("line %d: %s", number, what)
		}
	}
	at = unknownScope
	for line := range strings.Lines(s) {
		number++
		if ended {
			note("it stands behind the end")
		}
		i := max(strings.LastIndexByte(line, '\t'), 0)
		ended = strings.HasPrefix(line, "end ")
		switch {
		case number == 1:
			var version uint64
			if at, version = parseScope(line); version > journalVersion {
				return unknownScope, nil, fmt.Errorf("%w (journal %d)", errNewer, version)
			} else if version != journalVersion {
				note("it is not the first line of a journal")
				if strings.Count(line, "\t") > 1 { // an entry, too
					damage.lose(line)
				}
			}
		case ended:
			if damage.lines == 0 && line != fmt.Sprintf("end %d\t%s", len(entries), checksum(s[:start+i])) {
				note(fmt.Sprintf("the end is not that of the %d entries before it", len(entries)))
				damage.lose("")
			} else if line[:i] != fmt.Sprintf("end %d", len(entries)+damage.gone) {
				damage.lose("")
			}
		case line != sealed(line[:i]):
			note("its checksum is another one")
			damage.lose(line)
		default:
			if e, ok := parseEntry(line[:i]); ok {
				entries = append(entries, e)
			} else {
				note("what it says makes no sense")
				damage.lose(line)
			}
		}
		start += len(line)
	}
	if number++; !ended {
		note("the end is missing")
		damage.lose("")
	}
	if damage.lines > 0 {
		err = &damage
	}
	return at, entries, err
}

// parseScope reads the first line. version 0 is a damaged one. Of a newer version nothing more than that is read.
func parseScope(line string) (at scope, version uint64) {
	rest, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "sesame journal ")
	word, rest, _ := strings.Cut(rest, " ")
	version, err := strconv.ParseUint(word, 10, 31)
	if !ok || err != nil {
		return unknownScope, 0
	}
	at.boot, word, _ = strings.Cut(rest, " ")
	word, _, _ = strings.Cut(word, "\t")
	at.netns, _ = strconv.ParseUint(word, 10, 64)
	switch ours := at.line(); {
	case line == ours:
		return at, version
	case strings.HasSuffix(ours, " "+rest+"\n"): // by the checksum a 1, which has become another number
		return unknownScope, 0
	case version > journalVersion:
		return unknownScope, version
	}
	return unknownScope, 0
}

// parseEntry reads an entry's line without its checksum. ok says whether all of it makes sense: written again, it is the
// same.
func parseEntry(line string) (e Entry, ok bool) {
	fields := strings.Split(line, "\t")
	if len(fields) != 12 {
		return e, false
	}
	text := func(i int) string {
		s, _ := strconv.Unquote(fields[i])
		return s
	}
	number := func(i, bits int) uint64 {
		n, _ := strconv.ParseUint(fields[i], 10, bits)
		return n
	}
	source, _ := netip.ParseAddr(fields[1])
	state := slices.Index(openingStates, fields[3])
	e = Entry{
		Door: text(0), Source: source, Link: text(2), State: OpeningState(max(state, 0)),
		Since: time.Duration(number(4, 63)), Until: time.Duration(number(5, 63)),
		Start: text(6), Stop: text(7), Tries: int(number(9, 31)), Pid: int(number(10, 31)), Began: number(11, 64),
	}
	for _, word := range strings.Fields(fields[8]) {
		if b, _ := parseOpenPort(strings.ReplaceAll(word, ";", " ")); b == (Behind{Knock: b.Knock}) {
			e.Ports = append(e.Ports, b.Knock)
		} else {
			e.Behind = append(e.Behind, b)
		}
	}
	return e, source.IsValid() && source.Zone() == "" && e.line() == sealed(line)
}

// Journal is the journal in a folder that no other daemon uses as long as this one lives.
type Journal struct {
	path string
	lock *PidFile
	at   scope
}

// otherDir is the remedy for a folder that does not do.
const otherDir = "StateDir names another folder"

// openJournal makes the folder if there is none, and locks it. A full disk does not keep it from that: what the journal
// has must be closed all the same.
func openJournal(dir string) (*Journal, error) {
	at, err := currentScope()
	if err != nil {
		return nil, err
	}
	dir = filepath.Clean(dir)
	if err := makeStateDir(dir); err != nil {
		return nil, fmt.Errorf("%w: %s", err, otherDir)
	}
	lock, err := lockPidFile(filepath.Join(dir, "lock"), endTime)
	held, isHeld := errors.AsType[*heldError](err)
	switch {
	case isHeld:
		return nil, fmt.Errorf("%w: one daemon watches several interfaces (-i eth0,eth1); a second one needs another configuration, "+
			"and another StateDir if that names one", &heldError{dir, cmp.Or(held.holder, "?")})
	case err != nil:
		return nil, fmt.Errorf("%w: %s", err, otherDir)
	}
	_ = lock.write() // for the message above alone: the lock holds without it
	j := &Journal{filepath.Join(dir, "journal"), lock, at}
	removeLeftovers(dir)
	return j, nil
}

// removeLeftovers removes what writeFile has left behind when it was killed.
func removeLeftovers(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.[0-9]*"))
	for _, f := range files {
		switch strings.TrimRight(filepath.Base(f), "0123456789") {
		case "journal.", "journal.damaged.", "firewall.", "good.conf.":
			_ = os.Remove(f)
		}
	}
}

// makeStateDir makes the folder. It refuses one that others may write to: what stands in the journal is run.
func makeStateDir(dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		return syncDir(parent)
	case !errors.Is(err, os.ErrExist):
		return err
	}
	var is unix.Stat_t
	if err := unix.Stat(dir, &is); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if is.Mode&unix.S_IFMT == unix.S_IFDIR && (is.Mode&0o022 != 0 || int(is.Uid) != os.Geteuid()) {
		return fmt.Errorf("%s must be writable by %s only, because stored commands are run from it (chown, chmod 700)", dir, runsAs())
	}
	return nil
}

// Recovered is what an earlier daemon has left.
type Recovered struct {
	Entries []Entry
	// Stale: it was written before a reboot, in another network namespace, or where is not known. Its times and
	// processes mean nothing then.
	Stale  bool
	Damage string // what is wrong with the journal, and what became of it; Entries are what could be read. "": nothing
	Lost   string // which doors nobody can close, as what closes them was damaged; "": none
}

// read reads the journal. A damaged one is copied to journal.damaged, and holds then what could be read of it. It
// returns an error, and changes nothing, if there is no reading it, or if it was written by a newer sesame.
func (j *Journal) read() (Recovered, error) {
	text, err := j.load()
	if errors.Is(err, os.ErrNotExist) {
		return Recovered{}, nil
	}
	if err != nil {
		return Recovered{}, fmt.Errorf("reading the journal: %w: %s", err, otherDir)
	}
	at, entries, err := parseJournal(text)
	if errors.Is(err, errNewer) {
		return Recovered{}, fmt.Errorf("%s: %w: run that one, for it knows how to close what is open; or, if nothing is, delete the file", j.path, err)
	}
	r := Recovered{Entries: entries, Stale: at != j.at}
	if damage, ok := err.(*damagedJournal); ok {
		// Not by renaming it: what could be read is on the disk at every moment.
		aside := j.path + ".damaged"
		if _, err = writeFile(aside, text, nil, nil); err == nil {
			_, err = writeFile(j.path, formatJournal(at, entries), nil, nil)
		}
		r.Damage = fmt.Sprintf("%s: %v: it is kept as %s", j.path, damage, aside)
		if err != nil {
			r.Damage = fmt.Sprintf("%s: %v: it could not be set aside: %v", j.path, damage, err)
			aside = j.path
		}
		if damage.lost != nil {
			r.Lost = fmt.Sprintf("these doors may still be open, because the journal lines that say how to close them are damaged: %s: see %s",
				strings.Join(damage.lost, ", "), aside)
		}
	}
	return r, nil
}

func (j *Journal) load() ([]byte, error) {
	f, err := os.Open(j.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxJournalSize))
}

// write puts the entries in the place of what the journal has, and returns when they are on the disk. After an error
// the journal is as it was, or, where only syncing its folder failed, the new one.
func (j *Journal) write(entries []Entry) error {
	text := formatJournal(j.at, entries)
	if len(text) > maxJournalSize {
		return fmt.Errorf("the journal would have %d bytes, and must not have more than %d", len(text), maxJournalSize)
	}
	if _, err := writeFile(j.path, text, nil, nil); err != nil {
		return fmt.Errorf("writing the journal: %w: %s", err, otherDir)
	}
	return nil
}

// firewallNote is a file that stands in the folder as long as something of ours may be in the firewall: hidden ports
// stay there when the daemon ends. In it are the links where "auto" has hidden them, one on a line: the next daemon may
// start while there is no default route.
func (j *Journal) firewallNote() string { return filepath.Join(filepath.Dir(j.path), "firewall") }

func (j *Journal) notesFirewall() bool {
	_, err := os.Stat(j.firewallNote())
	return err == nil
}

// autoLinks are the links in it. What is damaged there is forgotten.
func (j *Journal) autoLinks() (names []string) {
	text, _ := os.ReadFile(j.firewallNote())
	for _, name := range strings.Fields(string(text)) {
		if plainLink(name) && len(names) < maxAutoLinks {
			names = append(names, name)
		}
	}
	return names
}

func (j *Journal) noteFirewall(auto []string) error {
	if _, err := writeFile(j.firewallNote(), []byte(strings.Join(auto, "\n")), nil, nil); err != nil {
		return fmt.Errorf("noting that the firewall is changed: %w: %s", err, otherDir)
	}
	return nil
}

func (j *Journal) forgetFirewall() {
	j.keepTable("")
	_ = os.Remove(j.firewallNote())
}

// tableFile is included by whoever has /etc/nftables.conf flush all rules, and wants the ports to stay hidden meanwhile.
func (j *Journal) tableFile() string { return filepath.Join(filepath.Dir(j.path), "hidden.nft") }

// keepTable keeps the table that hides, as nft takes it; "" is none. What is there already is not written again. Without a journal there is
// no place for it.
func (j *Journal) keepTable(table string) {
	if j == nil {
		return
	}
	was, _ := os.ReadFile(j.tableFile())
	if string(was) == table && table != "" {
		return
	}
	if table != "" {
		if _, err := writeFile(j.tableFile(), []byte(table), nil, nil); err == nil {
			return
		}
	}
	_ = os.Remove(j.tableFile()) // better none than another one
}

// close lets another daemon have the folder.
func (j *Journal) close() { _ = j.lock.file.Close() }

// maxAutoLinks is how many links "auto" hides ports on: those that have held a default route.
const maxAutoLinks = 32

// lockFirewall keeps a second daemon of this network namespace off the firewall, as each would take the other's rules
// for somebody's mistake. folder is where the sockets are.
func lockFirewall(folder string) (*PidFile, error) {
	at, err := currentScope()
	if err == nil {
		err = os.MkdirAll(folder, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("locking the firewall: %w", err)
	}
	const name = "firewall-"
	lock, err := lockPidFile(filepath.Join(folder, fmt.Sprint(name, at.netns)), endTime)
	if err != nil {
		return nil, fmt.Errorf("locking the firewall: %w: one daemon alone can have doors with Open_Ports", err)
	}
	if err := lock.write(); err != nil {
		return nil, err
	}
	// Network namespaces come and go, and a daemon that was killed leaves its file.
	left, _ := filepath.Glob(filepath.Join(folder, name+"*"))
	for _, path := range left {
		if path == lock.path {
			continue
		}
		if other, err := lockPidFile(path, 0); err == nil {
			other.retire() // whoever starts there just now waits
			other.remove()
		}
	}
	return lock, nil
}
