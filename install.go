//go:build linux

package main

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What install puts in place, beside the program itself.
var (
	//go:embed dist/knockd.conf
	exampleConfig string
	//go:embed dist/sesame.service
	systemdUnit string
	//go:embed dist/knockd.service
	systemdForward string
	//go:embed dist/openwrt/sesame.init
	procdScript string
	//go:embed dist/openwrt/sesame.config
	uciExample string
	//go:embed dist/openwrt/sesame.nft
	fw4Include string
	//go:embed dist/sesame.openrc
	openrcScript string
	//go:embed dist/sesame.sysv
	sysvScript string
	//go:embed dist/knockd.sysv
	sysvForward string
)

const (
	// manifestFile has a line for each thing that install has put in place, in that order: its kind, its checksum or
	// where it points, and its path. It stands in /etc, which on a router is not lost with the power.
	manifestFile = "/etc/sesame.installed"
	keptOnRouter = "/etc/sesame.good.conf" // the kept configuration, where /var is lost with the power
	thisProgram  = "/proc/self/exe"
	staged       = ".sesame-new" // at the end of a name: not in place yet
	// installLimit is how long dpkg and systemctl may take. dpkg waits for nobody who has its lock.
	installLimit = time.Minute
)

// The kinds of things that are put in place.
const (
	kindDir     = "dir"     // made, as something else had to go there
	kindFile    = "file"    // ours, until somebody changes it
	kindProgram = "program" // ours
	kindExample = "example" // never put over another
	kindLink    = "link"
	kindDivert  = "divert" // a package's file is out of the way (dpkg-divert(1))
)

// thing is what install puts in place.
type thing struct {
	kind string
	path string  // without destdir
	text *string // of a file; nil: it is this program
	mode fs.FileMode
	sum  string // in the manifest: a file's checksum, where a link points, or -
}

// serviceManager is what starts the daemon.
type serviceManager struct {
	name, sign string // it is there where the file sign is
	prefix     string
	things     []thing
	enabled    []string // links that stand for it being enabled, as patterns
	run        []string // after a change; nil: nothing
	stop       string   // how a person stops the daemon
	next       string   // lines that are left to a person
}

// Debian's package stops the service that it knows by its name at each upgrade, and starts nothing. So ours has another
// name, and what stands under the package's forwards to it.
const (
	knockdInitScript = "/etc/init.d/knockd"
	wantedUnits      = "/etc/systemd/system/multi-user.target.wants/"
	knockdDropIns    = "/etc/systemd/system/knockd.service.d"
)

var serviceManagers = []serviceManager{
	{"systemd", "/run/systemd/system", "/usr/local", []thing{
		{kindExample, defaultConfigFile, &exampleConfig, 0o600, ""},
		{kindFile, "/etc/systemd/system/sesame.service", &systemdUnit, 0o644, ""},
		{kindFile, "/etc/systemd/system/knockd.service", &systemdForward, 0o644, ""},
	}, []string{wantedUnits + "sesame.service", wantedUnits + "knockd.service"}, []string{"systemctl", "daemon-reload"},
		"systemctl stop sesame", "systemctl stop knockd\n  systemctl enable sesame\n  systemctl restart sesame"},
	{"procd", "/sbin/procd", "/usr", []thing{
		{kindExample, "/etc/config/sesame", &uciExample, 0o600, ""},
		{kindFile, "/etc/init.d/sesame", &procdScript, 0o755, ""},
		{kindFile, "/usr/share/nftables.d/chain-pre/input/sesame.nft", &fw4Include, 0o644, ""},
	}, []string{"/etc/rc.d/S19sesame", "/etc/rc.d/K90sesame"}, nil,
		"/etc/init.d/sesame stop", "/etc/init.d/firewall reload\n  /etc/init.d/sesame enable\n  /etc/init.d/sesame restart"},
	{"openrc", "/run/openrc", "/usr/local", []thing{
		{kindExample, defaultConfigFile, &exampleConfig, 0o600, ""},
		{kindFile, "/etc/init.d/sesame", &openrcScript, 0o755, ""},
	}, []string{"/etc/runlevels/boot/sesame"}, nil,
		"rc-service sesame stop", "rc-update add sesame boot\n  rc-service sesame restart"},
	{"busybox", "/etc/inittab", "/usr", []thing{
		{kindExample, defaultConfigFile, &exampleConfig, 0o600, ""},
		{kindFile, "/etc/init.d/sesame", &sysvScript, 0o755, ""},
	}, nil, nil,
		"take its line out of /etc/inittab and kill -HUP 1, or /etc/init.d/sesame stop",
		"echo ::respawn:/usr/sbin/knockd --keep /var/lib/sesame/good.conf >> /etc/inittab\n  kill -HUP 1"},
	{"sysv", "/etc/inittab", "/usr/local", []thing{
		{kindExample, defaultConfigFile, &exampleConfig, 0o600, ""},
		{kindFile, "/etc/init.d/sesame", &sysvScript, 0o755, ""},
		{kindFile, knockdInitScript, &sysvForward, 0o755, ""},
	}, []string{"/etc/rc?.d/[SK]??sesame"}, nil,
		"/etc/init.d/sesame stop", "update-rc.d sesame defaults\n  /etc/init.d/sesame restart"},
	{"none", "/", "/usr/local", []thing{
		{kindExample, defaultConfigFile, &exampleConfig, 0o600, ""},
	}, nil, nil, "kill it", "/usr/local/sbin/knockd -d"},
}

