package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A key packet is fwknop's single packet of protocol 3.0.0, one UDP datagram of base64 without padding:
//
//	datagram   base64("Salted__" SALT AES-256-CBC(plain)), but for its first ten characters, which are always the same;
//	           then base64(HMAC-SHA256 of that text, with them)
//	plain      RANDOM:USER:TIME:VERSION:TYPE:MESSAGE[:NAT][:AUTH][:TIMEOUT]:DIGEST
//	MESSAGE    ADDRESS,PROTOCOL/PORT[,PROTOCOL/PORT ...]
//
// USER, MESSAGE, NAT and AUTH are base64 again. So the datagram's length, modulo 64, is one of keyLengths, and its first
// character one of keyFirsts: the bits there are the end of "Salted__".
const (
	keyPrefix  = "U2FsdGVkX1"
	keySalted  = "Salted__"
	keyTagLen  = 43 // of 32 bytes in base64
	keyMinLen  = 140
	keyMaxLen  = 399 // fwknopd takes longer ones for GnuPG's
	keyFirsts  = "89+/"
	keyVersion = "3.0.0"
	maxSecret  = 32  // bytes of a key
	maxAuth    = 136 // of one for the HMAC
	// keyWindow is by how much the clock of a packet's sender and ours may differ, in seconds, as with fwknopd.
	keyWindow = 120

	defaultKeyPort = 62201
)

var keyLengths = []int{12, 33, 55}

// The types of packets: those with a timeout follow those without.
const (
	keyCommand = iota
	keyAccess
	keyNAT
	keyAccessTimeout
	keyNATTimeout
	keyLocalNAT
	keyLocalNATTimeout
)

var isBase64 = func() (is [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		is[c] = true
	}
	return is
}()

var keyBase64 = base64.RawStdEncoding.Strict()

// Why an authentic packet does not count.
var (
	errKeyCipher = errors.New("its key is another one than this line's, or it is not AES in CBC mode")
	errKeyForm   = errors.New("its content is not that of a packet of protocol 3")
	errSpent     = errors.New("the packet is used")
)

// decodeKey reads a key of at most that many bytes, in base64 with padding or without.
func decodeKey(text string, most int) ([]byte, error) {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(b) == 0 || len(b) > most {
		return nil, fmt.Errorf("it is 1 to %d bytes in base64", most)
	}
	return b, nil
}

// keyShaped reports whether a datagram may be a key packet, by what costs next to nothing.
func keyShaped(b []byte) bool {
	if len(b) < keyMinLen || len(b) > keyMaxLen || !slices.Contains(keyLengths, len(b)&63) || strings.IndexByte(keyFirsts, b[0]) < 0 {
		return false
	}
	for _, c := range b { // base64's decoder would pass over line feeds
		if !isBase64[c] {
			return false
		}
	}
	return true
}

// keyHMAC is HMAC-SHA256 of texts (RFC 2104) with a key: that with its two paddings. crypto/hmac knows all hashes, and would
// make the file 23 KB larger.
type keyHMAC struct{ inner, outer [sha256.BlockSize]byte }

func newKeyHMAC(key []byte) (h keyHMAC) {
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	copy(h.inner[:], key)
	copy(h.outer[:], key)
	for i := range sha256.BlockSize {
		h.inner[i] ^= 0x36
		h.outer[i] ^= 0x5c
	}
	return h
}

// sum is made in room, which may have what it takes.
func (h *keyHMAC) sum(room []byte, texts ...[]byte) [sha256.Size]byte {
	room = append(room[:0], h.inner[:]...)
	for _, text := range texts {
		room = append(room, text...)
	}
	inner := sha256.Sum256(room)
	return sha256.Sum256(append(append(room[:0], h.outer[:]...), inner[:]...))
}

// keyTry is a key that packets are tried with, by one goroutine alone.
type keyTry struct {
	door *Door
	key  *Key
	mac  keyHMAC
	sum  [sha256.Size]byte
	tag  [keyTagLen]byte
	room [sha256.BlockSize + len(keyPrefix) + keyMaxLen]byte
}

func newKeyTry(d *Door, k *Key) *keyTry { return &keyTry{door: d, key: k, mac: newKeyHMAC(k.Auth)} }

// fits reports whether the key's HMAC is that of a datagram of the right shape, and takes the same time in either case.
func (t *keyTry) fits(datagram []byte) bool {
	at := len(datagram) - keyTagLen
	t.sum = t.mac.sum(t.room[:], keyPrefixBytes, datagram[:at])
	keyBase64.Encode(t.tag[:], t.sum[:])
	return subtle.ConstantTimeCompare(t.tag[:], datagram[at:]) == 1
}

