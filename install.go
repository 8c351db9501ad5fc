//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// manifestFile has a line for each item that install has put in place, in that order: its kind, its checksum or
	// where it points, and its path. It stands in /etc, which on a router is not lost with the power.
	manifestFile = "/etc/sesame.installed"
	keptOnRouter = "/etc/sesame.good.conf" // the kept configuration, where /var is lost with the power
)

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

const otherText = "is there, has other text, and stays as it is"

// installer puts items in place, or takes them back.
type installer struct {
	env
	installOptions
	init  initSystem
	known []item // from the manifest, of which a package (destdir) has its own
}

// prepare reads the command line, and finds out what starts the daemon, and what is installed.
func (i *installer) prepare(args []string, options []option) error {
	if err := onlyOptions(args, options, ""); err != nil {
		return err
	}
	if os.Geteuid() != 0 && i.destdir == "" && !i.dryRun {
		return errors.New("only root may: sudo " + strings.Join(os.Args, " "))
	}
	var names []string
	for _, s := range initSystems {
		names = append(names, s.name)
		if i.service == s.name || i.service == "" && s.runs() {
			i.init = s
			return i.readManifest()
		}
	}
	return usageError(fmt.Sprintf("option -s: %q is none of %s", i.service, strings.Join(names, ", ")))
}

func install(e env, args []string) error {
	i := &installer{env: e}
	if err := i.prepare(args, i.options()); err != nil {
		return err
	}
	for _, file := range []string{"/usr/lib/opkg/info/sesame.control", "/lib/apk/packages/sesame.list"} {
		if _, err := os.Stat(file); err == nil && i.init.name == "procd" && i.destdir == "" {
			return fmt.Errorf("OpenWrt's package sesame is installed (%s), and has the same files: upgrade or remove that one", file)
		}
	}
	if i.prefix == "" {
		i.prefix = i.init.prefix
	}
	// It becomes part of scripts.
	if !filepath.IsAbs(i.prefix) || strings.Trim(strings.ToLower(i.prefix), "abcdefghijklmnopqrstuvwxyz0123456789/._-") != "" {
		return usageError(fmt.Sprintf("option -p: %q is no folder such as /usr/local: letters, digits and /._- may be in it", i.prefix))
	}
	i.prefix = strings.TrimSuffix(filepath.Clean(i.prefix), "/")
	items, err := i.items()
	if err != nil {
		return err
	}
	if i.destdir != "" && !i.dryRun {
		if err := os.MkdirAll(i.destdir, 0o755); err != nil {
			return err
		}
	}
	return i.put(items)
}

// items are what is to be there.
func (i *installer) items() (items []item, err error) {
	add := func(kind, path, text string, mode fs.FileMode) {
		sum := text
		if kind != kindLink && kind != kindDivert {
			sum = strings.TrimSpace(checksum(text))
		}
		items = append(items, item{kind, path, text, mode, sum})
	}
	sbin := i.prefix + "/sbin/"
	sum, err := sumOfFile(thisProgram)
	if err != nil {
		return nil, fmt.Errorf("reading this program: %w", err)
	}
	items = append(items, item{kindProgram, sbin + "sesame", "", 0o755, sum})
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
	if i.init.prefix != "/usr" { // a router has no room for them
		share := i.prefix + "/share/"
		for _, m := range manuals {
			add(kindFile, share+"man/man"+m.file[len(m.file)-1:]+"/"+m.file, m.text, 0o644)
		}
		add(kindLink, share+"man/man8/knockd.8", "sesame.8", 0)
		for _, c := range completions {
			add(kindFile, share+c.file, c.script, 0o644)
			if name := filepath.Base(c.file); name[0] != '_' { // zsh's says for which commands it is
				for _, command := range []string{"knock", "knockd"} {
					add(kindLink, share+filepath.Dir(c.file)+"/"+strings.Replace(name, "sesame", command, 1), name, 0)
				}
			}
		}
	}
	for _, t := range i.init.items {
		if t.path == knockdInitScript && i.packaged(t.path) {
			add(kindDivert, t.path, t.path+".distrib", 0)
		}
		add(t.kind, t.path, i.moved(t.text), t.mode)
	}
	if _, err := os.Lstat(wantedUnits + "knockd.service"); err == nil && i.init.name == "systemd" && i.destdir == "" && !i.otherUnit() {
		add(kindLink, wantedUnits+"sesame.service", "/etc/systemd/system/sesame.service", 0)
	}
	if i.init.name == "procd" { // sysupgrade keeps what is named in such a file
		const path = "/lib/upgrade/keep.d/sesame"
		keep := append([]string{manifestFile, defaultConfigFile, keptOnRouter, path}, i.init.enabled...)
		for _, t := range items {
			keep = append(keep, t.path)
		}
		add(kindFile, path, strings.Join(keep, "\n")+"\n", 0o644)
	}
	return items, nil
}