type installOptions struct {
	prefix, destdir, service string
	dryRun                   bool
}

func (o *installOptions) options() []option {
	return append([]option{
		stringOption('p', "prefix", "DIR", "the program goes to DIR/sbin and DIR/bin (default /usr/local; /usr on a router)", &o.prefix),
		stringOption('s', "service", "KIND", "for systemd, procd, openrc, busybox, sysv or none (default: what runs here)", &o.service),
		stringOption('D', "destdir", "DIR", "as if DIR were the root folder, for a package", &o.destdir),
		flagOption('n', "dry-run", "say what would be done, and do nothing", &o.dryRun),
	}, helpOptions()...)
}

// installer puts things in place, or takes them back.
type installer struct {
	env
	installOptions
	manager serviceManager
	known   []thing // from the manifest
}

func newInstaller(e env, o installOptions) (*installer, error) {
	i := &installer{env: e, installOptions: o}
	if os.Geteuid() != 0 && o.destdir == "" {
		return nil, errors.New("only root may: sudo " + strings.Join(os.Args, " "))
	}
	var names []string
	for _, m := range serviceManagers {
		names = append(names, m.name)
		if o.service == m.name || o.service == "" && m.runs() {
			i.manager = m
			return i, i.readManifest()
		}
	}
	return nil, usageError(fmt.Sprintf("option -s: %q is none of %s", o.service, strings.Join(names, ", ")))
}

// runs is whether this machine is started by it.
func (m serviceManager) runs() bool {
	if m.name == "busybox" {
		if init, _ := os.Readlink("/sbin/init"); filepath.Base(init) != "busybox" {
			return false
		}
	}
	_, err := os.Stat(m.sign)
	return err == nil
}

func install(e env, args []string) error {
	var o installOptions
	if err := onlyOptions(args, o.options(), ""); err != nil {
		return err
	}
	i, err := newInstaller(e, o)
	if err != nil {
		return err
	}
	if i.prefix == "" {
		i.prefix = i.manager.prefix
	}
	// It becomes part of scripts.
	if !filepath.IsAbs(i.prefix) || strings.Trim(strings.ToLower(i.prefix), "abcdefghijklmnopqrstuvwxyz0123456789/._-") != "" {
		return usageError(fmt.Sprintf("option -p: %q is no folder such as /usr/local: letters, digits and /._- may be in it", i.prefix))
	}
	i.prefix = strings.TrimSuffix(filepath.Clean(i.prefix), "/")
	things, err := i.things()
	if err != nil {
		return err
	}
	return i.put(things)
}