var keyPrefixBytes = []byte(keyPrefix)

// cipher makes AES-256 and the first block to chain with from key and salt, as OpenSSL does (EVP_BytesToKey with MD5, once).
func (k *Key) cipher(salt []byte) (cipher.Block, []byte) {
	var derived, last []byte
	for range 3 {
		sum := md5.Sum(slices.Concat(last, k.Secret, salt))
		last = sum[:]
		derived = append(derived, last...)
	}
	block, err := aes.NewCipher(derived[:32])
	if err != nil {
		panic(err) // it has 32 bytes
	}
	return block, derived[32:]
}

// open reads a datagram that fits the key.
func (k *Key) open(datagram []byte) (r keyRequest, err error) {
	sealed := make([]byte, keyBase64.DecodedLen(len(keyPrefix)+len(datagram)-keyTagLen))
	_, err = keyBase64.Decode(sealed, slices.Concat(keyPrefixBytes, datagram[:len(datagram)-keyTagLen]))
	head := len(keySalted) + 8
	if err != nil || len(sealed) < head+aes.BlockSize || len(sealed)%aes.BlockSize != 0 || string(sealed[:len(keySalted)]) != keySalted {
		return r, errKeyForm
	}
	block, chain := k.cipher(sealed[len(keySalted):head])
	plain := sealed[head:]
	cipher.NewCBCDecrypter(block, chain).CryptBlocks(plain, plain)
	padding := int(plain[len(plain)-1])
	if padding < 1 || padding > aes.BlockSize || strings.Trim(string(plain[len(plain)-padding:]), string(rune(padding))) != "" {
		return r, errKeyCipher
	}
	return parseKeyRequest(string(plain[:len(plain)-padding]))
}

// seal makes a datagram. The salt must be another one each time.
func (k *Key) seal(plain string, salt [8]byte) []byte {
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	sealed := append([]byte(plain), strings.Repeat(string(rune(padding)), padding)...)
	block, chain := k.cipher(salt[:])
	cipher.NewCBCEncrypter(block, chain).CryptBlocks(sealed, sealed)
	text := keyBase64.AppendEncode(nil, slices.Concat([]byte(keySalted), salt[:], sealed))
	mac := newKeyHMAC(k.Auth)
	sum := mac.sum(nil, text)
	return keyBase64.AppendEncode(text, sum[:])[len(keyPrefix):]
}

// keyRequest is what a packet says.
type keyRequest struct {
	user    string
	time    int64 // Unix, by its sender's clock
	kind    int
	address netip.Addr // to open for; 0.0.0.0: the packet's own
	ports   []Knock
	nat     string // HOST,PORT; "": none
	timeout time.Duration
}

// plain is the request as it is sealed. random makes it differ from all others.
func (r keyRequest) plain(random uint64) string {
	message := r.address.String()
	for _, k := range r.ports {
		message += fmt.Sprintf(",%v/%d", k.Proto, k.Port)
	}
	b64 := func(s string) string { return keyBase64.EncodeToString([]byte(s)) }
	s := fmt.Sprintf("%016d:%s:%d:%s:%d:%s", random%1e16, b64(r.user), r.time, keyVersion, r.kind, b64(message))
	if r.nat != "" {
		s += ":" + b64(r.nat)
	}
	if r.kind == keyAccessTimeout || r.kind == keyNATTimeout {
		s += fmt.Sprintf(":%d", int(r.timeout.Seconds()))
	}
	digest := sha256.Sum256([]byte(s))
	return s + ":" + keyBase64.EncodeToString(digest[:])
}

