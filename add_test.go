package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClientLine(t *testing.T) {
	for _, text := range []string{
		"sesame://192.0.2.1/ssh?sequence=7000,18000:udp,9000&verify=22",
		"sesame://[2001:db8::1]/a-b_c?sequence=7000",
		"sesame://host.example/x?sequence=1,2&verify=65535",
		"sesame://192.0.2.1/ssh?sequence=7000,totp&totp=JBSWY3DPEHPK3PXP&verify=22",
		"sesame://192.0.2.1/ssh?sequence=7000,totp:udp&totp=JBSWY3DPEHPK3PXP,30000",
	} {
		for _, around := range []string{"", "\n", " \r\n"} {
			if l, err := parseLine(around + text + around); err != nil || l.String() != text {
				t.Errorf("got %v, %v, want %s", l, err, text)
			}
		}
	}
	const secret = "7771,7772"
	for _, text := range []string{
		"", "sesame:", "http://192.0.2.1/ssh?sequence=" + secret, "sesame://192.0.2.1/ssh", "sesame://192.0.2.1?sequence=" + secret,
		"sesame:///ssh?sequence=" + secret, "sesame://192.0.2.1/ssh?verify=22", "sesame://192.0.2.1/s%0Ash?sequence=" + secret,
		"sesame://192.0.2.1/ssh?sequence=" + secret + "%0Adelay=1", "sesame://192.0.2.1/ssh?sequence=" + secret + "\nhost=x",
		"sesame://192.0.2.1/ssh?sequence=" + secret + "&verify=x", "sesame://-oProxyCommand/ssh?sequence=" + secret,
		"sesame://192.0.2.1/-ssh?sequence=" + secret, "sesame://a b/ssh?sequence=" + secret, "sesame://192.0.2.1/ssh?sequence=",
		"sesame://192.0.2.1/ssh?sequence=" + secret + "&verify=22&key=abc", "sesame://192.0.2.1/ssh?sequence=" + secret + ",totp&totp=0777",
		"sesame://192.0.2.1/ssh?sequence=" + secret + ",totp&totp=JBSWY3DPEHPK3PXP,77777", "sesame://192.0.2.1/ssh?one_time_sequences=/etc/passwd",
	} {
		if l, err := parseLine(text); err == nil || strings.Contains(err.Error(), "777") {
			t.Errorf("%q: got %v, %v, want an error without the secret", text, l, err)
		}
	}
}

// TestTakeLine has what comes beside the line passed on, to the byte.
func TestTakeLine(t *testing.T) {
	const line = "sesame://h/n?sequence=1,2"
	for _, tt := range []struct{ in, passed, want string }{
		{line + "\n", "", line},
		{line, "", line},
		{"words\r\n" + line + "\r\nmore\r\n", "words\r\nmore\r\n", line},
		{"password: \n" + line + "\nsesa", "password: \nsesa", line},
		{"sesame\nsesame:/\n" + line + "\n", "sesame\nsesame:/\n", line},
		{"see " + line + "\n" + line + "\n", "see " + line + "\n", line},
		{"no line\n", "no line\n", ""},
		{"", "", ""},
		{line + strings.Repeat("1", maxClientLine) + "\n", "", ""},
	} {
		var passed bytes.Buffer
		in := bufio.NewReaderSize(strings.NewReader(tt.in), maxClientLine)
		got, err := takeLine(in, &passed)
		if err == nil {
			_, _ = io.Copy(&passed, in)
		}
		if got != tt.want || passed.String() != tt.passed || (err == nil) != (tt.want != "") || err != nil && strings.Contains(err.Error(), "1,2") {
			t.Errorf("%q: got %q, %v, passed on %q, want %q, passed on %q", tt.in, got, err, passed.String(), tt.want, tt.passed)
		}
	}
	// A prompt is seen before its answer.
	in, from := io.Pipe()
	to, out := io.Pipe()
	done := make(chan string)
	go func() {
		found, _ := takeLine(bufio.NewReader(in), out)
		done <- found
	}()
	_, _ = from.Write([]byte("[sudo] password: "))
	prompt := make([]byte, len("[sudo] password: "))
	if _, err := io.ReadFull(to, prompt); err != nil || string(prompt) != "[sudo] password: " {
		t.Errorf("got %q, %v", prompt, err)
	}
	go func() { _, _ = io.Copy(io.Discard, to) }()
	_, _ = from.Write([]byte("\n" + line + "\n"))
	_ = from.Close()
	if got := <-done; got != line {
		t.Errorf("got %q", got)
	}
}