// things are what is to be there.
func (i *installer) things() (things []thing, err error) {
	add := func(kind, path, text string, mode fs.FileMode) {
		sum := text
		if kind != kindLink && kind != kindDivert {
			sum = sumOf(text)
		}
		things = append(things, thing{kind, path, &text, mode, sum})
	}
	sbin := i.prefix + "/sbin/"
	sum, err := sumOfFile(thisProgram)
	if err != nil {
		return nil, fmt.Errorf("reading this program: %w", err)
	}
	things = append(things, thing{kindProgram, sbin + "sesame", nil, 0o755, sum})
	for _, path := range []string{"/usr/sbin/knockd", "/usr/bin/knock"} {
		if i.packaged(path) {
			add(kindDivert, path, path+".distrib", 0)
			if i.prefix != "/usr" {
				add(kindLink, path, sbin+"sesame", 0)
			}
		}
	}
	add(kindLink, sbin+"knockd", "sesame", 0)
	add(kindLink, i.prefix+"/bin/knock", "../sbin/sesame", 0)
	for _, t := range i.manager.things {
		if t.path == knockdInitScript && i.packaged(t.path) {
			add(kindDivert, t.path, t.path+".distrib", 0)
		}
		add(t.kind, t.path, i.moved(*t.text), t.mode)
	}
	if _, err := os.Lstat(wantedUnits + "knockd.service"); err == nil && i.manager.name == "systemd" && i.destdir == "" {
		add(kindLink, wantedUnits+"sesame.service", "/etc/systemd/system/sesame.service", 0)
	}
	if i.manager.name == "procd" { // sysupgrade keeps what is named in such a file
		const path = "/lib/upgrade/keep.d/sesame"
		keep := strings.Join(append([]string{manifestFile, defaultConfigFile, keptOnRouter, path}, i.manager.enabled...), "\n") + "\n"
		for _, t := range things {
			keep += t.path + "\n"
		}
		add(kindFile, path, keep, 0o644)
	}
	return things, nil
}

func sumOf(text string) string { return strings.TrimSpace(checksum(text)) }

// sumOfFile is the same for a file, of which no more than a part is in memory at once.
func sumOfFile(path string) (sum string, err error) {
	h := fnv.New64a()
	err = copyFile(h, path)
	return fmt.Sprintf("%016x", h.Sum64()), err
}

