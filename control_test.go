//go:build linux && !pure

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketFolder is a folder whose name leaves room for a socket's.
func socketFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sesame")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func mustListen(t *testing.T, path string) *Control {
	t.Helper()
	c, err := listenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveControl answers on a socket of its own as a daemon would, and returns the path. It serves until the test ends.
func serveControl(t *testing.T, answer func(Request) Answer) string {
	t.Helper()
	path := filepath.Join(socketFolder(t), "control")
	c := mustListen(t, path)
	asks, served := make(chan Ask), make(chan struct{})
	go func() {
		c.serve(func(Request) Answer { return Answer{} }, asks, func(string) (string, bool, error) { return "", false, nil })
		close(served)
	}()
	daemon := make(chan struct{})
	go func() {
		defer close(daemon)
		for {
			select {
			case ask := <-asks:
				ask.answer <- answer(ask.Request)
			case <-served:
				return
			}
		}
	}()
	t.Cleanup(func() {
		c.close()
		<-daemon
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket after close: got %v, want none", err)
		}
	})
	return path
}

// fakeDoors answers like a daemon that has door ssh open for two sources and door web for none.
func fakeDoors(r Request) (a Answer) {
	if !r.Close {
		return Answer{Status: testStatus()}
	}
	if r.Door != "" && r.Door != "ssh" && r.Door != "web" {
		return Answer{Err: fmt.Errorf("there is no door %q", r.Door)}
	}
	for _, s := range []string{"192.0.2.7", "fe80::7"} {
		if r.wants("ssh", netip.MustParseAddr(s), "eth0") {
			a.Closing++
		}
	}
	if a.Closing == 0 {
		a.Err = fmt.Errorf("not open: %v\n\x1b[2J", r)
	}
	return a
}

func TestControlCommands(t *testing.T) {
	path := serveControl(t, fakeDoors)
	tests := []struct {
		args string
		want output
	}{
		{"status", output{0, testStatus().String(), ""}},
		{"status --json", output{0, testStatus().json(), ""}},
		{"close ssh", output{0, "closing 2 openings\n", ""}},
		{"close --all", output{0, "closing 2 openings\n", ""}},
		{"close ssh 192.0.2.7", output{0, "closing 1 opening\n", ""}},
		{"close ssh ::ffff:192.0.2.7", output{0, "closing 1 opening\n", ""}},
		{"close --all fe80::7", output{0, "closing 1 opening\n", ""}},
		{"close fe80::7%eth0 --all", output{0, "closing 1 opening\n", ""}},

		{"close shh", output{1, "", "sesame close: there is no door \"shh\"\n"}},
		{"close -- --all", output{1, "", "sesame close: there is no door \"--all\"\n"}},
		{"close \xff\"\n", output{1, "", "sesame close: there is no door \"\\xff\\\"\\n\"\n"}},
		{"close ssh 192.0.2.8", output{1, "", "sesame close: not open: close \"ssh\" 192.0.2.8\n?[2J\n"}},
		{"close ssh fe80::7%eth1", output{1, "", "sesame close: not open: close \"ssh\" fe80::7%eth1\n?[2J\n"}},

		{"status ssh", output{2, "", "sesame status: unexpected argument \"ssh\": -s names a socket (sesame status --help shows what there is)\n"}},
		{"close", output{2, "", "sesame close: a door's name is needed, or --all (sesame close --help shows what there is)\n"}},
		{"close ", output{2, "", "sesame close: a door's name is needed, or --all (sesame close --help shows what there is)\n"}},
		{"close ssh ", output{2, "", "sesame close: \"\" is not an address: only an address may follow the door, or --all (sesame close --help shows what there is)\n"}},
		{"close ssh web", output{2, "", "sesame close: \"web\" is not an address: only an address may follow the door, or --all (sesame close --help shows what there is)\n"}},
		{"close --all ssh", output{2, "", "sesame close: \"ssh\" is not an address: only an address may follow the door, or --all (sesame close --help shows what there is)\n"}},
		{"close ssh 192.0.2.7 192.0.2.8", output{2, "", "sesame close: unexpected argument \"192.0.2.8\" (sesame close --help shows what there is)\n"}},
		{"close " + strings.Repeat("x", maxRequest), output{2, "", "sesame close: no door has a name that long (sesame close --help shows what there is)\n"}},
	}
	for _, test := range tests {
		command, rest, more := strings.Cut(test.args, " ")
		args := []string{"sesame", command, "-s", path}
		if more {
			args = append(args, strings.Split(rest, " ")...)
		}
		if got := runProgram(args...); got != test.want {
			t.Errorf("%.60q: got\n%+v\nwant\n%+v", test.args, got, test.want)
		}
	}
	zero := serveControl(t, func(Request) Answer { return Answer{} })
	if got, want := runProgram("sesame", "close", "--all", "-s", zero), (output{0, "no door is open\n", ""}); got != want {
		t.Errorf("close --all with none open: got %+v, want %+v", got, want)
	}
}

