//go:build linux

package main

import (
	"reflect"
	"strings"
	"testing"
)

// TestConfigKeys reads doors with keys, right and wrong: no message has a key in it.
func TestConfigKeys(t *testing.T) {
	const (
		keys = aliceSecret + " " + aliceAuth
		door = "[ssh]\nOpen_Ports = 22\nCmd_Timeout = 60\n"
		form = "Key is a name and two keys in base64, and strict after them if you like: Key = alice KEY_BASE64 HMAC_KEY_BASE64"
	)
	for _, tt := range []struct{ name, in, wrong, surprise string }{
		{"one", door + "Key = alice " + keys, "", ""},
		{"two, one strict, without padding, with a comment", door + "Key = alice " + keys + "\nKey = bob " + strings.Trim(aliceSecret, "=") + " " + strings.Trim(aliceAuth, "=") + " Strict # his", "", ""},
		{"another port", door + "Key = alice " + keys + "\n[options]\nKey_Port = 7777", "", ""},
		{"no value", door + "Key = ", form, ""},
		{"no HMAC key", door + "Key = alice " + aliceSecret, form, ""},
		{"one word too many", door + "Key = alice " + keys + " loose", form, ""},
		{"no base64", door + "Key = alice x! " + aliceAuth, "Key alice: the first key: it is 1 to 32 bytes in base64", ""},
		{"too long", door + "Key = alice " + aliceAuth + " " + aliceSecret, "Key alice: the first key: it is 1 to 32 bytes in base64", ""},
		{"HMAC key too long", door + "Key = alice " + aliceSecret + " " + strings.Repeat("AAAA", 46), "Key alice: the second key, for the HMAC: it is 1 to 136 bytes in base64", ""},
		{"no HMAC key in it", door + "Key = alice " + aliceSecret + " =", "Key alice: the second key, for the HMAC: it is 1 to 136 bytes in base64", ""},
		{"the same", door + "Key = alice " + aliceSecret + " " + aliceSecret, "Key alice: both keys are the same one: sesame init --key makes two", ""},
		{"no ports", "[ssh]\nStart_Command = open\nKey = alice " + keys, "Key without Open_Ports opens nothing: a packet names ports, which must be among them: Open_Ports = 22", ""},
		{"no port", door + "Key = alice " + keys + "\n[options]\nKey_Port = x", `Key_Port is a UDP port from 1 to 65535, such as 62201, not "x"`, ""},
		{"a port of TCP", door + "Key = alice " + keys + "\n[options]\nKey_Port = 62201:udp", `Key_Port is a UDP port from 1 to 65535, such as 62201, not "62201:udp"`, ""},
		{"in the options", door + "Key = alice " + keys + "\n[options]\nKey = bob " + keys, "Key belongs in a door's section, not in [options]", ""},
		{"and a sequence", door + "Sequence = 7000,9000,8000\nKey = alice " + keys, "", "it has a Key and a sequence: it opens by either, so it is as safe as the weaker one, the sequence: have two doors, or leave one out"},
		{"and a knock on its port", door + "Key = alice " + keys + "\n[b]\nOpen_Ports = 23\nCmd_Timeout = 9\nDecoys = no\nSequence = 7000,62201:udp,8000", "", "a knock is Key_Port, 62201:udp, which anybody may know: take another one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := readText(tt.in)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if !strings.HasSuffix(got, tt.wrong) || tt.wrong == "" && got != "" {
				t.Errorf("got %q, want %q", got, tt.wrong)
			}
			if c != nil {
				surprises := strings.Join(c.Warnings, "\n")
				if !strings.HasSuffix(surprises, tt.surprise) || tt.surprise == "" && surprises != "" {
					t.Errorf("warnings: got %q, want %q", surprises, tt.surprise)
				}
				got += surprises
			}
			for _, secret := range []string{strings.Trim(aliceSecret, "="), strings.Trim(aliceAuth, "=")} {
				if strings.Contains(got, secret) {
					t.Errorf("a key is in %q", got)
				}
			}
		})
	}
	alice, bob := *aliceKey(t), *aliceKey(t)
	bob.Name, bob.Strict = "bob", true
	c, err := readText(door + "Key = alice " + keys + "\nKey = bob " + keys + " strict")
	if err != nil || !reflect.DeepEqual(c.Doors[0].Keys, []Key{alice, bob}) || c.KeyPort != 62201 {
		t.Errorf("got %+v, %v", c, err)
	}
	if got, want := describeDoor(c.Doors[0], 0, true), "ssh: by the key of alice, bob, opens 22:tcp for 1m0s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	once := *c.Doors[0]
	once.OneTime = "file"
	if on, off := inForce([]*Door{&once}, nil); len(on) != 1 || on[0].Sequence != nil || len(off) != 1 {
		t.Errorf("without a one-time sequence left: got %v and %v", on, off)
	}
}
