//go:build linux

package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// defaultControl is the socket that the daemon answers on.
const defaultControl = "/run/sesame/control"

const (
	maxRequest = 4096     // bytes, the newline included
	maxAnswer  = 64 << 20 // bytes that the client takes
	// controlTime is how long a client may take to ask, and again to take the answer.
	controlTime = 2 * time.Second
	// answerTime is how long the daemon may take.
	answerTime = 3 * time.Second
	// clientTime is how long the client waits. Others may have come before.
	clientTime = 20 * time.Second
	// maxSocketPath is what fits into sun_path with its NUL (unix(7)).
	maxSocketPath = 107
)

var (
	errBusy   = fmt.Errorf("the daemon is busy: it has not answered within %v", answerTime)
	errEnding = errors.New("the daemon is ending")
)

// Control is the unix socket behind `sesame status` and `sesame close`. On each connection a client sends one line, one
// of
//
//	status
//	status json
//	close *
//	close * 192.0.2.7
//	close "ssh"
//	close "ssh" fe80::7%eth0
//
// or one of sesame try (serve_trial.go),
// where a door's name is quoted as in Go, so that it may have any character. The answer is one line, "ok" or "error" and
// the number of bytes that follow, and then the text to show.
type Control struct {
	path     string
	listener *os.File
	file     os.FileInfo // of the socket
	ended    chan struct{}
}

// parseRequest reads the line of a client, without its newline. json is how the status is to be shown.
func parseRequest(line string) (r Request, json bool, err error) {
	if line == "status" || line == "status json" {
		return Request{}, line == "status json", nil
	}
	rest, known := strings.CutPrefix(line, "close ")
	r.Close = true
	if after, all := strings.CutPrefix(rest, "*"); all {
		rest = after
	} else {
		quoted, _ := strconv.QuotedPrefix(rest)
		r.Door, _ = strconv.Unquote(quoted)
		rest, known = rest[len(quoted):], known && r.Door != ""
	}
	if addr, given := strings.CutPrefix(rest, " "); given {
		r.Source, err = netip.ParseAddr(addr)
		r.Source, rest = r.Source.Unmap(), ""
	}
	if !known || err != nil || rest != "" {
		return Request{}, false, fmt.Errorf("the daemon does not know the request %q: it is sesame %s", line, versionName())
	}
	return r, false, nil
}

// listenControl makes the socket at path, for root alone, and its folder. One that a dead daemon has left is replaced;
// one that a daemon answers on is an error, and so is what is no socket.
func listenControl(path string) (*Control, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the control socket's folder: %w: -s names another socket", err)
	}
	// Another daemon that starts now must not take our socket, bound and not yet listening, for a dead one's.
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeDead(path); err != nil {
		return nil, err
	}
	c := &Control{path: path, ended: make(chan struct{})}
	if c.listener, err = listenUnix(path); err != nil {
		return nil, fmt.Errorf("making the control socket: %w: -s names another", &os.PathError{Op: "listen", Path: path, Err: err})
	}
	if c.file, err = os.Lstat(path); err != nil {
		_ = c.listener.Close()
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	return c, nil
}

// listenUnix is net.Listen for root alone. net's would take 130 KB of a router's memory: measured on the emulated one.
func listenUnix(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// The file gets the mode of the socket's inode, less the umask (unix_bind in net/unix/af_unix.c): at no moment
	// others can connect. A chmod of the file would be too late, and umask(2) is the whole process's.
	if err = unix.Fchmod(fd, 0o600); err == nil {
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
			err = unix.Listen(fd, unix.SOMAXCONN)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil // as it does not block, Close ends an accept
}

// accept waits for a client.
func (c *Control) accept() (*os.File, error) {
	raw, err := c.listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	waited := raw.Read(func(listener uintptr) bool {
		fd, _, err = syscall.Accept4(int(listener), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		return err != syscall.EAGAIN
	})
	if err = cmp.Or(waited, err); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), c.path), nil
}

// socketPath checks the path of a socket, and makes it one that is not taken for a name without file (unix(7), abstract).
func socketPath(path string) (string, error) {
	if strings.HasPrefix(path, "@") {
		path = "./" + path
	}
	switch {
	case path == "":
		return "", usageError("option -s: a path is needed: -s " + defaultControl)
	case len(path) > maxSocketPath:
		return "", usageError(fmt.Sprintf("option -s: a socket's path has at most %d bytes, not %d", maxSocketPath, len(path)))
	}
	return path, nil
}