// TestControlNoDaemon has the client ask where nobody is, or somebody else.
func TestControlNoDaemon(t *testing.T) {
	dir := socketFolder(t)
	dead, file := filepath.Join(dir, "dead"), filepath.Join(dir, "file")
	c := mustListen(t, dead)
	_ = c.listener.Close()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ path, want string }{
		{dir + "/none", "no daemon answers on " + dir + "/none: start it, or name its socket with -s"},
		{dead, "no daemon answers on " + dead + ": start it, or name its socket with -s"},
		{file, "no daemon answers on " + file + ": start it, or name its socket with -s"},
		{file + "/control", "no daemon answers on " + file + "/control: start it, or name its socket with -s"},
		// The kernel would take it for a name without file.
		{"@control", "no daemon answers on ./@control: start it, or name its socket with -s"},
	}
	for answer, want := range map[string]string{
		"":                    "the daemon on PATH has ended instead of answering",
		"220 mail ESMTP\r\n":  "what answers on PATH is not sesame: -s names another socket",
		"ok -1\nx":            "the daemon on PATH has broken off its answer",
		"ok 100\nsesame 1.0,": "the daemon on PATH has broken off its answer",
	} {
		path := filepath.Join(dir, strconv.Itoa(len(tests)))
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Read(make([]byte, maxRequest))
				_, _ = io.WriteString(conn, answer)
				_ = conn.Close()
			}
		}()
		tests = append(tests, struct{ path, want string }{path, strings.ReplaceAll(want, "PATH", path)})
	}
	for _, test := range tests {
		for _, args := range [][]string{{"status"}, {"status", "--json"}, {"close", "ssh"}} {
			want := output{1, "", "sesame " + args[0] + ": " + test.want + "\n"}
			if got := runProgram(append([]string{"sesame"}, append(args, "-s", test.path)...)...); got != want {
				t.Errorf("%q: got %+v, want %+v", args, got, want)
			}
		}
	}
	long := strings.Repeat("x", maxSocketPath+1)
	want := output{2, "", "sesame status: option -s: a socket's path has at most 107 bytes, not 108 (sesame status --help shows what there is)\n"}
	if got := runProgram("sesame", "status", "-s", long); got != want {
		t.Errorf("a long path: got %+v, want %+v", got, want)
	}
	want = output{2, "", "sesame status: option -s: a path is needed: -s /run/sesame/control (sesame status --help shows what there is)\n"}
	if got := runProgram("sesame", "status", "--socket="); got != want {
		t.Errorf("no path: got %+v, want %+v", got, want)
	}
}

// TestControlForRoot has somebody else ask, in a folder that he can enter and in one that he cannot.
func TestControlForRoot(t *testing.T) {
	needRoot(t)
	path := serveControl(t, fakeDoors)
	w := &world{T: t}
	for _, mode := range []os.FileMode{0o700, 0o755} {
		w.must(os.Chmod(filepath.Dir(path), mode))
		cmd := sesame("sesame", "status", "-s", path)
		w.as(65534, cmd)
		out, err := cmd.CombinedOutput()
		want := "sesame status: asking the daemon on " + path + ": permission denied: run as root\n"
		if exitStatus(err) != 1 || string(out) != want {
			t.Errorf("folder with mode %o: got %v, %q, want exit status 1 and %q", mode, err, out, want)
		}
	}
}

