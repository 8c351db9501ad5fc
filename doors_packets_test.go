//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// packetsDisk is a disk for the file, and a host's clocks.
type packetsDisk struct {
	text   []byte // nil: it is not there
	full   error
	synced bool
	boot   int64 // the wall's clock at boot
}

// daemon is one that starts now.
func (d *packetsDisk) daemon(forgets bool) *spentPackets {
	return &spentPackets{
		path: "/state/packets", forget: forgets, synced: func() bool { return d.synced },
		load: func() ([]byte, error) {
			if d.text == nil {
				return nil, os.ErrNotExist
			}
			return d.text, nil
		},
		save: func(text []byte) error {
			if d.full == nil {
				d.text = bytes.Clone(text)
			}
			return d.full
		},
	}
}

// spend has packet n, made at a time, come at another one, both by the wall's clock.
func (d *packetsDisk) spend(s *spentPackets, n byte, made, came int64) error {
	p := &KeyPacket{Tag: [32]byte{n}, Time: made, Wall: time.Duration(came) * time.Second}
	return s.spend(Grant{Packet: p, When: time.Duration(came-d.boot) * time.Second})
}

// TestSpentPackets has packets come again: at once, after restarts and reboots, and after the clock was set.
func TestSpentPackets(t *testing.T) {
	const now = 1795362615
	used := func(err error) bool {
		return err == errSpent || err != nil && strings.Contains(err.Error(), "nobody knows any more")
	}
	for name, forgets := range map[string]bool{"disk": false, "memory": true} {
		t.Run(name, func(t *testing.T) {
			d := &packetsDisk{synced: true, boot: now - 1e6}
			s := d.daemon(forgets)
			want := func(what string, err, want error) {
				t.Helper()
				if err != want {
					t.Errorf("%s: got %v, want %v", what, err, want)
				}
			}
			want("the first", d.spend(s, 1, now, now), nil)
			want("again", d.spend(s, 1, now, now), errSpent)
			want("another one", d.spend(s, 2, now-60, now+1), nil)
			s = d.daemon(forgets)
			want("after a restart", d.spend(s, 1, now, now+2), errSpent)
			want("after a restart, another one", d.spend(s, 3, now+2, now+2), nil)
			want("later", d.spend(s, 4, now+500, now+500), nil)
			if !bytes.HasPrefix(d.text, []byte(fmt.Sprint(packetsHead, now+2))) || bytes.Count(d.text, []byte("\n")) != 3 {
				t.Errorf("the file has what is over:\n%s", d.text)
			}
			for _, n := range []byte{1, 2, 3} {
				if err := d.spend(s, n, now, now+10); !used(err) {
					t.Errorf("packet %d, and the clock was set back: got %v", n, err)
				}
			}
			want("the clock was set back, another one", d.spend(s, 5, now+11, now+10), nil)
			d.full = errFake
			if err := d.spend(s, 6, now+501, now+501); !errors.Is(err, errFake) {
				t.Errorf("the disk is full: got %v", err)
			}
			d.full = nil
			want("there is room again", d.spend(s, 6, now+501, now+501), nil)
			was := d.text
			d.boot = now + 520
			if forgets {
				d.text = nil
			}
			s = d.daemon(forgets)
			if err := d.spend(s, 6, now+501, now+521); !used(err) {
				t.Errorf("after a reboot: got %v", err)
			}
			switch err := d.spend(s, 7, now+522, now+522); {
			case forgets && err.Error() != "nobody knows any more whether its packet is used: one that is made in 119 s counts":
				t.Errorf("after a reboot, another one: got %v", err)
			case !forgets:
				want("after a reboot, another one", err, nil)
			}
			want("and after a while", d.spend(s, 8, d.boot+121, d.boot+121), nil)
			d.synced = false
			err := d.spend(s, 9, now+700, now+700)
			if forgets {
				want("the clock is not synchronised", err, errUnsettled)
			} else {
				want("the clock is not synchronised", err, nil)
			}
			d.synced = true
			for i := range len(was) {
				d.text = bytes.Clone(was)
				d.text[i] ^= 1
				for _, text := range [][]byte{d.text, was[:i]} {
					if d.text = text; len(text) == 0 {
						d.text = []byte{}
					}
					s = d.daemon(forgets)
					if err := d.spend(s, 6, now+501, now+501); err == nil || err.Error() != "/state/packets is damaged: no packet counts for 120 s, as nobody knows which are used" {
						t.Fatalf("%q: got %v", text, err)
					}
					if err := d.spend(s, 6, now+501, now+502); !used(err) {
						t.Fatalf("%q, once more: got %v", text, err)
					}
					want("and after a while", d.spend(s, 6, now+622, now+622), nil)
				}
			}
		})
	}
	if err := new(spentPackets).spend(Grant{Packet: &KeyPacket{}}); err != errNoPlace {
		t.Errorf("without a place: got %v", err)
	}
}

// TestSpentPacketsMany has more packets than there is room for: none counts twice, and the file has a bound.
func TestSpentPacketsMany(t *testing.T) {
	d := &packetsDisk{synced: true}
	s := d.daemon(false)
	opened, random := map[[32]byte]bool{}, rand.New(rand.NewPCG(1, 2))
	made := func(i int) *KeyPacket {
		return &KeyPacket{Tag: [32]byte{byte(i), byte(i >> 8), 1}, Time: 1e9 + int64(i/100), Wall: time.Duration(1e9+i/100) * time.Second}
	}
	for i := range 3 * maxPackets {
		for _, n := range []int{i, random.IntN(i + 1)} {
			p := made(n)
			p.Wall = made(i).Wall
			if err := s.spend(Grant{Packet: p, When: 1e6 * time.Second}); err == nil {
				if opened[p.Tag] {
					t.Fatalf("packet %d opens twice", n)
				}
				opened[p.Tag] = true
			}
		}
		if i%500 == 0 {
			s = d.daemon(false)
		}
	}
	if _, times, ok := parsePackets(d.text); !ok || len(times) != maxPackets || len(opened) < 3*maxPackets-200 {
		t.Errorf("got %d in the file and %d that opened", len(times), len(opened))
	}
}

// FuzzPackets has what is read written again as it was.
func FuzzPackets(f *testing.F) {
	s := spentPackets{floor: 7, times: map[[32]byte]int64{{1}: 5, {2}: -6}}
	f.Add([]byte(""))
	f.Add(s.text())
	f.Add([]byte("sesame packets 1 7\t0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		floor, times, ok := parsePackets(text)
		if again := (&spentPackets{floor: floor, times: times}).text(); ok && !bytes.Equal(again, text) {
			t.Fatalf("got %q, written again %q", text, again)
		}
		if _, same, ok := parsePackets((&spentPackets{floor: floor, times: times}).text()); len(times) <= maxPackets && (!ok || !maps.Equal(same, times)) {
			t.Fatalf("%q: what is written cannot be read", text)
		}
	})
}
