//go:build linux && !pure

package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sshWorld is a network whose host has a real sshd on a port that a door of ours hides, and whose client has keys, and
// the programs sesame and ssh.
type sshWorld struct {
	*world
	dir string // of the client
	env []string
}

// sshSetUp starts sshd in a mount namespace, with users of its own.
const sshSetUp = `
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
printf '%%s\n' "root:x:0:0::/tmp:/bin/sh" "sshd:x:65534:65534::/run/sshd:/bin/false" > /run/passwd
echo 'root:*:1::::::' > /run/shadow
mount --bind /run/passwd /etc/passwd
mount --bind /run/shadow /etc/shadow
exec %s -D -e -f %s
`

func newSSHWorld(t *testing.T) *sshWorld {
	w := &sshWorld{world: newWorld(t, 1)}
	w.dir = w.TempDir()
	sshd, err := exec.Command("testdata/sshd.sh").Output()
	if err != nil {
		t.Fatalf("sshd: %v: %s", err, exitText(err))
	}
	program := strings.TrimSpace(string(sshd))
	for _, key := range []string{"id", "host"} {
		w.must(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", w.dir+"/"+key).Run())
	}
	config := fmt.Sprintf("HostKey %s/host\nAuthorizedKeysFile %[1]s/id.pub\nPort 22\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n", w.dir)
	root := strings.TrimSuffix(program, "/usr/sbin/sshd")
	for option, path := range map[string]string{"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"} {
		if path = root + "/usr/lib/openssh/" + path; root != "" && exec.Command("test", "-x", path).Run() == nil {
			config += option + " " + path + "\n"
		}
	}
	w.must(os.WriteFile(w.dir+"/sshd_config", []byte(config), 0o600))
	server := exec.Command("unshare", "-m", "sh", "-ec", fmt.Sprintf(sshSetUp, program, w.dir+"/sshd_config"))
	libraries, _ := filepath.Glob(root + "/usr/lib/*")
	server.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	said, err := os.Create(w.dir + "/sshd.log")
	w.must(err)
	server.Stderr = said
	w.daemon(server, "", said.Name()).await("Server listening on")

	w.must(os.Mkdir(w.dir+"/bin", 0o700))
	self := sesame("sesame")
	for _, name := range []string{"sesame", "knock"} {
		w.must(os.Symlink(self.Path, w.dir+"/bin/"+name))
	}
	w.env = append(self.Env, "PATH="+w.dir+"/bin:"+os.Getenv("PATH"), "HOME="+w.dir, "XDG_CONFIG_HOME="+w.dir)
	return w
}

func exitText(err error) string {
	if exit, ok := err.(*exec.ExitError); ok {
		return string(exit.Stderr)
	}
	return ""
}

// client runs a command line on the client, by the shell.
func (w *sshWorld) client(line string, stdin []byte) clientRun {
	w.Helper()
	// ssh goes by passwd for the home of a user, and there is nobody to ask about a new host.
	line = strings.ReplaceAll(line, "ssh ", "ssh -F "+w.dir+"/ssh_config -o UserKnownHostsFile="+w.dir+"/known_hosts -o StrictHostKeyChecking=no -o LogLevel=ERROR ")
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = w.env
	cmd.Stdin = bytes.NewReader(stdin)
	return w.callCmd(0, cmd)
}

// TestSSH has each way to ssh that the README shows lead into a hidden host.
func TestSSH(t *testing.T) {
	w := newSSHWorld(t)
	dir := w.TempDir()
	w.serve("[options]\n\tStateDir = "+dir+"\n[ssh]\n\tSequence = 7000,18000:udp,9000\n\tOpen_Ports = 22\n\tCmd_Timeout = 100\n\tHide = yes\n", "-s", dir+"/control")
	closed := func() {
		t.Helper()
		if out, err := w.onHost("close", "-s", dir+"/control", "--all"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		w.awaitPort(0, hostAddr+":22", hidden)
	}
	ours := strings.NewReplacer("192.0.2.1", hostAddr, "User admin", "User root", "~/.ssh/id_ed25519", w.dir+"/id").Replace
	w.must(os.Mkdir(w.dir+"/sesame", 0o700))
	w.must(os.WriteFile(w.dir+"/sesame/profiles", []byte(ours(blocks(t, "README.md", "profiles")[0])), 0o600))
	configs := blocks(t, "README.md", "ssh-config")
	if n := strings.Count(configs[0], "\n"); n != 5 || len(configs) != 1 {
		t.Fatalf("the README has %d configurations of ssh, and the first one has %d lines: want 1, and 5", len(configs), n)
	}
	config := func(text string) {
		w.must(os.WriteFile(w.dir+"/ssh_config", []byte(ours(text)), 0o600))
	}
	const opened = `10\.9\.0\.1 port 22: open in \d+ ms\n`

	closed()
	config(configs[0])
	w.wantCall(w.client("ssh home echo in", nil), 0, "in\n", opened)
	w.wantCall(w.client("ssh home exit 9", nil), 9, "", `[^\n]*open, as it was before the knock: still open, or a proxy on the way\n`)
	closed()
	sent := make([]byte, 100<<20)
	_, _ = rand.Read(sent)
	if r := w.client("ssh home cat", sent); r.status != 0 || !bytes.Equal([]byte(r.stdout), sent) {
		t.Errorf("got exit status %d and %d bytes, want 0 and the %d that were sent; standard error %q", r.status, len(r.stdout), len(sent), r.stderr)
	}

	closed()
	config("Host home\n\tHostName 192.0.2.1\n\tUser admin\n\tIdentityFile ~/.ssh/id_ed25519\n")
	for line := range strings.Lines(blocks(t, "README.md", "console")[0]) {
		closed()
		line = strings.TrimSpace(strings.TrimPrefix(line, "$ "))
		stdout := opened
		if strings.Contains(line, "ssh home") {
			line += " echo in"
			w.wantCall(w.client(line, nil), 0, "in\n", opened)
			continue
		}
		w.wantCall(w.client(line, nil), 0, stdout, "")
	}
}

// onHost runs a subcommand on the host.
func (w *world) onHost(args ...string) (string, error) {
	cmd := sesame("sesame", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := w.host.start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// TestInitAddSSH makes a door and a profile as their output says, and logs in by what add has printed.
func TestInitAddSSH(t *testing.T) {
	w := newSSHWorld(t)
	dir := w.TempDir()
	w.must(w.host.run("ip", "route", "add", "default", "via", "10.9.0.2", "dev", "eth0"))
	made := sesame("sesame", "init", "-c", dir+"/c", "home")
	made.Args = append(made.Args, "--port", "22")
	line, said := bytes.Buffer{}, bytes.Buffer{}
	made.Stdout, made.Stderr = &line, &said
	w.must(w.host.start(made))
	w.must(made.Wait())
	for _, want := range []string{"hides it from everybody else on eth0.\n", "They are secret, too: 22:tcp,", "10.9.0.1 is a private address"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("init says %q, want %q in it", said.String(), want)
		}
	}
	// As from ssh -t, where all of it comes one after the other.
	r := w.client("sesame add", []byte("[sudo] password for admin: \r\n"+strings.ReplaceAll(said.String()+line.String(), "\n", "\r\n")))
	if !strings.HasPrefix(r.stderr, "[sudo] password for admin: \r\n") || strings.Contains(r.stderr, lineBegin) {
		t.Errorf("add passes on %q", r.stderr)
	}
	w.must(os.WriteFile(w.dir+"/ssh_config", []byte(r.stdout+"\tUser root\n\tIdentityFile "+w.dir+"/id\n"), 0o600))
	text, err := os.ReadFile(dir + "/c")
	w.must(err)
	w.serve(strings.Replace(string(text), "[options]\n", "[options]\n\tStateDir = "+dir+"\n", 1), "-s", dir+"/control")
	w.wantPort(0, hostSSH, hidden)
	r = w.client("ssh -G home", nil)
	for _, want := range []string{"\nhostname 10.9.0.1\n", "\nport 22\n", "\nconnecttimeout 10\n"} {
		if !strings.Contains("\n"+r.stdout, want) {
			t.Errorf("ssh -G: got %+v, want %q in it", r, want)
		}
	}
	if out, err := w.onHost("close", "-s", dir+"/control", "--all"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.awaitPort(0, hostSSH, hidden)
	w.wantCall(w.client("ssh home echo in", nil), 0, "in\n", "")
}