// copyFile copies a file.
func copyFile(to io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

// moved is a text that names the daemon, for where it is to be.
func (i *installer) moved(text string) string {
	return strings.ReplaceAll(text, i.manager.prefix+"/sbin/knockd", i.prefix+"/sbin/knockd")
}

// packaged is whether a file belongs to a package of Debian's.
func (i *installer) packaged(path string) bool {
	if i.destdir != "" {
		return false
	}
	_, _, err := execute([]string{"dpkg-query", "-S", path}, "", installLimit)
	return err == nil
}

// put puts things in place, and says so. What needs room is written beside its place first, so that nothing is half done
// where there is none.
func (i *installer) put(things []thing) (err error) {
	var todo []thing
	said, record := "", i.known
	for _, t := range things {
		why, err := i.look(t)
		if err != nil {
			return err
		}
		if why != "" {
			said += t.name() + " " + why + "\n"
			continue
		}
		for _, t := range append(i.missing(t.path, todo), t) {
			todo = append(todo, t)
			record = append(slices.DeleteFunc(slices.Clone(record), t.same), t)
		}
	}
	if !i.dryRun {
		defer i.unstage(todo)
		if err := i.stage(todo); err != nil {
			return err
		}
		if err := i.writeManifest(record); err != nil {
			return err
		}
	}
	fmt.Fprint(i.stdout, said)
	for _, t := range todo {
		fmt.Fprintln(i.stdout, t)
		if err := i.finish(t); err != nil {
			return err
		}
	}
	if todo != nil {
		err = i.tellManager()
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(i.stdout, "next:")
	if _, err := os.Stat(knockdDropIns); err == nil && i.manager.name == "systemd" {
		fmt.Fprintf(i.stdout, "  mv %s /etc/systemd/system/sesame.service.d\n  systemctl daemon-reload\n", knockdDropIns)
	}
	fmt.Fprintf(i.stdout, "  %s\n", i.moved(i.manager.next))
	return nil
}

func (t thing) name() string {
	if t.kind == kindDivert {
		return "the diversion of " + t.path
	}
	return t.path
}

// String says what is done to put the thing in place.
func (t thing) String() string {
	switch t.kind {
	case kindDir:
		return "make " + t.path
	case kindLink:
		return "link " + t.path + " to " + t.sum
	case kindDivert:
		return "divert the package's " + t.path + " to " + t.sum
	}
	return "put " + t.path
}

// same is whether two things have the same place.
func (t thing) same(other thing) bool { return t.path == other.path && t.kind == other.kind }

// missing are the folders above a path that are not there yet, and that are not about to be made.
func (i *installer) missing(path string, made []thing) (dirs []thing) {
	dir := filepath.Dir(path)
	if _, err := os.Stat(i.destdir + dir); err == nil || len(dir) <= 1 {
		return nil
	}
	t := thing{kind: kindDir, path: dir, sum: "-"}
	if slices.ContainsFunc(made, t.same) {
		return nil
	}
	return append(i.missing(dir, made), t)
}

// look says why a thing is not to be put in place, or "". It is an error if something is in the way.
func (i *installer) look(t thing) (why string, err error) {
	was := ""
	if n := slices.IndexFunc(i.known, t.same); n >= 0 {
		was = i.known[n].sum
	}
	sum, err := i.present(t)
	switch {
	case err != nil:
		return "", err
	case sum == t.sum:
		return "is there already", nil
	case sum == "":
		return "", nil
	case t.kind == kindExample:
		return "is there, and stays as it is", nil
	case sum == was || i.destdir != "" || t.kind == kindProgram && was != "" || (t.kind == kindLink || t.kind == kindFile) && i.packaged(t.path):
		return "", nil
	case t.kind == kindFile:
		return "is there, has other text, and stays as it is", nil
	}
	return "", fmt.Errorf("%s is there, and is something else: move it away, or -p names another folder", t.path)
}

// present is the checksum of what stands in a thing's place, or where it points; "" for nothing.
func (i *installer) present(t thing) (sum string, err error) {
	path := i.destdir + t.path
	if t.kind == kindDivert {
		to, _, err := execute([]string{"dpkg-divert", "--truename", path}, "", installLimit)
		if to = strings.TrimSpace(to); to == path {
			to = ""
		}
		return to, err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case info.Mode()&fs.ModeSymlink != 0:
		return os.Readlink(path)
	case !info.Mode().IsRegular():
		return "?", nil
	}
	return sumOfFile(path)
}

// stage writes files and links beside their places, and makes folders.
func (i *installer) stage(todo []thing) (err error) {
	for _, t := range todo {
		path := i.destdir + t.path
		switch t.kind {
		case kindDir:
			if err = os.Mkdir(path, 0o755); err == nil {
				err = os.Chmod(path, 0o755) // whatever the umask
			}
		case kindLink:
			_ = os.Remove(path + staged)
			err = os.Symlink(t.sum, path+staged)
		case kindDivert:
		default:
			err = writeStaged(path, t.text, t.mode)
		}
		if err != nil {
			return fmt.Errorf("nothing was installed: %w", err)
		}
	}
	return nil
}

// writeStaged writes the text, or without one this program.
func writeStaged(path string, text *string, mode fs.FileMode) error {
	_ = os.Remove(path + staged)
	f, err := os.OpenFile(path+staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if text == nil {
		err = copyFile(f, thisProgram)
	} else {
		_, err = f.WriteString(*text)
	}
	return cmp.Or(err, f.Chmod(mode), f.Sync(), f.Close())
}

// unstage removes what did not come to its place: folders that are in use stay.
func (i *installer) unstage(todo []thing) {
	for _, t := range slices.Backward(todo) {
		if t.kind == kindDir {
			_ = unix.Rmdir(i.destdir + t.path)
		} else {
			_ = os.Remove(i.destdir + t.path + staged)
		}
	}
}

// finish moves what is staged to its place, where a daemon may run from what was there.
func (i *installer) finish(t thing) (err error) {
	path := i.destdir + t.path
	switch {
	case i.dryRun || t.kind == kindDir:
	case t.kind == kindDivert:
		_, _, err = execute([]string{"dpkg-divert", "--local", "--rename", "--add", path}, "", installLimit)
	default:
		err = os.Rename(path+staged, path)
	}
	return err
}

// tellManager has the service manager look at its files, where it keeps them in memory.
func (i *installer) tellManager() error {
	if i.manager.run == nil || i.destdir != "" {
		return nil
	}
	if _, err := os.Stat(i.manager.sign); err != nil { // another was asked for
		return nil
	}
	fmt.Fprintln(i.stdout, "run "+strings.Join(i.manager.run, " "))
	if i.dryRun {
		return nil
	}
	_, _, err := execute(i.manager.run, "", installLimit)
	return err
}

// writeManifest notes what is put in place before it is, so that uninstall knows it whatever happens. A package has its
// own list.
func (i *installer) writeManifest(things []thing) error {
	if i.destdir != "" {
		return nil
	}
	text := ""
	for _, t := range things {
		text += t.kind + " " + t.sum + " " + t.path + "\n"
	}
	err := writeStaged(manifestFile, &text, 0o644)
	if err == nil {
		err = os.Rename(manifestFile+staged, manifestFile)
	}
	if err != nil {
		_ = os.Remove(manifestFile + staged)
		return fmt.Errorf("nothing was installed: %w", err)
	}
	return nil
}

func (i *installer) readManifest() error {
	if i.destdir != "" {
		return nil
	}
	text, err := os.ReadFile(manifestFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		words := strings.Split(line, " ")
		if line == "" {
			continue
		}
		if len(words) != 3 || !filepath.IsAbs(words[2]) {
			return fmt.Errorf("%s: %q is no line of it: kind, checksum and path", manifestFile, line)
		}
		i.known = append(i.known, thing{kind: words[0], sum: words[1], path: words[2]})
	}
	return nil
}

func uninstall(e env, args []string) error {
	if err := onlyOptions(args, helpOptions(), ""); err != nil {
		return err
	}
	i, err := newInstaller(e, installOptions{})
	if err != nil {
		return err
	}
	if i.known == nil {
		return fmt.Errorf("nothing was installed here by sesame install: there is no %s", manifestFile)
	}
	if err := flushAll(e, nil); err != nil {
		return fmt.Errorf("nothing was taken back: %w: if the daemon runs, stop it first: %s", err, i.manager.stop)
	}
	for _, name := range []string{"/lock", "/journal", "/firewall", "/good.conf", ""} {
		_ = os.Remove(e.stateDir + name)
	}
	_ = os.Remove(keptOnRouter)
	_ = unix.Rmdir(filepath.Dir(e.socket))
	for _, t := range slices.Backward(i.known) {
		if err := i.takeBack(t); err != nil {
			return err
		}
	}
	for _, pattern := range i.manager.enabled {
		links, _ := filepath.Glob(pattern)
		for _, link := range links {
			if _, err := os.Stat(link); errors.Is(err, fs.ErrNotExist) && os.Remove(link) == nil {
				fmt.Fprintln(e.stdout, "remove "+link)
			}
		}
	}
	if err := i.tellManager(); err != nil {
		return err
	}
	return os.Remove(manifestFile)
}

// takeBack removes a thing, unless somebody has changed it.
func (i *installer) takeBack(t thing) (err error) {
	sum, err := i.present(t)
	switch {
	case err != nil || sum == "":
		return err
	case t.kind == kindDir:
		if unix.Rmdir(t.path) != nil {
			return nil // in use
		}
	case sum != t.sum && t.kind != kindProgram:
		fmt.Fprintln(i.stdout, t.path, "was changed, and stays")
		return nil
	case t.kind == kindDivert:
		_, _, err = execute([]string{"dpkg-divert", "--local", "--rename", "--remove", t.path}, "", installLimit)
	default:
		err = os.Remove(t.path)
	}
	if err == nil {
		fmt.Fprintln(i.stdout, "remove", t.name())
	}
	return err
}
