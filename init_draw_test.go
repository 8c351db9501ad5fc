//go:build linux

package main

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// TestDraw has sequences that go up and down, far from each other and from the ports of others, and that cover what may be.
func TestDraw(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	others := []Knock{{2000, tcp}, {20000, tcp}, {30000, udp}}
	lowest, highest := uint16(65535), uint16(0)
	seen := map[string]bool{}
	for range 2000 {
		s, err := draw(random, initKnocks, others)
		if err != nil {
			t.Fatal(err)
		}
		ups, downs := 0, 0
		for i, k := range s {
			lowest, highest = min(lowest, k.Port), max(highest, k.Port)
			if k.Proto != tcp || k.Port < 1024 || k.Port >= firstEphemeral {
				t.Errorf("%v: %v is no port to take", s, k)
			}
			for _, o := range append(others[:2:2], s[:i]...) {
				if d := int(k.Port) - int(o.Port); d <= 64 && d >= -64 {
					t.Errorf("%v: %v is near %v", s, k, o)
				}
			}
			if i > 0 && k.Port > s[i-1].Port {
				ups++
			} else if i > 0 {
				downs++
			}
		}
		if len(s) != initKnocks || ups == 0 || downs == 0 {
			t.Errorf("%v: want %d knocks, up and down", s, initKnocks)
		}
		seen[joinKnocks(s)] = true
	}
	if len(seen) != 2000 || lowest > 1100 || highest < 32700 {
		t.Errorf("got %d different ones from %d to %d", len(seen), lowest, highest)
	}
	var all []Knock
	for port := 0; port < firstEphemeral; port += 100 {
		all = append(all, Knock{uint16(port), tcp})
	}
	if s, err := draw(random, initKnocks, all); err == nil {
		t.Errorf("where every port is near another: got %v", s)
	}
	if s, err := draw(iotest.ErrReader(errors.New("no source")), initKnocks, nil); err == nil || s != nil {
		t.Errorf("without a source: got %v, %v", s, err)
	}
}
