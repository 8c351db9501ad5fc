//go:build linux && !pure

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// bootedHost is this machine started anew, in namespaces of its own: what it writes is kept in memory, over the real
// files, which stay as they are. Its network is a namespace's, and only what a test starts runs.
type bootedHost struct {
	*testing.T
	dir     string // the test's own, which the host has as /machine, with the program in it
	network *Netns
	init    string
	cmd     *exec.Cmd         // it runs as long as the host does
	pid     string            // of its process 1, as it is seen from here
	upper   string            // the folder of what has been written
	before  map[string]string // what had been written when the host had started
	ended   chan struct{}     // closed when it has ended
	out     bytes.Buffer
}

// The programs that start the host.
const (
	systemdInit = "/lib/systemd/systemd --unit=machine.target"
	busyboxInit = "/sbin/init" // a link, as on a router
	noInit      = "/bin/sleep 1000000"
)

// makeScript makes the root folder of the host. $1 is the folder of the test. No policy-rc.d keeps packages from starting
// and stopping their own services.
const makeScript = `
cd "$1"
mkdir up root
mount -t tmpfs tmpfs up
mkdir up/files up/work
mount -t overlay -o lowerdir=/,upperdir=up/files,workdir=up/work overlay root
rm -rf root/var/lib/sesame root/etc/systemd/system/*.wants/knockd.service root/etc/systemd/system/*.wants/sesame.service # of daemons on this machine
rm -f root/usr/sbin/policy-rc.d
mount -t cgroup2 cgroup2 /mnt
`

// bootScript starts the host: $2 is a script to be run in the root folder before that, and $3 what starts the host. It is
// in a control group of its own, which is all of them to it. Services of the machine start neither with the host nor with
// the first one that needs sysinit.target: they would write their state, and set up the machine's devices.
const bootScript = `
cd "$1"
group=/mnt$(sed -n s/^0:://p /proc/self/cgroup)/$(echo "$1" | tr / -)
mkdir -p "$group"
echo 0 > "$group/cgroup.procs"
exec unshare -C --kill-child -p -f sh -ec '
cd "$1/root"
umount -l -R proc sys run tmp dev machine 2>/dev/null || true # of the last boot
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
	touch dev/$node
	mount --bind /dev/$node dev/$node
done
mkdir -p dev/pts dev/shm machine
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount --bind "$1" machine
: > etc/fstab
printf "%s\n" "[Unit]" "Wants=network-pre.target systemd-journald.service" > etc/systemd/system/machine.target
for wants in lib/systemd/system/sysinit.target.wants etc/systemd/system/sysinit.target.wants; do
	[ ! -d $wants ] || mount -t tmpfs tmpfs $wants
done
for unit in networking systemd-networkd NetworkManager apparmor; do
	ln -sf /dev/null etc/systemd/system/$unit.service
done
eval "$2"
exec chroot . /usr/bin/env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin $3
' sh "$1" "$2" "$3"
`

// boot starts a host in a network. before is a script of the shell that is run in its root folder before that.
func boot(t *testing.T, network *Netns, init, before string) *bootedHost {
	t.Helper()
	needRoot(t)
	m := &bootedHost{T: t, dir: t.TempDir(), network: network, init: init}
	w := &world{T: t}
	w.must(os.Link(realProgram(t), m.dir+"/sesame"))
	t.Cleanup(func() {
		m.end()
		w.eventually("the end of the host's control group", func() bool {
			return exec.Command("unshare", "-m", "sh", "-ec", "mount -t cgroup2 cgroup2 /mnt\n"+
				"find /mnt$(sed -n s/^0:://p /proc/self/cgroup)/$(echo "+m.dir+" | tr / -) -depth -type d -exec rmdir {} +").Run() == nil
		})
		if t.Failed() {
			t.Logf("the host: %s", m.out.String())
		}
	})
	m.start(exec.Command("unshare", "-m", "-u", "-i", "sh", "-ec", makeScript+bootScript, "sh", m.dir, before, init))
	m.before = m.written()
	return m
}