// lockFolder keeps other daemons from making or taking away a socket in the folder until unlock is called.
func lockFolder(folder string) (unlock func(), err error) {
	f, err := openLocked(folder, func() (*os.File, error) { return os.Open(folder) })
	if err != nil {
		return nil, fmt.Errorf("using the control socket's folder: %w: -s names another socket", err)
	}
	return func() { _ = f.Close() }, nil
}

// removeDead removes a socket that nobody listens on.
func removeDead(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking for a control socket: %w", err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is not a socket and is left as it is: -s names another", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		fallthrough
	case errors.Is(err, unix.EAGAIN): // too many wait for it (connect(2))
		return fmt.Errorf("another daemon answers on %s: -s names another", path)
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("looking for another daemon: %w: -s names another socket", err)
}

// close removes the socket, if it still is ours, and ends serve. As long as ours is open, no other file gets its inode
// number.
func (c *Control) close() {
	if unlock, err := lockFolder(filepath.Dir(c.path)); err == nil {
		defer unlock()
	}
	if info, err := os.Lstat(c.path); err == nil && os.SameFile(info, c.file) {
		_ = os.Remove(c.path)
	}
	close(c.ended)
	_ = c.listener.Close()
}

// serve answers clients until close, one after the other: who can connect is root, and who dawdles is cut off. bars asks
// the reader, doors take from asks, and neither waits for anything here. trial answers what it knows of.
func (c *Control) serve(bars func(Request) Answer, asks chan<- Ask, trial func(line string) (text string, known bool, err error)) {
	for {
		conn, err := c.accept()
		if err != nil {
			select {
			case <-c.ended:
				return
			case <-time.After(100 * time.Millisecond): // no descriptor is left, say
				continue
			}
		}
		text, err := c.reply(conn, bars, asks, trial)
		word := "ok"
		if err != nil {
			word, text = "error", err.Error()
		}
		_ = conn.SetWriteDeadline(time.Now().Add(controlTime))
		_, _ = fmt.Fprintf(conn, "%s %d\n%s", word, len(text), text)
		_ = conn.Close()
	}
}

// reply reads a client's request and returns what to show.
func (c *Control) reply(conn *os.File, bars func(Request) Answer, asks chan<- Ask, trial func(string) (string, bool, error)) (string, error) {
	_ = conn.SetReadDeadline(time.Now().Add(controlTime))
	line, err := readRequest(conn)
	if err != nil {
		return "", err
	}
	if text, known, err := trial(line); known {
		return text, err
	}
	request, json, err := parseRequest(line)
	if err != nil {
		return "", err
	}
	barred := bars(request)
	if barred.Err != nil {
		return "", barred.Err
	}
	ask := Ask{request, make(chan Answer, 1)}
	a := askOwner(asks, ask, func() {}, ask.answer, c.ended)
	if a.Err == errBusy || a.Err == errEnding {
		return "", a.Err
	}
	if !request.Close {
		a.Status.Refused = append(a.Status.Refused, barred.Status.Refused...)
		a.Status.Bars, a.Status.MoreBars, a.Status.Codes = barred.Status.Bars, barred.Status.MoreBars, barred.Status.Codes
		a.Status.CodesWait = barred.Status.CodesWait
		if json {
			return a.Status.json(), nil
		}
		return a.Status.String(), nil
	}
	text := ""
	if a.Closing > 0 {
		text += fmt.Sprintf("closing %d %s\n", a.Closing, plural(a.Closing, "opening"))
	}
	if barred.Lifted > 0 {
		text += fmt.Sprintf("lifted %d %s\n", barred.Lifted, plural(barred.Lifted, "bar"))
	}
	if text == "" && a.Err != nil {
		return "", a.Err
	}
	return cmp.Or(text, "no door is open\n"), nil
}

// readRequest reads one line, and not more than maxRequest bytes.
func readRequest(r io.Reader) (line string, err error) {
	b, err := bufio.NewReaderSize(r, maxRequest).ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("a request has at most %d bytes", maxRequest)
	case err != nil:
		return "", fmt.Errorf("reading the request: %w", err)
	}
	return string(b[:len(b)-1]), nil
}

