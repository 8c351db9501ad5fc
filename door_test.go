package main

import "testing"

// TestDecoys has them 32 ports up and down from a knock, as far as there are ports, and in its protocol.
func TestDecoys(t *testing.T) {
	for _, test := range []struct{ port, lowest, highest uint16 }{
		{7000, 6968, 7032}, {1, 0, 33}, {32, 0, 64}, {33, 1, 65}, {65535, 65503, 65535}, {65503, 65471, 65535}, {65502, 65470, 65534},
	} {
		k := Knock{test.port, tcp}
		if lowest, highest := k.decoys(); lowest != test.lowest || highest != test.highest {
			t.Errorf("decoys of %v: got %d to %d, want %d to %d", k, lowest, highest, test.lowest, test.highest)
		}
		for port := range 65536 {
			other := Knock{uint16(port), tcp}
			if want := port >= int(test.lowest) && port <= int(test.highest); k.near(other) != want || other.near(k) != want {
				t.Fatalf("%v is near %v: got %v and %v, want %v", other, k, k.near(other), other.near(k), want)
			}
		}
		if k.near(Knock{test.port, udp}) {
			t.Errorf("%v is near UDP", k)
		}
	}
}