// TestControlMode looks at the modes of folder and socket in a process without umask, where nothing else narrows them.
func TestControlMode(t *testing.T) {
	if os.Getenv("SESAME_TEST_CONTROL_MODE") == "" {
		cmd := exec.Command("sh", "-c", "umask 0; exec \"$0\" -test.run '^TestControlMode$'", os.Args[0])
		cmd.Env = append(os.Environ(), "SESAME_TEST_CONTROL_MODE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	folder := socketFolder(t)
	path := filepath.Join(folder, "run", "sesame", "control")
	c := mustListen(t, path)
	defer c.close()
	for file, want := range map[string]string{
		path: "Srw-------", filepath.Dir(path): "drwx------", filepath.Dir(filepath.Dir(path)): "drwx------",
	} {
		info, err := os.Lstat(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().String(); got != want {
			t.Errorf("%s: got %s, want %s", file, got, want)
		}
	}
	// From the moment of bind(2) on, and not by a later chmod.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	bound := filepath.Join(folder, "bound")
	if err := errors.Join(unix.Fchmod(fd, 0o600), unix.Bind(fd, &unix.SockaddrUnix{Name: bound})); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(bound); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a socket just bound: got %v, %v, want mode 0600", info.Mode(), err)
	}
}

func TestControlListen(t *testing.T) {
	dir := socketFolder(t)
	path := filepath.Join(dir, "control")
	c := mustListen(t, path)
	wantErr := func(what, path, want string) {
		t.Helper()
		if c, err := listenControl(path); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", what, err, want)
			if err == nil {
				c.close()
			}
		}
	}
	wantErr("a daemon answers", path, "another daemon answers on "+path+": -s names another")
	// One that does not come to accept: 4096 or net.core.somaxconn connections wait, and the next would too.
	full := filepath.Join(dir, "full")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: full}), unix.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	conn, err := net.Dial("unix", full)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantErr("a busy daemon", full, "another daemon answers on "+full+": -s names another")
	want := output{1, "", "sesame status: the daemon on " + full + " is there, and does not answer\n"}
	if got := runProgram("sesame", "status", "-s", full); got != want {
		t.Errorf("status of a busy daemon: got %+v, want %+v", got, want)
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := mustListen(t, path)
	c.close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the first daemon took the second one's socket away: %v", err)
	}
	_ = second.listener.Close() // as kill -9 does
	third := mustListen(t, path)
	third.close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after close: got %v, want no socket", err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantErr("a file", file, file+" is not a socket and is left as it is: -s names another")
	if err := os.Symlink(file, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	wantErr("a link", dir+"/link", dir+"/link is not a socket and is left as it is: -s names another")
	wantErr("below a file", file+"/control", "making the control socket's folder: mkdir "+file+": not a directory: -s names another socket")
	wantErr("long", strings.Repeat("x", 200), "option -s: a socket's path has at most 107 bytes, not 200")
	if text, err := os.ReadFile(file); string(text) != "mine" {
		t.Errorf("the file: got %q, %v", text, err)
	}

	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	wantErr("somebody keeps the folder locked", path, "using the control socket's folder: locking "+dir+": another program has held it for 1s: lsof "+dir+" names it: -s names another socket")
}

