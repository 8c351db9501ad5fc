//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// bootedHost is this machine started anew, in namespaces of its own: what it writes is kept in memory, over the real
// files, which stay as they are. Its network is a namespace's, and only what a test starts runs.
type bootedHost struct {
	*testing.T
	dir     string // the test's own, which the host has as /machine, with the program in it
	network *Netns
	init    string
	cmd     *exec.Cmd // it runs as long as the host does
	pid     string    // of its process 1, as it is seen from here
	out     bytes.Buffer
}

// The programs that start the host.
const (
	systemdInit = "/lib/systemd/systemd"
	busyboxInit = "/sbin/init" // a link, as on a router
	noInit      = "/bin/sleep 1000000"
)

// makeScript makes the root folder of the host. $1 is the folder of the test.
const makeScript = `
cd "$1"
mkdir up root
mount -t tmpfs tmpfs up
mkdir up/files up/work
mount -t overlay -o lowerdir=/,upperdir=up/files,workdir=up/work overlay root
rm -rf root/var/lib/sesame # of another daemon on this machine
mount -t cgroup2 cgroup2 /mnt
`

// bootScript starts the host: $2 is a script to be run in the root folder before that, and $3 what starts the host. It is
// in a control group of its own, which is all of them to it.
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
ln -sf machine.target etc/systemd/system/default.target
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
	return m
}

// start has cmd start the host, and waits until it has.
func (m *bootedHost) start(cmd *exec.Cmd) {
	m.Helper()
	w := &world{T: m.T}
	m.cmd = cmd
	cmd.Stdout, cmd.Stderr = &m.out, &m.out
	w.must(m.network.start(cmd))
	w.eventually("the host's start", func() bool {
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
	_ = m.cmd.Wait()
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

// changed lists what is different from the real machine: files, links and folders, but for what any machine writes, and
// dpkg's copies of its lists from before.
func (m *bootedHost) changed() string {
	m.Helper()
	const script = `cd "$1/up/files"
find . \( -path ./run -o -path ./tmp -o -path ./dev -o -path ./var/log -o -path ./var/tmp -o -path ./var/cache -o -path ./machine \
	-o -path ./root/.ssh -o -path ./etc/mtab -o -path ./var/lib/sesame -o -path ./var/lib/systemd -o -path './var/lib/dpkg/*-old' -o -path ./var/lib/dpkg/lock -o -path ./var/lib/dpkg/lock-frontend \
	-o -path ./etc/fstab -o -path ./etc/machine-id -o -path ./etc/.updated -o -path ./var/.updated -o -path './etc/systemd/system/[nNsam]*' \
	-o -path ./etc/systemd/system/default.target -o -path ./etc/resolv.conf \) -prune -o -print | sort | while read -r f; do
	if [ -L "$f" ]; then
		[ "$(readlink "$f")" = "$(readlink "/$f")" ] || echo "$f -> $(readlink "$f")"
	elif [ -d "$f" ]; then
		[ -d "/$f" ] || echo "$f/"
	elif [ -c "$f" ]; then
		echo "$f is gone"
	elif ! cmp -s "$f" "/$f" || [ "$(stat -c '%a %u %g' "$f")" != "$(stat -c '%a %u %g' "/$f")" ]; then
		echo "$f"
	fi
done`
	out, err := exec.Command("nsenter", "-t", m.pid, "-m", "sh", "-ec", script, "sh", m.dir).CombinedOutput()
	if err != nil {
		m.Fatalf("%v: %s", err, out)
	}
	return string(out)
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