// otherUnit is whether somebody has a knockd.service of their own, which starts a daemon.
func (i *installer) otherUnit() bool {
	why, _ := i.skipReason(item{kind: kindFile, path: knockdUnit, sum: strings.TrimSpace(checksum(systemdForward))})
	return why == otherText
}

// moved is a text that names the daemon, for where it is to be.
func (i *installer) moved(text string) string {
	return strings.ReplaceAll(text, i.init.prefix+"/sbin/knockd", i.prefix+"/sbin/knockd")
}

// packaged is whether a file belongs to a package of Debian's.
func (i *installer) packaged(path string) bool {
	if i.destdir != "" {
		return false
	}
	_, err := dpkg("dpkg-query", "-S", path)
	return err == nil
}

// put puts items in place, and says so. What needs room is written beside its place first, so that nothing is half done
// where there is none.
func (i *installer) put(items []item) error {
	var todo []item
	said, record := "", i.known
	for _, t := range items {
		why, err := i.skipReason(t)
		if err != nil {
			return err
		}
		if why != "" {
			said += t.name() + " " + why + "\n"
			continue
		}
		for _, t := range append(i.missing(t.path, todo), t) {
			todo = append(todo, t)
			record = append(slices.DeleteFunc(slices.Clone(record), t.is), t)
		}
	}
	if !i.dryRun {
		defer func() {
			for _, t := range slices.Backward(todo) {
				t.unstage(i.destdir)
			}
		}()
		for _, t := range todo {
			if err := t.stage(i.destdir); err != nil {
				return fmt.Errorf("nothing was installed: %w", err)
			}
		}
		if err := i.writeManifest(record); err != nil {
			return fmt.Errorf("nothing was installed: %w", err)
		}
	}
	fmt.Fprint(i.stdout, said)
	for _, t := range todo {
		fmt.Fprintln(i.stdout, t)
		if i.dryRun {
			continue
		}
		if err := t.place(i.destdir); err != nil {
			return err
		}
	}
	if todo != nil {
		if err := i.reloadInit(); err != nil {
			return err
		}
	}
	fmt.Fprintln(i.stdout, "next:")
	if info, err := os.Stat(defaultConfigFile); err == nil && othersRead(info) && i.destdir == "" { // as Debian packages it
		fmt.Fprintf(i.stdout, "  chmod 600 %s\n", defaultConfigFile)
	}
	if _, err := os.Stat(knockdDropIns); err == nil && i.init.name == "systemd" {
		fmt.Fprintf(i.stdout, "  mv %s /etc/systemd/system/sesame.service.d\n  systemctl daemon-reload\n", knockdDropIns)
	}
	next := i.moved(i.init.next())
	switch {
	case i.init.name == "systemd" && i.otherUnit():
		next = strings.Replace(next, "systemctl stop knockd", "systemctl disable --now knockd", 1)
	case i.init.name == "sysv" && i.packaged("/usr/sbin/knockd"): // whose script does not know it any more
		next = "start-stop-daemon -K -o -x /usr/sbin/knockd.distrib\n  " + next
	}
	fmt.Fprintf(i.stdout, "  %s\n", next)
	return nil
}

// missing are the folders above a path that are not there yet, and that are not about to be made.
func (i *installer) missing(path string, made []item) (dirs []item) {
	t := item{kind: kindDir, path: filepath.Dir(path), sum: "-"}
	if _, err := os.Stat(i.destdir + t.path); err == nil || len(t.path) <= 1 || slices.ContainsFunc(made, t.is) {
		return nil
	}
	return append(i.missing(t.path, made), t)
}

