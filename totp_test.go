package main

import (
	"bytes"
	"crypto/hmac"
	stdsha1 "crypto/sha1"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTOTP has the vectors of RFC 6238, appendix B, of whose eight digits the last six are shown, and RFC 4226's, appendix D.
const testSecret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"

func TestTOTP(t *testing.T) {
	secret := TOTP{"12345678901234567890", defaultBase}
	for at, want := range map[int64]uint32{59: 94287082, 1111111109: 7081804, 1111111111: 14050471, 1234567890: 89005924, 2000000000: 69279037, 20000000000: 65353130} {
		if got := secret.code(uint32(at / 30)); got != want%1000000 {
			t.Errorf("at %d: got %06d, want %06d", at, got, want%1000000)
		}
	}
	for step, want := range []uint32{755224, 287082, 359152, 969429, 338314, 254676, 287922, 162583, 399871, 520489} {
		if got := secret.code(uint32(step)); got != want {
			t.Errorf("step %d: got %06d, want %06d", step, got, want)
		}
	}
	for at, want := range map[time.Duration]uint32{-time.Hour: farSteps, 0: farSteps, 2000000000*time.Second - 1: 66666666, 2000000010 * time.Second: 66666667} {
		if got := codeStep(at); got != want {
			t.Errorf("the step at %v: got %d, want %d", at, got, want)
		}
	}
	if got := secret.ports(493027); !slices.Equal(got, []uint16{20493, 20027}) {
		t.Errorf("the ports of 493 027: got %v", got)
	}
}

// TestHMAC compares with the standard library's.
func TestHMAC(t *testing.T) {
	for n := range 300 {
		key, text := strings.Repeat("k", n), strings.Repeat("text", n)
		h := hmac.New(stdsha1.New, []byte(key))
		h.Write([]byte(text))
		if got := hmacSHA1(key, text); !bytes.Equal(got[:], h.Sum(nil)) {
			t.Fatalf("a key of %d bytes: got %x, want %x", n, got, h.Sum(nil))
		}
		if got, want := sha1([]byte(text)), stdsha1.Sum([]byte(text)); got != want {
			t.Fatalf("%d bytes: got %x, want %x", len(text), got, want)
		}
	}
}

func TestParseTOTP(t *testing.T) {
	const secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
	for in, want := range map[string]string{
		secret: secret, strings.ToLower(secret): secret, secret + " 20000": secret, secret + "  30000": secret + " 30000",
		secret + " 64536": secret + " 64536", "ME======": "ME", secret + " 1": secret + " 1",
	} {
		if got, err := parseTOTP(in); err != nil || got.String() != want {
			t.Errorf("%q: got %v, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"": "the secret", "0189": "the secret", secret + " 30000 1": "the secret", "======": "the secret", "JBSW Y3DP": "the base",
		secret + " 0": "the base", secret + " 64537": "the base", secret + " -1": "the base", secret + " 20000x": "the base",
	} {
		if got, err := parseTOTP(in); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "JBSW") {
			t.Errorf("%q: got %v, %v, want an error about %s", in, got, err, want)
		}
	}
}
