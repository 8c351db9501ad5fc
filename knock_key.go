package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"
)

// keyKnock is what a profile with a key sends in the place of a sequence: packets that ask for ports.
type keyKnock struct {
	Key
	ports []Knock
}

// parseKeyKnock reads two keys in base64 and ports with commas between them. No error has a key in it.
func parseKeyKnock(keys, open string) (k keyKnock, err error) {
	words := strings.Fields(keys)
	if len(words) != 2 {
		return k, errors.New("key is two keys in base64: key = KEY_BASE64 HMAC_KEY_BASE64")
	}
	if k.Secret, err = decodeKey(words[0], maxSecret); err == nil {
		k.Auth, err = decodeKey(words[1], maxAuth)
	}
	if err != nil {
		return k, fmt.Errorf("key: %w", err)
	}
	for _, item := range strings.Split(open, ",") {
		port, err := parseKnock(withoutService(strings.TrimSpace(item)))
		if err != nil {
			return k, fmt.Errorf("open: %w, not %q: a key needs to know what to ask for: open = 22, 51820:udp", errPort, strings.TrimSpace(item))
		}
		k.ports = append(k.ports, port)
	}
	if len(k.packet(time.Unix(1e9, 0))) > keyMaxLen {
		return k, errors.New("open: these ports are too many for one packet")
	}
	return k, nil
}

// packet is another one each time. It asks for the address that it comes from.
func (k keyKnock) packet(now time.Time) string {
	r := keyRequest{user: "sesame", time: now.Unix(), kind: keyAccess, address: netip.IPv4Unspecified(), ports: k.ports}
	var salt [8]byte // which is no secret, and neither is the random number
	binary.NativeEndian.PutUint64(salt[:], rand.Uint64())
	return string(k.seal(r.plain(rand.Uint64()), salt))
}
