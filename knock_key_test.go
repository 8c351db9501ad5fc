package main

import (
	"strings"
	"testing"
	"time"
)

// TestKeyProfiles reads profiles with keys, and lines of init for them.
func TestKeyProfiles(t *testing.T) {
	const keys = aliceSecret + " " + aliceAuth
	for _, tt := range []struct{ name, in, want string }{
		{"good", "host = h\nkey = " + keys + "\nopen = 22, 51820:udp", ""},
		{"another port", "host = h\nkey = " + keys + "\nopen = 22\nkey_port = 7777", ""},
		{"no ports", "host = h\nkey = " + keys, `open: ports are numbers from 1 to 65535 with commas between them, each optionally followed by :tcp or :udp, not ""`},
		{"one key", "host = h\nkey = " + aliceSecret + "\nopen = 22", "key is two keys in base64: key = KEY_BASE64 HMAC_KEY_BASE64"},
		{"a long key", "host = h\nkey = " + aliceAuth + " " + aliceSecret + "\nopen = 22", "key: it is 1 to 32 bytes in base64"},
		{"and a sequence", "host = h\nsequence = 7\nkey = " + keys + "\nopen = 22", "one of sequence, one_time_sequences and key is needed, and no other: sequence = 7000, 8000:udp, 9000"},
		{"none", "host = h\nsequence = 7\nopen = 22", "open is what a key asks for, and there is none: key = KEY_BASE64 HMAC_KEY_BASE64"},
		{"too many", "host = h\nkey = " + keys + "\nopen = 20000" + strings.Repeat(",20000", 20), "open: these ports are too many for one packet"},
		{"no port", "host = h\nkey = " + keys + "\nopen = 22\nkey_port = 0", "key_port: a number from 1 to 65535 is needed"},
	} {
		profiles, err := parseProfiles("p", strings.NewReader("[a]\n"+tt.in))
		switch {
		case tt.want == "" && (err != nil || len(profiles[0].sequence) != 1 || profiles[0].key == nil):
			t.Errorf("%s: got %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(withoutSecrets(err).Error(), aliceAuth[:20])):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	line := clientLine{name: "ssh", host: "192.0.2.1", key: keys, open: "22,51820:udp", verify: 22}
	want := "sesame://192.0.2.1/ssh?key=" + aliceSecret + "." + aliceAuth + "&open=22,51820:udp&verify=22"
	if line.String() != want {
		t.Errorf("got %s, want %s", line, want)
	}
	if got, err := parseLine(want); err != nil || got != line {
		t.Errorf("read again: got %+v, %v", got, err)
	}
	for _, broken := range []string{want[:len(want)-40], strings.Replace(want, ".", "", 4), strings.Replace(want, "&open=22", "&open=", 1), want + "&sequence=7", strings.Replace(want, "&open", "&opens", 1)} {
		if l, err := parseLine(broken); err == nil && l == line {
			t.Errorf("%s is read as %+v", broken, l)
		}
	}
	if profiles, err := parseProfiles("p", strings.NewReader(line.section())); err != nil || profiles[0].port != 22 || len(profiles[0].key.ports) != 2 {
		t.Errorf("its profile: got %v\n%s", err, line.section())
	}
	now := time.Unix(1795362615, 0)
	k, err := parseKeyKnock(keys, "22,51820:udp")
	if err != nil {
		t.Fatal(err)
	}
	one, other := k.packet(now), k.packet(now)
	r, err := k.open([]byte(one))
	if err != nil || one == other || r.time != now.Unix() || !r.address.IsUnspecified() || len(r.ports) != 2 || r.kind != keyAccess {
		t.Errorf("its packet: got %+v, %v", r, err)
	}
}
