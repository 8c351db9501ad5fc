package main

import (
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// A code is six digits, as authenticator apps show them for 30 seconds (RFC 6238 with SHA-1). Knocked, it is two ports: 493 027 is
// 20493 and then 20027.
const (
	codeTime    = 30 * time.Second
	codeHalves  = 1000 // how many there are of each half
	defaultBase = 20000
	farSteps    = 10     // within which a code is known; within one it is right
	totpItem    = "totp" // stands for both in a sequence
	shortSecret = 16     // bytes; RFC 4226, section 4, wants as many at least
)

// TOTP makes codes, and their ports. The zero value makes none.
type TOTP struct {
	secret string // the bytes
	base   uint16 // to which each half is added
}

// parseTOTP reads SECRET or SECRET BASE, the secret in base32 (RFC 4648, section 6), as apps take it. The error tells what is allowed,
// and not what was given.
func parseTOTP(value string) (t TOTP, err error) {
	words := append(strings.Fields(value), strconv.Itoa(defaultBase))
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(strings.TrimRight(words[0], "=")))
	base, notNumber := strconv.ParseUint(words[min(1, len(words)-1)], 10, 16)
	switch {
	case len(words) > 3 || err != nil || len(secret) == 0:
		return t, errors.New("the secret of an app is needed, in base32 and without blanks, and a base for its ports if it is not 20000: " +
			"TOTP = SECRET 30000; sesame init --totp draws one")
	case notNumber != nil || base == 0 || base > 1<<16-codeHalves:
		return t, fmt.Errorf("the base is a number from 1 to %d, as each half of a code is added to it", 1<<16-codeHalves)
	}
	return TOTP{string(secret), uint16(base)}, nil
}

// String is how it is written, and secret.
func (t TOTP) String() string {
	s := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(t.secret))
	if t.base != defaultBase {
		s += fmt.Sprint(" ", t.base)
	}
	return s
}

// codeStep is the number of the step that a time is in, since 1970 (RFC 6238, section 4.2).
// A clock that is not set can be before the first ones.
func codeStep(sinceEpoch time.Duration) uint32 { return uint32(max(sinceEpoch/codeTime, farSteps)) }

// code is that of a step (RFC 4226, section 5.3).
func (t TOTP) code(step uint32) uint32 {
	sum := hmacSHA1(t.secret, string(binary.BigEndian.AppendUint64(nil, uint64(step))))
	return binary.BigEndian.Uint32(sum[sum[19]&15:]) & (1<<31 - 1) % (codeHalves * codeHalves)
}

// ports are those of a code's halves.
func (t TOTP) ports(code uint32) []uint16 {
	return []uint16{t.base + uint16(code/codeHalves), t.base + uint16(code%codeHalves)}
}

// key names the secret where it must not stand.
func (t TOTP) key() string {
	sum := hmacSHA1(t.secret, "sesame")
	return fmt.Sprintf("%x", sum[:8])
}

// hmacSHA1 is RFC 2104's. crypto/hmac would make the file 0.2 MB larger.
func hmacSHA1(key, text string) [20]byte {
	var inner, outer [64]byte
	if len(key) > len(inner) {
		sum := sha1([]byte(key))
		key = string(sum[:])
	}
	copy(inner[:], key)
	outer = inner
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	sum := sha1(append(inner[:], text...))
	return sha1(append(outer[:], sum[:]...))
}

// sha1 is FIPS 180-4's, section 6.1.
func sha1(text []byte) (sum [20]byte) {
	h := [5]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}
	length := 8 * uint64(len(text))
	for text = append(text, 0x80); len(text)%64 != 56; {
		text = append(text, 0)
	}
	for text = binary.BigEndian.AppendUint64(text, length); len(text) > 0; text = text[64:] {
		var w [80]uint32
		a, b, c, d, e := h[0], h[1], h[2], h[3], h[4]
		for i := range w {
			if i < 16 {
				w[i] = binary.BigEndian.Uint32(text[4*i:])
			} else {
				w[i] = bits.RotateLeft32(w[i-3]^w[i-8]^w[i-14]^w[i-16], 1)
			}
			f := [4]uint32{b&c | ^b&d, b ^ c ^ d, b&c | b&d | c&d, b ^ c ^ d}[i/20]
			k := [4]uint32{0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6}[i/20]
			a, b, c, d, e = bits.RotateLeft32(a, 5)+f+e+k+w[i], a, bits.RotateLeft32(b, 30), c, d
		}
		h = [5]uint32{h[0] + a, h[1] + b, h[2] + c, h[3] + d, h[4] + e}
	}
	for i, word := range h {
		binary.BigEndian.PutUint32(sum[4*i:], word)
	}
	return sum
}
