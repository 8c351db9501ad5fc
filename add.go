package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// clientLine is what init tells a client: a URL (RFC 3986) of characters that need no escape, so that it can be pasted
// anywhere.
//
//	sesame://192.0.2.1/ssh?sequence=7000,18000:udp,9000&verify=22
//	sesame://192.0.2.1/ssh?sequence=7000,9000,totp&totp=SECRET,30000&verify=22
//	sesame://192.0.2.1/ssh?key=KEY_BASE64.HMAC_KEY_BASE64&open=22&verify=22
type clientLine struct {
	name, host, sequence string
	totp                 TOTP
	key, open            string // with a blank between the two keys; or ""
	keyPort              uint16 // 0: the usual one
	verify               uint16 // a TCP port that opens; 0: none
}

const lineBegin = "sesame://"

func (l clientLine) String() string {
	s := lineBegin + l.host
	if a, err := netip.ParseAddr(l.host); err == nil && a.Is6() {
		s = lineBegin + "[" + l.host + "]"
	}
	s += "/" + l.name + "?sequence=" + l.sequence
	if l.totp.secret != "" {
		s += "&totp=" + strings.ReplaceAll(l.totp.String(), " ", ",")
	}
	if l.key != "" {
		s = strings.TrimSuffix(s, "sequence=") + "key=" + strings.Replace(l.key, " ", ".", 1) + "&open=" + l.open
	}
	if l.keyPort != 0 {
		s += "&key_port=" + strconv.Itoa(int(l.keyPort))
	}
	if l.verify != 0 {
		s += "&verify=" + strconv.Itoa(int(l.verify))
	}
	return s
}

// parseLine reads what String writes. No error has anything of the line in it, which is secret.
func parseLine(text string) (l clientLine, err error) {
	broken := errors.New("the line is broken: copy the whole of it, from sesame:// on")
	rest, begins := strings.CutPrefix(strings.TrimSpace(text), lineBegin)
	place, query, _ := strings.Cut(rest, "?")
	l.host, l.name, _ = strings.Cut(place, "/")
	l.host = strings.TrimSuffix(strings.TrimPrefix(l.host, "["), "]")
	if !begins || !isPlain(l.name) || checkHost(l.host) != nil {
		return l, broken
	}
	for _, item := range strings.Split(query, "&") {
		key, value, _ := strings.Cut(item, "=")
		switch {
		case key == "sequence" && value != "" && strings.Trim(value, "0123456789,:tcpudo") == "":
			l.sequence = value
		case key == "totp":
			if l.totp, err = parseTOTP(strings.ReplaceAll(value, ",", " ")); err != nil {
				return l, broken
			}
		case key == "key" && strings.Count(value, ".") == 1:
			l.key = strings.Replace(value, ".", " ", 1)
		case key == "open" && strings.Trim(value, "0123456789,:tcpud") == "":
			l.open = value
		case key == "verify", key == "key_port":
			port, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return l, broken
			}
			if key == "verify" {
				l.verify = uint16(port)
			} else {
				l.keyPort = uint16(port)
			}
		default:
			return l, broken
		}
	}
	if _, err := parseKeyKnock(l.key, l.open); (l.sequence == "") != (err == nil) {
		return l, broken
	}
	return l, nil
}

const plainLetters = "abcdefghijklmnopqrstuvwxyz0123456789-_"

// isPlain is whether a name can stand in a URL, a shell's command line and a configuration as it is.
func isPlain(name string) bool {
	return name != "" && name[0] != '-' && len(name) <= 64 && strings.Trim(strings.ToLower(name), plainLetters) == ""
}

// checkHost lets through an address, or a name such as host.example.
func checkHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		return nil
	}
	if _, notPort := parseKnock(host); host == "" || notPort == nil || host[0] == '-' || len(host) > 253 || strings.Trim(strings.ToLower(host), plainLetters+".") != "" {
		return fmt.Errorf("an address or a name is needed, such as 192.0.2.1, not %q", host)
	}
	return nil
}

// section is the profile as it is written.
func (l clientLine) section() string {
	s := fmt.Sprintf("[%s]\n\thost     = %s\n\tsequence = %s\n", l.name, l.host, l.sequence)
	if l.totp.secret != "" {
		s += fmt.Sprintf("\ttotp     = %v\n", l.totp)
	}
	if l.key != "" {
		s = fmt.Sprintf("[%s]\n\thost     = %s\n\tkey      = %s\n\topen     = %s\n", l.name, l.host, l.key, l.open)
	}
	if l.keyPort != 0 {
		s += fmt.Sprintf("\tkey_port = %d\n", l.keyPort)
	}
	if l.verify != 0 {
		s += fmt.Sprintf("\tverify   = %d\n", l.verify)
	}
	return s
}