// parseKeyRequest reads what plain writes, and all else that fwknop's clients may. The digest, of whatever kind, is not
// looked at, as the HMAC has all of the text. Of types that open no ports, nothing but the type is read.
func parseKeyRequest(plain string) (r keyRequest, err error) {
	fields := strings.Split(plain, ":")
	if strings.ContainsFunc(plain, func(c rune) bool { return c < ' ' || c > '~' }) || len(fields) < 7 || len(fields) > 10 ||
		len(fields[0]) != 16 || !digits(fields[0]) || !digits(fields[2]) || len(fields[2]) > 12 || len(fields[4]) != 1 || !digits(fields[4]) {
		return r, errKeyForm
	}
	r.time, _ = strconv.ParseInt(fields[2], 10, 64)
	r.kind = int(fields[4][0] - '0')
	user, err := keyBase64.DecodeString(fields[1])
	if err != nil || len(fields[1]) > 64 {
		return r, errKeyForm
	}
	r.user = string(user)
	if r.kind == keyCommand || r.kind >= keyLocalNAT {
		return r, nil
	}
	rest := fields[5 : len(fields)-1] // MESSAGE[:NAT][:AUTH][:TIMEOUT]
	if r.kind == keyAccessTimeout || r.kind == keyNATTimeout {
		last := rest[len(rest)-1]
		seconds, err := strconv.ParseUint(last, 10, 17)
		if rest = rest[:len(rest)-1]; err != nil || !digits(last) || len(rest) == 0 {
			return r, errKeyForm
		}
		r.timeout = time.Duration(seconds) * time.Second
	}
	if r.kind == keyNAT || r.kind == keyNATTimeout {
		if len(rest) < 2 {
			return r, errKeyForm
		}
		nat, err := keyBase64.DecodeString(rest[1])
		if err != nil || len(nat) == 0 {
			return r, errKeyForm
		}
		r.nat, rest = string(nat), slices.Delete(rest, 1, 2)
	}
	message, err := keyBase64.DecodeString(rest[0])
	if err != nil || len(rest) > 2 {
		return r, errKeyForm
	}
	address, ports, _ := strings.Cut(string(message), ",")
	if r.address, err = netip.ParseAddr(address); err != nil || !r.address.Is4() {
		return r, errKeyForm
	}
	for _, item := range strings.Split(ports, ",") {
		proto, port, _ := strings.Cut(item, "/")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || !digits(port) || proto != "tcp" && proto != "udp" {
			return r, errKeyForm
		}
		k := Knock{uint16(n), tcp}
		if proto == "udp" {
			k.Proto = udp
		}
		r.ports = append(r.ports, k)
	}
	return r, nil
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// admit is what a packet with a key of the door opens: the door with no more than the ports asked for, and the address that
// it opens for. own is the packet's source, now the time since 1970.
func (d *Door) admit(k *Key, r keyRequest, own netip.Addr, now time.Duration) (open *Door, source netip.Addr, err error) {
	switch skew := r.time - int64(now/time.Second); {
	case r.kind == keyCommand:
		return nil, own, errors.New("it is a command, and none is ever run")
	case r.kind >= keyLocalNAT:
		return nil, own, fmt.Errorf("it is of type %d (local NAT), and 1 to 4 alone are known", r.kind)
	case skew < -keyWindow || skew > keyWindow:
		return nil, own, fmt.Errorf("its time differs by %d s from this host's, and %d are allowed: one of the two clocks is wrong, or it was kept back",
			skew, keyWindow)
	}
	copied, got := *d, []Knock(nil)
	copied.OpenPorts, copied.Behind = nil, nil
	for _, k := range d.OpenPorts { // in the door's order, so that it is the same opening each time
		if r.nat == "" && slices.Contains(r.ports, k) {
			copied.OpenPorts, got = append(copied.OpenPorts, k), append(got, k)
		}
	}
	for _, b := range d.Behind {
		if r.leadsTo(b) && slices.Contains(r.ports, b.Knock) {
			copied.Behind, got = append(copied.Behind, b), append(got, b.Knock)
		}
	}
	for _, k := range r.ports {
		if !slices.Contains(got, k) {
			return nil, own, fmt.Errorf("it asks for %v%s, which Open_Ports has not", k, strings.TrimSuffix(" -> "+r.nat, " -> "))
		}
	}
	if r.timeout > 0 {
		copied.CmdTimeout = min(r.timeout, d.CmdTimeout)
	}
	source = r.address
	switch its := own.Is6() || r.address.IsUnspecified(); {
	case its && k.Strict:
		return nil, own, errors.New("it names no address to open for, and strict asks for one")
	case its:
		source = own
	case !behindable(r.address):
		return nil, own, fmt.Errorf("it is to open for %v, which is no address of a host", r.address)
	case d.Allow != nil && !contains(d.Allow, r.address):
		return nil, own, fmt.Errorf("it is to open for %v, which is not in Allow", r.address)
	}
	return &copied, source, nil
}

// leadsTo is whether a port behind this host is one that the request may mean.
func (r keyRequest) leadsTo(b Behind) bool {
	host, port, _ := strings.Cut(r.nat, ",")
	return r.nat == "" || b.forwarded() && b.To.Addr().String() == host && strconv.Itoa(int(b.To.Port())) == port
}