// skipReason says why an item is not to be put in place, or "". It is an error if something is in the way.
func (i *installer) skipReason(t item) (why string, err error) {
	was := ""
	if n := slices.IndexFunc(i.known, t.is); n >= 0 {
		was = i.known[n].sum
	}
	sum, err := t.present(i.destdir)
	switch {
	case t.kind == kindExample && errors.Is(err, fs.ErrPermission): // in a dry run
		return "is there, and stays as it is", nil
	case err != nil:
		return "", err
	case sum == t.sum:
		return "is there already", nil
	case sum == "":
		return "", nil
	case t.kind == kindExample:
		return "is there, and stays as it is", nil
	case sum == was || i.destdir != "" || t.kind == kindProgram && was != "" ||
		(t.kind == kindLink || t.kind == kindFile) && i.packaged(t.path):
		return "", nil
	case t.kind == kindFile:
		return otherText, nil
	}
	return "", fmt.Errorf("%s is there, and is something else: move it away, or -p names another folder", t.path)
}

// reloadInit has the init system look at its files, where it keeps them in memory.
func (i *installer) reloadInit() error {
	if i.init.run == nil || i.destdir != "" {
		return nil
	}
	if _, err := os.Stat(i.init.sign); err != nil { // another was asked for
		return nil
	}
	fmt.Fprintln(i.stdout, "run "+strings.Join(i.init.run, " "))
	if i.dryRun {
		return nil
	}
	_, _, err := execute(i.init.run, "", installLimit)
	return err
}

// writeManifest notes what is put in place before it is, so that uninstall knows it whatever happens.
func (i *installer) writeManifest(items []item) error {
	if i.destdir != "" {
		return nil
	}
	manifest := item{kind: kindFile, path: manifestFile, mode: 0o644}
	for _, t := range items {
		manifest.text += t.kind + " " + t.sum + " " + t.path + "\n"
	}
	defer manifest.unstage("")
	if err := manifest.stage(""); err != nil {
		return err
	}
	return manifest.place("")
}

func (i *installer) readManifest() error {
	if i.destdir != "" {
		return nil
	}
	text, err := os.ReadFile(manifestFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		words := strings.Split(line, " ")
		if line == "" {
			continue
		}
		if len(words) != 3 || !filepath.IsAbs(words[2]) {
			return fmt.Errorf("%s: %q is no line of it: kind, checksum and path", manifestFile, line)
		}
		i.known = append(i.known, item{kind: words[0], sum: words[1], path: words[2]})
	}
	return nil
}

func uninstall(e env, args []string) error {
	i := &installer{env: e}
	if err := i.prepare(args, helpOptions()); err != nil {
		return err
	}
	if i.known == nil {
		return fmt.Errorf("nothing was installed here by sesame install: there is no %s", manifestFile)
	}
	if err := flushAll(e, nil); err != nil {
		return fmt.Errorf("%w: nothing was taken back", err)
	}
	for _, folder := range slices.Backward(stateFolders(e.stateDirs)) {
		for _, name := range []string{"/lock", "/journal", "/codes", "/firewall", "/hidden.nft", "/good.conf", "/good.conf" + triedSuffix, ""} {
			_ = os.Remove(folder + name)
		}
	}
	_ = os.Remove(keptOnRouter)
	_ = os.Remove(keptOnRouter + triedSuffix)
	_ = unix.Rmdir(filepath.Dir(e.socket))
	for _, t := range slices.Backward(i.known) {
		if err := i.takeBack(t); err != nil {
			return err
		}
	}
	for _, pattern := range i.init.enabled {
		links, _ := filepath.Glob(pattern)
		for _, link := range links {
			if _, err := os.Stat(link); errors.Is(err, fs.ErrNotExist) && os.Remove(link) == nil {
				fmt.Fprintln(e.stdout, "remove "+link)
			}
		}
	}
	if err := i.reloadInit(); err != nil {
		return err
	}
	return os.Remove(manifestFile)
}

// takeBack removes an item, unless somebody has changed it.
func (i *installer) takeBack(t item) error {
	sum, err := t.present("")
	if err != nil || sum == "" {
		return err
	}
	if t.kind != kindDir && t.kind != kindProgram && sum != t.sum {
		fmt.Fprintln(i.stdout, t.path, "was changed, and stays")
		return nil
	}
	switch err := t.remove(); {
	case err == nil:
		fmt.Fprintln(i.stdout, "remove", t.name())
	case t.kind != kindDir: // which may be in use
		return err
	}
	return nil
}