// start has cmd start the host, and waits until it has.
func (m *bootedHost) start(cmd *exec.Cmd) {
	m.Helper()
	w := &world{T: m.T}
	m.cmd = cmd
	cmd.Stdout, cmd.Stderr = &m.out, &m.out
	w.must(m.network.start(cmd))
	m.upper = fmt.Sprintf("/proc/%d/root%s/up/files", cmd.Process.Pid, m.dir)
	ended := make(chan struct{})
	m.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	w.eventually("the host's start", func() bool {
		select {
		case <-ended:
			m.Fatal("the host did not start")
		default:
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if m.pid = strings.TrimSpace(string(children)); m.pid == "" {
			return false
		}
		argv, _ := os.ReadFile("/proc/" + m.pid + "/cmdline")
		// busybox cuts its own name short.
		if name, _, _ := strings.Cut(string(argv), "\x00"); name == "" || !strings.HasSuffix(strings.Fields(m.init)[0], name) {
			return false
		}
		_, err := m.output("systemctl is-active -q machine.target")
		return err == nil || m.init != systemdInit
	})
}

// end takes its power away.
func (m *bootedHost) end() {
	_ = m.cmd.Process.Kill()
	<-m.ended
}

// reboot ends the host and starts it again: what is on its disk is all that is left. It is another boot to the kernel's
// random number, too.
func (m *bootedHost) reboot() {
	m.Helper()
	w := &world{T: m.T}
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", m.cmd.Process.Pid))
	w.must(err)
	defer mounts.Close()
	m.end()
	w.must(m.network.run("nft", "flush", "ruleset"))
	// The service has a /proc of its own.
	const another = `cat proc/sys/kernel/random/uuid > machine/boot_id
mount --bind machine/boot_id proc/sys/kernel/random/boot_id
mkdir -p etc/systemd/system/sesame.service.d
printf "%s\n" "[Service]" BindReadOnlyPaths=/machine/boot_id:/proc/sys/kernel/random/boot_id > etc/systemd/system/sesame.service.d/boot.conf`
	cmd := exec.Command("nsenter", "--mount=/proc/self/fd/3", "unshare", "-u", "-i", "sh", "-ec", bootScript, "sh", m.dir, another, m.init)
	cmd.ExtraFiles = []*os.File{mounts}
	m.start(cmd)
}

// command is a shell line to run on the host.
func (m *bootedHost) command(line string) *exec.Cmd {
	cmd := exec.Command("nsenter", "-t", m.pid, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "sh", "-c", line)
	return cmd
}

func (m *bootedHost) output(line string) (string, error) {
	out, err := m.command(line).CombinedOutput()
	return string(out), err
}

// run runs a line that must succeed.
func (m *bootedHost) run(line string) string {
	m.Helper()
	out, err := m.output(line)
	if err != nil {
		log, _ := m.output("test ! -d /run/systemd/system || journalctl -n 40 --no-pager -o cat")
		m.Fatalf("%s: %v: %s\n%s", line, err, out, log)
	}
	return out
}

// changed lists the files, links and folders that are not what they were when the host had started.
func (m *bootedHost) changed() string {
	m.Helper()
	var changes strings.Builder
	now := m.written()
	paths := maps.Clone(now)
	maps.Copy(paths, m.before)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		was, known := m.before[path]
		if !known {
			was = m.state("/" + path) // nobody had written there: it was the machine's
		}
		is, there := now[path]
		if !there {
			is = m.state("/" + path)
		}
		if is != was {
			fmt.Fprintf(&changes, "%s: %s, was %s\n", path, is, was)
		}
	}
	return changes.String()
}

// written is what has been written on the host, by path, but for logs, and what dpkg keeps of its own work.
func (m *bootedHost) written() map[string]string {
	m.Helper()
	written := map[string]string{}
	err := fs.WalkDir(os.DirFS(m.upper), ".", func(path string, entry fs.DirEntry, err error) error {
		dpkg := strings.HasPrefix(path, "var/lib/dpkg/") && (strings.HasSuffix(path, "-old") || strings.Contains(path, "/lock"))
		switch {
		case errors.Is(err, fs.ErrNotExist): // written, and deleted meanwhile
		case err != nil:
			return err
		case path == "var/log" || path == "var/cache":
			return fs.SkipDir
		case !dpkg:
			written[path] = m.state(m.upper + "/" + path)
		}
		return nil
	})
	if err != nil {
		m.Fatal(err)
	}
	return written
}