// TestControlListenAtOnce starts many daemons at once over the socket of a dead one: one of them gets it.
func TestControlListenAtOnce(t *testing.T) {
	path := filepath.Join(socketFolder(t), "control")
	for range 20 {
		_ = mustListen(t, path).listener.Close()
		var wg sync.WaitGroup
		got := make(chan *Control, 16)
		for range cap(got) {
			wg.Go(func() {
				if c, err := listenControl(path); err == nil {
					got <- c
				} else if !strings.HasPrefix(err.Error(), "another daemon answers on ") {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(got) != 1 {
			t.Errorf("%d of %d daemons have the socket, want 1", len(got), cap(got))
		}
		for range len(got) {
			(<-got).close()
		}
	}
}

// TestControlBadClients has clients do what they should not. Others are answered all the same, and the daemon is asked
// nothing.
func TestControlBadClients(t *testing.T) {
	t.Parallel()
	path := serveControl(t, func(r Request) Answer {
		if r.Close {
			t.Errorf("the daemon was asked %v", r)
		}
		return Answer{Status: testStatus()}
	})
	send := func(text string) func(*net.UnixConn) {
		return func(conn *net.UnixConn) {
			_, _ = io.WriteString(conn, text)
			_ = conn.CloseWrite()
		}
	}
	tests := []struct {
		name string
		do   func(conn *net.UnixConn)
		want string // in the answer
	}{
		{"nothing", send(""), "reading the request: EOF"},
		{"half a line", send("close *"), "reading the request: EOF"},
		{"an empty line", send("\n"), "does not know the request"},
		{"garbage", send("\x00\xff\x1b[2J\n"), `does not know the request "\x00\xff\x1b[2J"`},
		{"close without more", send("close\n"), "does not know the request"},
		{"a door without name", send("close \"\"\n"), "does not know the request"},
		{"a door without quotes", send("close ssh\n"), "does not know the request"},
		{"an open quote", send("close \"ssh\n"), "does not know the request"},
		{"no address", send("close \"ssh\" host\n"), "does not know the request"},
		{"too long", send(strings.Repeat("x", maxRequest) + "\n"), "a request has at most 4096 bytes"},
		{"silence", func(*net.UnixConn) {}, "i/o timeout"},
		{"one byte a second", func(conn *net.UnixConn) {
			for {
				if _, err := io.WriteString(conn, "s"); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
		}, "i/o timeout"},
		{"1 GB", func(conn *net.UnixConn) {
			zeros := make([]byte, 1<<20)
			for range 1 << 10 {
				if _, err := conn.Write(zeros); err != nil {
					break
				}
			}
		}, ""},
		{"gone at once", func(conn *net.UnixConn) { _ = conn.Close() }, ""},
		{"gone without the answer", func(conn *net.UnixConn) {
			_, _ = io.WriteString(conn, "status\n")
			_ = conn.Close()
		}, ""},
		{"two requests", send("status\nclose *\n"), "sesame 1.2, process 4711"},
	}
	for _, test := range tests {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go test.do(conn.(*net.UnixConn))
		if test.want != "" {
			answer, _ := io.ReadAll(conn)
			if !strings.Contains(string(answer), test.want) {
				t.Errorf("%s: got %q, want %q in it", test.name, answer, test.want)
			}
		}
		if got := runProgram("sesame", "status", "-s", path); got.status != 0 {
			t.Errorf("after %s: %+v", test.name, got)
		}
		_ = conn.Close()
	}
}

// TestControlSlowClient has a client take nothing of a large answer.
func TestControlSlowClient(t *testing.T) {
	t.Parallel()
	big := testStatus()
	big.ReloadError = strings.Repeat("a mistake\n", 1<<18)
	path := serveControl(t, func(Request) Answer { return Answer{Status: big} })
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "status\n")
	began := time.Now()
	if got := runProgram("sesame", "status", "-s", path); got.status != 0 || got.stdout != big.String() {
		t.Errorf("the next client: got status %d, %q, %d bytes", got.status, got.stderr, len(got.stdout))
	}
	if took := time.Since(began); took > controlTime+10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestControlStuckDaemon has a daemon that does not take what is asked, or does not answer, and one that ends.
func TestControlStuckDaemon(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketFolder(t), "control")
	c := mustListen(t, path)
	asks := make(chan Ask)
	go c.serve(func(Request) Answer { return Answer{} }, asks, func(string) (string, bool, error) { return "", false, nil })
	want := output{1, "", "sesame close: the daemon is busy: it has not answered within 3s\n"}
	if got := runProgram("sesame", "close", "--all", "-s", path); got != want {
		t.Errorf("not taken: got %+v, want %+v", got, want)
	}
	taken := make(chan Ask, 1)
	go func() { taken <- <-asks }()
	if got := runProgram("sesame", "close", "--all", "-s", path); got != want {
		t.Errorf("not answered: got %+v, want %+v", got, want)
	}
	(<-taken).answer <- Answer{} // late, and to nobody: it must not wait

	go func() {
		<-asks
		c.close()
	}()
	var out bytes.Buffer
	cmd := sesame("sesame", "status", "-s", path)
	cmd.Stderr = &out
	if err := cmd.Run(); exitStatus(err) != 1 || out.String() != "sesame status: the daemon is ending\n" {
		t.Errorf("ending: got %v, %q", err, out.String())
	}
}

func TestControlRequestWants(t *testing.T) {
	tests := []struct {
		request string
		want    string // of the openings below, by their number
	}{
		{"status", ""},
		{"close *", "123"},
		{`close "ssh"`, "12"},
		{`close "SSH"`, ""},
		{"close * 192.0.2.7", "13"},
		{`close "ssh" 192.0.2.7`, "1"},
		{`close "ssh" ::ffff:192.0.2.7`, "1"},
		{"close * fe80::7", "2"},
		{"close * fe80::7%eth0", "2"},
		{"close * fe80::7%eth1", ""},
	}
	for _, test := range tests {
		r, _, err := parseRequest(test.request)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for i, o := range []struct{ door, source string }{{"ssh", "192.0.2.7"}, {"ssh", "fe80::7"}, {"web", "192.0.2.7"}} {
			if r.wants(o.door, netip.MustParseAddr(o.source), "eth0") {
				got += strconv.Itoa(i + 1)
			}
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.request, got, test.want)
		}
	}
}

// FuzzParseRequest: whatever is understood is one line that means the same when it is sent again, and a door or an
// address that was named is not lost on the way.
func FuzzParseRequest(f *testing.F) {
	for _, line := range []string{"status", "status json", "close *", "close * 192.0.2.7", `close "ssh"`, `close "a\"\xff\n" fe80::7%eth0`, "close `x`", `close '"'`, `close ""`, "close *x"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, _, err := parseRequest(line)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b\x00") {
				t.Errorf("%q: the error has more than one line: %q", line, err)
			}
			return
		}
		if r.Close && r.Door == "" && !strings.HasPrefix(line, "close *") {
			t.Errorf("%q closes every door", line)
		}
		again, _, err := parseRequest(r.String())
		if err != nil || again != r || strings.Contains(r.String(), "\n") {
			t.Errorf("%q became %+v and then %q, which is %+v (%v)", line, r, r.String(), again, err)
		}
	})
}