// TestAdd makes profiles beside those that are there, which stay to the byte.
func TestAdd(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", folder)
	t.Setenv("AppData", folder)
	file := filepath.Join(folder, "sesame", "profiles")
	add := func(stdin string, args ...string) output {
		var stdout, stderr bytes.Buffer
		status := run(env{stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr}, append([]string{"sesame", "add"}, args...))
		return output{status, stdout.String(), stderr.String()}
	}
	text := func() string { b, _ := os.ReadFile(file); return string(b) }
	const line = "sesame://192.0.2.1/ssh?sequence=7000,18000:udp,9000&verify=22\n"
	const profile = "\n\thost     = 192.0.2.1\n\tsequence = 7000,18000:udp,9000\n\tverify   = 22\n"
	got := add("before\n"+line+"after\n", "home")
	const config = "\nMatch originalhost home exec \"sesame knock -q home\"\nHost home\n\tHostName 192.0.2.1\n\tConnectTimeout 10\n"
	if got.status != 0 || got.stdout != config || !strings.HasPrefix(got.stderr, "before\nafter\n") || strings.Contains(got.stderr, "7000") || text() != "[home]"+profile {
		t.Fatalf("got %+v and %s", got, text())
	}
	if info, err := os.Stat(file); err != nil || os.PathSeparator == '/' && info.Mode() != 0o600 {
		t.Errorf("got %v, %v, want mode 600", info.Mode(), err)
	}
	was := text()
	for _, tt := range []struct {
		stdin  string
		args   []string
		status int
		want   string
	}{
		{line, []string{"home"}, 1, `:1: there is a profile "home" already`},
		{line, []string{"a b"}, 2, `a profile's name is made of letters, digits, - and _, and "a b" is not`},
		{line, []string{"a", "b"}, 2, "a profile's name"},
		{"nothing\n", nil, 1, "no line that begins with sesame:// has come on standard input"},
		{"sesame://192.0.2.1/ssh?sequence=80000\n", nil, 1, "a port is a number from 1 to 65535\n"},
		{"sesame://192.0.2.1/ssh\n", nil, 1, "the line is broken"},
	} {
		if got := add(tt.stdin, tt.args...); got.status != tt.status || !strings.Contains(got.stderr, tt.want) || got.stdout != "" || strings.Contains(got.stderr, "80000") || text() != was {
			t.Errorf("%q %q: got %+v and %s, want %d and %q", tt.stdin, tt.args, got, text(), tt.status, tt.want)
		}
	}
	was = "# mine\n[a]\nhost = a\nsequence = 1,2"
	if err := os.WriteFile(file, []byte(was), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := add("sesame://192.0.2.1/web?sequence=1,2&verify=443\n"); got.status != 0 || !strings.Contains(got.stdout, "\tPort 443\n") || !strings.Contains(got.stderr, "If ssh listens on port 443, these lines") ||
		text() != was+"\n\n[web]\n\thost     = 192.0.2.1\n\tsequence = 1,2\n\tverify   = 443\n" {
		t.Errorf("got %+v and %s", got, text())
	}
	if got := add("sesame://192.0.2.1/vpn?sequence=1,2\n"); got.status != 0 || got.stdout != "" {
		t.Errorf("without a TCP port: got %+v", got)
	}
	was = "oops\n"
	if err := os.WriteFile(file, []byte(was), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := add(line); got.status != 1 || text() != was {
		t.Errorf("a file with a mistake: got %+v and %s", got, text())
	}
}