// addProfile reads the line of init from standard input, as what is an argument can be seen by others, and makes a profile
// of it.
func addProfile(e env, args []string) error {
	rest, err := getopt(args, helpOptions())
	if err != nil {
		return err
	}
	name := strings.Join(rest, " ")
	if name != "" && !isPlain(name) {
		return usageError(fmt.Sprintf("a profile's name is made of letters, digits, - and _, and %q is not", name))
	}
	if err := isFree(name); err != nil {
		return err
	}
	in, others, prompts := bufio.NewReaderSize(e.stdin, maxClientLine), e.stderr, isTerminal(e.stdin)
	if prompts {
		fmt.Fprintln(e.stderr, "Paste the line that sesame init has printed:")
		others = io.Discard // which the terminal shows itself
	}
	text, err := takeLine(in, others)
	if err != nil {
		return err
	}
	if !prompts {
		_, _ = io.Copy(others, in)
	}
	line, err := parseLine(text)
	if err != nil {
		return err
	}
	about := "To have ssh knock by itself, these lines go into ~/.ssh/config:"
	if line.name != "ssh" && line.verify != 22 {
		about = fmt.Sprintf("If ssh listens on port %d, these lines in ~/.ssh/config have it knock by itself:", line.verify)
	}
	line.name = cmp.Or(name, line.name)
	file, err := line.write()
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "%s now has the profile %s, and nobody else can read it.\nTo knock: sesame knock %[2]s\n", file, line.name)
	if line.verify == 0 {
		return nil
	}
	fmt.Fprintln(e.stderr, about)
	_, err = fmt.Fprint(e.stdout, line.sshConfig())
	return err
}

// isFree is an error if there is a profile of that name.
func isFree(name string) error {
	p, file, _, err := findProfile(name, io.Discard)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case p != nil:
		return fmt.Errorf("%s:%d: there is a profile %q already: sesame add NAME gives the new one another name", file, p.line, name)
	}
	return withoutSecrets(err)
}

const maxClientLine = 4096

// takeLine returns the first line that begins as init's. What comes before it is passed on byte by byte, so that a prompt
// in the middle of a line is seen.
func takeLine(in *bufio.Reader, others io.Writer) (found string, err error) {
	for err == nil {
		begin, n := []byte(nil), 0
		for n < len(lineBegin) && strings.HasPrefix(lineBegin, string(begin)) {
			n++
			if begin, err = in.Peek(n); err != nil {
				_, _ = others.Write(begin)
				break
			}
		}
		if string(begin) == lineBegin {
			line, err := in.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				return "", fmt.Errorf("a line that begins with %s has more than %d bytes", lineBegin, maxClientLine)
			}
			return strings.TrimSpace(string(line)), nil
		}
		for c := byte(0); err == nil && c != '\n' && c != '\r'; _, _ = others.Write([]byte{c}) {
			if c, err = in.ReadByte(); err != nil {
				break
			}
		}
	}
	if err != io.EOF {
		return "", err
	}
	return "", fmt.Errorf("no line that begins with %s has come on standard input: sesame init on the server prints it", lineBegin)
}

// write adds the profile to the file of profiles, and makes that if it is missing.
func (l clientLine) write() (file string, err error) {
	if file, err = profilesFile(); err != nil {
		return "", err
	}
	if err := isFree(l.name); err != nil {
		return "", err
	}
	was, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	text := string(was)
	if text != "" {
		text = strings.TrimSuffix(text, "\n") + "\n\n"
	}
	text += l.section()
	if _, err := parseProfiles(file, strings.NewReader(text)); err != nil {
		return "", withoutSecrets(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	_, err = writeFile(file, []byte(text), nil, notWritten(file, was))
	return file, err
}

// sshConfig is what has ssh knock before it connects. The command stands alone in its Match: whether it succeeds or not,
// the host is what Host says. The empty line ends one that the file before may end in.
func (l clientLine) sshConfig() string {
	s := fmt.Sprintf("\nMatch originalhost %[1]s exec \"sesame knock -q %[1]s\"\nHost %[1]s\n\tHostName %s\n\tConnectTimeout 10\n", l.name, l.host)
	if l.verify != 22 {
		s += fmt.Sprintf("\tPort %d\n", l.verify)
	}
	return s
}