// state is what a file, link or folder is, as far as changed looks.
func (m *bootedHost) state(path string) string {
	m.Helper()
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing"
	}
	if err != nil {
		m.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	owned := fmt.Sprintf("%v, %d:%d", info.Mode(), stat.Uid, stat.Gid)
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		to, _ := os.Readlink(path)
		return "a link to " + to
	case fs.ModeDir:
		// overlayfs: a folder that hides the machine's, which has been deleted.
		if _, err := unix.Lgetxattr(path, "trusted.overlay.opaque", nil); err == nil {
			owned += ", new"
		}
		return owned
	case 0:
		sum, err := sumOfFile(path)
		if err != nil {
			return err.Error()
		}
		return owned + ", " + sum
	case fs.ModeDevice | fs.ModeCharDevice:
		if stat.Rdev == 0 { // overlayfs: the machine's has been deleted
			return "nothing"
		}
	}
	return owned
}

// TestChanged changes a host in each way, and back.
func TestChanged(t *testing.T) {
	w := newWorld(t, 0)
	m := boot(t, w.host, noInit, "mkdir etc/early; echo early > etc/early/file; cp -a etc/passwd etc/group etc/early")
	for _, tt := range []struct{ change, back, want string }{
		{"true", "true", ""},
		{"touch /etc/passwd /etc/early/file /usr; echo line > /var/log/new; echo old > /var/lib/dpkg/status-old", "true", ""},
		{"echo new > /etc/new", "rm /etc/new", "etc/new"},
		{"ln -s passwd /etc/new", "rm /etc/new", "etc/new"},
		{"mkdir -p /etc/new/folder", "rm -r /etc/new", "etc/new etc/new/folder"},
		{"echo oops >> /etc/passwd", "cp -a /etc/early/passwd /etc/passwd", "etc/passwd"},
		{"chmod o+w /etc/passwd", "cp -a /etc/early/passwd /etc/passwd", "etc/passwd"},
		{"chown 1 /etc/passwd", "cp -a /etc/early/passwd /etc/passwd", "etc/passwd"},
		{"rm /etc/passwd", "cp -a /etc/early/passwd /etc/passwd", "etc/passwd"},
		{"ln -sf group /etc/passwd", "rm /etc/passwd; cp -a /etc/early/passwd /etc/passwd", "etc/passwd"},
		{"chmod o+w /etc", "chmod o-w /etc", "etc"},
		{"echo oops > /etc/early/file", "echo early > /etc/early/file", "etc/early/file"},
		{"rm /etc/early/file", "echo early > /etc/early/file", "etc/early/file"},
		{"rm -r /etc/early", "true", "etc/early etc/early/file etc/early/group etc/early/passwd"},
		{"mkdir /etc/early; echo early > /etc/early/file; cp -a /etc/passwd /etc/group /etc/early", "true", ""},
		{"cp -a /etc/init.d /tmp; rm -r /etc/init.d; mkdir /etc/init.d", "cp -a /tmp/init.d /etc", "etc/init.d"},
	} {
		m.run(tt.change)
		var got []string
		for line := range strings.Lines(m.changed()) {
			path, _, _ := strings.Cut(line, ": ")
			got = append(got, path)
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.change, got, tt.want)
		}
		m.run(tt.back)
	}
}

// measuredOn says on what it was measured.
func measuredOn() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	kernel, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	info, _ := os.ReadFile("/proc/cpuinfo")
	model := "unknown processor"
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("Linux %s, %s, %d cores", kernel, model, runtime.NumCPU())
}

// realProgram is the program as make builds it, at a path: what service files start is no test.
func realProgram(t *testing.T) string {
	t.Helper()
	file := filepath.Join(os.Getenv("SESAME_TEST_ROOT"), "sesame")
	buildOnce.Do(func() {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", file, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			buildError = fmt.Errorf("%w: %s", err, out)
		}
	})
	if buildError != nil {
		t.Fatal(buildError)
	}
	return file
}

var (
	buildOnce  sync.Once
	buildError error
)
