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

	"golang.org/x/sys/unix"
)

// bootedHost is this machine started anew by systemd, in namespaces of its own: what it writes is kept in memory, over the real
// files, which stay as they are. Its network is a namespace's, and only what a test starts runs.
type bootedHost struct {
	*testing.T
	dir string // the test's own, which the machine has as /machine
	pid string // of systemd, as it is seen from here
}

// bootScript makes the root folder of the machine and starts systemd. $1 is the machine's folder, $2 the target to start.
// It is in a control group of its own, which is all of them to the machine.
const bootScript = `
cd "$1"
mkdir up root
mount -t tmpfs tmpfs up
mkdir up/files up/work
mount -t overlay -o lowerdir=/,upperdir=up/files,workdir=up/work overlay root
mount -t cgroup2 cgroup2 /mnt
group=/mnt$(sed -n s/^0:://p /proc/self/cgroup)/$(basename "$1")
mkdir "$group"
echo 0 > "$group/cgroup.procs"
exec unshare -C --kill-child -p -f sh -ec '
cd "$1/root"
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
mkdir dev/pts dev/shm machine
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount --bind "$1" machine
: > etc/fstab
ln -sf "$2" etc/systemd/system/default.target
for unit in networking systemd-networkd NetworkManager apparmor; do
	ln -sf /dev/null etc/systemd/system/$unit.service
done
printf "%s\n" "[Unit]" "Wants=network-pre.target systemd-journald.service dbus.socket" > etc/systemd/system/machine.target
exec chroot . /usr/bin/env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
' sh "$1" "$2"
`

// boot starts a machine in a network. more are lines of the shell to run in its root folder before that.
func boot(t *testing.T, network *Netns, more string) *bootedHost {
	t.Helper()
	needRoot(t)
	m := &bootedHost{T: t, dir: t.TempDir()}
	script := strings.Replace(bootScript, ": > etc/fstab\n", more+"\n: > etc/fstab\n", 1)
	cmd := exec.Command("unshare", "-m", "-u", "-i", "sh", "-ec", script, "sh", m.dir, "machine.target")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w := &world{T: t}
	w.must(network.start(cmd))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		group := exec.Command("unshare", "-m", "sh", "-c",
			"mount -t cgroup2 cgroup2 /mnt && find /mnt$(sed -n s/^0:://p /proc/self/cgroup)/"+filepath.Base(m.dir)+" -depth -type d -exec rmdir {} +")
		w.eventually("the end of the machine's control group", func() bool { return group.Process != nil || group.Run() == nil })
		if t.Failed() {
			t.Logf("the machine: %s", out.String())
		}
	})
	w.eventually("the machine's start: "+out.String(), func() bool {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if m.pid = strings.TrimSpace(string(children)); m.pid == "" {
			return false
		}
		text, _ := m.output("systemctl is-active machine.target; readlink /proc/1/exe")
		return strings.HasPrefix(text, "active\n")
	})
	return m
}

// command is a shell line to run in the machine.
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
		log, _ := m.output("journalctl -n 40 --no-pager -o cat")
		m.Fatalf("%s: %v: %s\nthe machine's log:\n%s", line, err, out, log)
	}
	return out
}

// changed lists what is different from the real machine: files, links and folders, but for what any machine writes, and
// dpkg's copies of its lists from before.
func (m *bootedHost) changed() string {
	m.Helper()
	const script = `cd "$1/up/files"
find . \( -path ./run -o -path ./tmp -o -path ./dev -o -path ./var/log -o -path ./var/tmp -o -path ./var/cache -o -path ./machine \
	-o -path ./var/lib/systemd -o -path './var/lib/dpkg/*-old' -o -path ./var/lib/dpkg/lock -o -path ./var/lib/dpkg/lock-frontend \
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

// copyProgram puts the program into the machine's folder, where it is /machine/sesame.
func (m *bootedHost) copyProgram() {
	m.Helper()
	if err := os.Link(realProgram(m.T), m.dir+"/sesame"); err != nil {
		m.Fatal(err)
	}
	_ = unix.Chmod(m.dir+"/sesame", 0o755)
}