// askOwner gives the owner of a channel an item that asks for an answer, and waits for that, for answerTime at most. given is
// called when the owner has it. errEnding is that the owner has ended.
func askOwner[T any](owner chan<- T, item T, given func(), answer <-chan Answer, ended <-chan struct{}) Answer {
	busy := time.After(answerTime)
	for {
		select {
		case owner <- item:
			owner = nil
			given()
		case a := <-answer:
			return a
		case <-busy:
			return Answer{Err: errBusy}
		case <-ended:
			return Answer{Err: errEnding}
		}
	}
}

type statusOptions struct {
	socket string
	json   bool
}

func socketOption(to *string) option {
	*to = defaultControl
	return stringOption('s', "socket", "PATH", "the daemon's socket (default "+defaultControl+")", to)
}

func (o *statusOptions) options() []option {
	return append([]option{
		socketOption(&o.socket),
		flagOption(0, "json", "for programs", &o.json),
	}, helpOptions()...)
}

// showStatus prints what the daemon says of itself.
func showStatus(e env, args []string) error {
	var o statusOptions
	if err := onlyOptions(args, o.options(), ": -s names a socket"); err != nil {
		return err
	}
	request := Request{}.String()
	if o.json {
		request += " json"
	}
	return askDaemon(e, o.socket, request)
}

type closeOptions struct {
	socket string
	all    bool
}

func (o *closeOptions) options() []option {
	return append([]option{
		socketOption(&o.socket),
		flagOption(0, "all", "close every door", &o.all),
	}, helpOptions()...)
}

// closeDoors has the daemon close a door, or all, for one source or every one.
func closeDoors(e env, args []string) error {
	var o closeOptions
	rest, err := getopt(args, o.options())
	if err != nil {
		return err
	}
	r, err := o.request(rest)
	if err != nil {
		return err
	}
	return askDaemon(e, o.socket, r.String())
}

func (o *closeOptions) request(args []string) (r Request, err error) {
	r.Close = true
	if !o.all {
		// An empty name is a script's unset variable, and not every door.
		if len(args) == 0 || args[0] == "" {
			return r, usageError("a door's name is needed, or --all")
		}
		r.Door, args = args[0], args[1:]
	}
	if len(args) > 1 {
		return r, usageError(fmt.Sprintf("unexpected argument %q", args[1]))
	}
	if len(args) == 1 {
		addr, err := netip.ParseAddr(args[0])
		if err != nil {
			return r, usageError(fmt.Sprintf("%q is not an address: only an address may follow the door, or --all", args[0]))
		}
		r.Source = addr.Unmap()
	}
	if len(r.String()) >= maxRequest {
		return r, usageError("no door has a name that long")
	}
	return r, nil
}

// askDaemon sends the request to the daemon that listens on the socket, and prints its answer.
func askDaemon(e env, socket, request string) error {
	path, err := socketPath(socket)
	if err != nil {
		return err
	}
	answer, err := fetch(path, request)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("no daemon answers on %s: start it, or name its socket with -s", path)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("asking the daemon on %s: %w: run as root", path, bare(err))
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("the daemon on %s is there, and does not answer", path)
	case err != nil:
		return fmt.Errorf("asking the daemon on %s: %w", path, bare(err))
	}
	head, text, _ := strings.Cut(answer, "\n")
	word, size, _ := strings.Cut(head, " ")
	n, err := strconv.Atoi(size)
	switch {
	case answer == "":
		return fmt.Errorf("the daemon on %s has ended instead of answering", path)
	case err != nil || word != "ok" && word != "error":
		return fmt.Errorf("what answers on %s is not sesame: -s names another socket", path)
	case len(text) != n:
		return fmt.Errorf("the daemon on %s has broken off its answer", path)
	}
	text = printableLines("", text) // who listens there may be anybody
	if word == "error" {
		return errors.New(strings.TrimSuffix(text, "\n"))
	}
	_, err = io.WriteString(e.stdout, text)
	return err
}

// fetch sends one line and returns all that comes back.
func fetch(path, request string) (string, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(clientTime))
	if _, err := io.WriteString(conn, request+"\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	return string(answer), err
}

// bare is the system's error alone, where the path is named already.
func bare(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return err
}
