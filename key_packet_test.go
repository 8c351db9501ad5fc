package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func testKey(t testing.TB, name, secret, auth string) *Key {
	t.Helper()
	k := &Key{Name: name}
	for to, text := range map[*[]byte]string{&k.Secret: secret, &k.Auth: auth} {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		*to = b
	}
	return k
}

const (
	aliceSecret = "FJYd4J2BY5JMczTbB2mGpTV9LPLokAmHfxuj5Ex/p0c="
	aliceAuth   = "pPc0W/OLcnZHhZXolR8Pv646Xst2P2CXX4BSLihzrY01YQiBKaMMcTOIzWssOROn0/cQURFiY03PC/UuQ376SQ=="
)

func aliceKey(t testing.TB) *Key { return testKey(t, "alice", aliceSecret, aliceAuth) }

// clientPackets are by the client of fwknop 2.6.10, with alice's keys but for the last one's.
var clientPackets = []struct {
	name, wire, plain string
	err               error
	want              keyRequest
}{
	{"default", "8QowNoCB+JkZqwzAyqoQ0eTdFkrcfbo+Ef9bhUdXq3pz7u/SpM2moTWBaCLBZQxeDvp8tIBhpDuEZscXZgX42NQmcXv1NWkyvhi1Gi1k6SaghPnPWQ31YjWRSgkMJXWRPhERw3n/tKO15n39AmAYeNsOV+PtB6MLcbu7t8fDEu/M3CLrrNX5LPvH3m8IBjHgnqA4mdUIxq30",
		"2024944812184608:YWxpY2U:1795362615:3.0.0:1:MTkyLjAuMi43LHRjcC8yMg:fAiOUJWs3hXT5om0Ggb/Zidrt5nZ8x6N9EzPl/TkknE", nil,
		keyRequest{user: "alice", time: 1795362615, kind: 1, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}}}},
	{"timeout60", "9F+vU4lrE/g8a0Uc2HrCBEqot0U4DEtv2AftM1JdqZbkcHUgXayb2gr5Fm5KVOz79sjioYFt48nPz9kTBOUD4XruHaxABW3tLKJdZrrBFUwlXdWNdD1sge09OboYFMQboIzDKbOk8I4+j8Ak20AaofTMrIZqqz63elH76OXubqOw11WYP32zOSkjEVoongZmsUy3+c3vPqyNBOHUqvfuEAcdeJncBpFmg",
		"1972241782223506:YWxpY2U:1795362615:3.0.0:3:MTkyLjAuMi43LHRjcC8yMg:60:ZRdmP2GugIa3bGTxUEMo/EmcXveJc6NQiTKHnrsfEtw", nil,
		keyRequest{user: "alice", time: 1795362615, kind: 3, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}}, timeout: 60 * time.Second}},
	{"nat", "8o1GOT362pkjrM6tFQA3VhQehvQsJ4ogeHP/kTiP03l+RA44Ep5B959qdLlq6MzkD5ECkwqu1+w1en8y7slT2F4GT6LyXrzndsIQuHhVxGJFtDv+L5ADjntrVdTNVGhkXRehCBitRHt4besPrMajRXAFpQqKM/2kZha5x7vh///O9zxZlIH2Z5arVPigueTeUgS4+1xn0nFgWiaincbNGNepJK86r9sf4+s8cd89VDNlmiLZBcVpJ6k",
		"2682364112245254:YWxpY2U:1795362615:3.0.0:2:MTkyLjAuMi43LHRjcC8yMg:MTAuMC4wLjUsMjIyMg:bERiKRdqLyhYLNqmPdNYWXDx5F8iLMqYa+8JCHe7UQM", nil,
		keyRequest{user: "alice", time: 1795362615, kind: 2, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}}, nat: "10.0.0.5,2222"}},
	{"multiport", "+eZnDfAVscc0SSSOq895OL2lxHfjwE3et/trdi+B/ZA6wAl8b2PTWZA71aGXh6V3wM+Qh1hL76t52L9Pe3VF4PFL5UeiXhYOtLnZKc0aJFMG5ULyKsKQByCUn8oG6jpg/jqn8LfjNfaa8Vh3hnv8xHvwIlMB7PtwwWYdUlWjfg1vjiRZgRUmGv5Lt/SPeR3utWOKmOUV38fu/yUKzswv0RycqnflysXbs",
		"1335515802665548:YWxpY2U:1795362615:3.0.0:1:MTkyLjAuMi43LHRjcC8yMix1ZHAvNTM:dOaBOk2p1D66Z/0L0qKt8HgyAP+jrdBiO7PjysRBq9U", nil,
		keyRequest{user: "alice", time: 1795362615, kind: 1, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}, {53, udp}}}},
	{"source", "8bpq1XNJeLMtXpYhfu2yb2y09g103IBsEEz9lkJvrJJdShPadb6TjOP7D2tWc8XCuJKXezy1ZuHHv/AonIeFUuXBK2FLjxUhSdV4x0pgIlLBPNXfUYj3a/1xpQL2Vxx1nKJOG+dL0NMhrOvGE6P6KzIz6+hmQBEocQqPGTO0qvg6t38CE+Me1Axg9F0fnKtm90SudAYHcLhE",
		"1591514187478390:YWxpY2U:1795362615:3.0.0:1:MC4wLjAuMCx0Y3AvMjI:jNrynpkLt4JgQ3++b0zm4+DoCOE6nhN4OkQFK1XDGYo", nil,
		keyRequest{user: "alice", time: 1795362615, kind: 1, address: netip.MustParseAddr("0.0.0.0"), ports: []Knock{{22, tcp}}}},
	{"nat_timeout", "/198NqX2JDzGYFdmtiRJBxe/uogHSwAnE4383O5jopaYInWUC9aNCiVBScniQjwzvDE4pPkuGEP+UV+OUU0haugTpvlrRlT/J6SQIumTsXCjcCIiqGTyaQbi97P8AC2q460QuP3ZP+ak7k4pGnVrNwDMFES/HQu5ZC8qHIh0r6fXIukGFJ8tAmWdIoVN7X1m/ObTqSFbIlIQawzwBsYRtHQytH4aXEjdBOp7xeGjytFyrBs+HOUgkR8",
		"1612461496135253:YWxpY2U:1795362615:3.0.0:4:MTkyLjAuMi43LHRjcC8yMg:MTAuMC4wLjUsMjIyMg:60:JpEwwU2SS4qRgz9nU7prw0NIAvHNn+UCoq3+p+iioq8", nil,
		keyRequest{user: "alice", time: 1795362615, kind: 4, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}}, nat: "10.0.0.5,2222", timeout: 60 * time.Second}},
	{"natlocal", "8myH10e/Xfb7DRzSC8qxyTHzyehFiOu8tgHZyPQSzFt7quMiC87VULX5fBHjHuvnGGSD3DIZhVVHrzQc3PePzac0IeKDBElLhVBV2ECBSbreS2hzV1rFH91ttC1kqmkvmwDM/4avLmXREGT/wK8Wn9pCC1yjvq83CsjUJa4JPy8SA40IRBt4v7wIkdQSFoYCwFcGv+oROsxAoS4H098nxMa1wKDu7VknTi1/as1iCX5u+ILT3HTEeTE",
		"1577705822191751:YWxpY2U:1795362615:3.0.0:5:MTkyLjAuMi43LHRjcC80MDAyMg:MTI3LjAuMC4xLDIy:pniBA06qTgUBZBnuX+43CC24xgj6YueL+4aLHsBZQzc", nil,
		keyRequest{user: "alice", time: 1795362615, kind: 5}},
	{"natlocal_timeout", "82JzpCAGDcOj+kQAkVszgABoHHumzHAu6yPbk5FwlhThCF3AZ+rCThylcP6gfzJfAWIMmF6N179WsMUdGJ+C72sPynzvem3NdvABZ6b47uk116C1EQXAtPz9qD9gkTa/2LHWRhVM125p4yMid50EE5PpNzYKrLai50YFGbSskEKLpKFeSUg+oMmaEWpfjqjxKe918qXh5nDQhRQc/JiH82X6tmTOuhnsNAZfSjRFRLuiEobN1zuNwhI",
		"1450710008229251:YWxpY2U:1795362616:3.0.0:6:MTkyLjAuMi43LHRjcC80MDAyMg:MTI3LjAuMC4xLDIy:60:vck32HLDWG3Js7ybEGKkwgDI4+iZDHsCfDRRODd1LAE", nil,
		keyRequest{user: "alice", time: 1795362616, kind: 6}},
	{"cmd", "9TVFBo4o2yu/ciAi3zPlLjAvtJ1wJNNYdJmNd+8qb+PFx004KtwSeOTvj7IwmKo5gHuYUQU1IpYRYJZ+n+NwNP0jPWmz1DBU/JTFO0neXklwjZ+I35L6J5QGNcs+SmJRHnMfiqOeVq4JgapCrQiFUAfzx3wpo5vGC3qBFx88WFkyPCSm9Pxq/O5EMKgofN8DqGSUYqTanEhbCQJxd9rXImhffEW2PKkdE",
		"1440891739194807:YWxpY2U:1795362616:3.0.0:0:MTkyLjAuMi43LGlkOyB1cHRpbWU:6hwcuFFwYSiGa2uu9Ce9h0U9dJF1UU0ute5KdP29MSE", nil,
		keyRequest{user: "alice", time: 1795362616, kind: 0}},
	{"pass", "/kGiYVM6LT+fa0BVpN0qhh0REv1mlLstLPPKM7bsq3TLNTe7906P8ZUGF14HlhULV2/5DViq7hqhADtZfaUcLwbTYm0yaVvkBqulXLPi8vrlvblF7oqdAJzQRIL0z9f5dBuasxlUkXDa6ZTJQ2tT3EspGje0f4QeAconD8OYwGGkvVb0uv93DyaOOtxZ5zHA1SW4eEnebrJU",
		"1795243484147360:YWxpY2U:1795362616:3.0.0:1:MTkyLjAuMi43LHRjcC8yMg:xag6r5lRWQXmLKl0xeZQjLkjHCsKgqDlMwDDB8DMpN4", nil,
		keyRequest{user: "alice", time: 1795362616, kind: 1, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}}}},
	{"dig512", "+z+09MOul63iluI6PtnIoZ/gl/3N/np539rpnUiIVagrggYdthPBOv1ocrrEQ17TH9FjKSZMuPYrAPF93bscABo9Y5mC2A8+i4hEx7OU6VMVaKz3UpAiZZZrLwHra4xuxRy46jUa/Sy8sIEnHzNdztRFSkyn0vCiHVKFz5iLy7IoiRxtw0kWgTorB6NVKcMxIVM1JpJEMDpQCl/7IfGUXf7ii8wEz6/aAkqSSol3nP++d6uYGFaYjT4RfZazdo+45OoPYVVp5dRY",
		"1313287079214422:YWxpY2U:1795362617:3.0.0:1:MTkyLjAuMi43LHRjcC8yMg:vzlHtQao/flTWAsiLgTsnm/p6RWEq6FJr3IOoRlkMjW2vuCrPoYsVsTkbPL66Q3u+lFmFnKpk/tfEwINu4JHHw", nil,
		keyRequest{user: "alice", time: 1795362617, kind: 1, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}}}},
	{"ofb", "9qNpaumj4ktJwAYOepUk0MYj0g1BXb/ehZeRcZmyMY/Ox5BVpCIk9u05cvwQKyEeRUQr4f5XWKG/l6u+qQ/WBRm8j6qQVnknBw4BX9AYvCtMx18HrFh4JJQcj2adh9NhwRHpRYlLREJqd+kBjK1T962+tUWfFxb4cqQf+i+dXeTQnALkQkCQE+4JJzmQEuoiylS3yIgB1/F4",
		"2050660167150509:YWxpY2U:1795362617:3.0.0:1:MTkyLjAuMi43LHRjcC8yMg:bRByKL+u4aXq+EY3Ge2vwf+te+CRYY1eH+Jb1TdhJ5o", errKeyCipher,
		keyRequest{}},
	{"cfb", "8yQ4C1GPcKhXOgE3zzoaUW0zuNFFoydNPEzFwxmzNZDBeSyPt+FyE9xdlZiJ77NkMIL9mc21WUSxGfi+O9QXufLqQBInSLLUkUXLwSwwFiJillAAJ+KqaLjUAf224B2dUWy/xh2rjSeduPLCqjx8OYed/RCY5mJwgLF4EVenoJj5AFXJqIu6dIrohHS2A0PjnxtO50K9PdZo",
		"3982594232045886:YWxpY2U:1795362617:3.0.0:1:MTkyLjAuMi43LHRjcC8yMg:7N8hd8w/AyWCPUw0uA8yLEwt+ib/IU5pTgPdRYPTqek", errKeyCipher,
		keyRequest{}},
	{"ctr", "+pKjAF7EPqGtBkMdDi4F7NvzE9ECjfQvwTeVjbPyzxHXg+FZt7O8DLs86AB2zyaWKmEF6ySOKxm+HpTkD0ZRI7jXCs5LfDtSP8Vxij+1ohRIba+rAF4bge61c/svLebOcL/9e38XYK6QFpmFOsSNgwyLVqJKKzGCINENTKZi9GiLQ6HGwiCYBL6TTX6x5m9Y54UT/W422Pc0",
		"1186232542615657:YWxpY2U:1795362617:3.0.0:1:MTkyLjAuMi43LHRjcC8yMg:kHJE2ZC3EKIlssKXxWNoPZIi7mPaEOdNyP9Kn0IKtF8", errKeyCipher,
		keyRequest{}},
	{"ecb", "8PNaLR6Th1l9iHWdzXdoHsocPh/n8zT76ougus1HlI9kXAe9B9YsNGCGlIOeTUPKM3Y/hEZdrc4lzdy79jywbBKt4GKXplGz1SjY4avr08k3TrxboE1T/OnFg34+T1MCdGW7wZH3vaElXyTDD7Wr3qs2eiYrYDOTUdP3a6UYsxQzXGEmb+3l1VEZj2NfTlWDjmhLcPZn04Ls",
		"1240681205211172:YWxpY2U:1795362617:3.0.0:1:MTkyLjAuMi43LHRjcC8yMg:STUHOxcthzcdmUjLxzl8rgwZXQN5PyCelTQSbJE9mSc", errKeyCipher,
		keyRequest{}},
	{"long", "/2mxu2FaIHdQ5gmcX4/vZRjP0M55u+slfTZHmjdhtiTcm4AyBEb81KeMkisb1lkP2HiePXd8cwlMTUPIIuRDCPQ8cEjDGQY1MZX0ALFrWiwolJoiGuUZmrfQymrWhACCAlHmDDlkLPaLx/dkUOsUYhrbm05CWhuMwgmlaED8LcoNSPFP0sos3rEzcbpxTvNuX/4s/dsznWkoj7kbq7FakVvMvOd6P+3D4xU/84wmtMJKKKB5gptAfuVrOBRTPaIBO9ZwSphKGc5iGbY/aXWSMkaFObKvX5nDrpHMsX8HkrdMDuUEXfZSRiEx6zd/k7DK05TAmovANXkQr+2A1LZIUO8J7Oew8fwYfu5qnoPSQdvLxzGYRpmxlM8",
		"2146354313428178:YWxpY2U:1795362618:3.0.0:1:MTkyLjAuMi43LHRjcC8yMix1ZHAvNTMsdGNwLzgwLHRjcC80NDMsdGNwLzgwODAsdGNwLzg0NDMsdWRwLzUxODIwLHVkcC8xMTk0LHRjcC85OTMsdGNwLzk5NSx0Y3AvMzMwNix0Y3AvNTQzMg:pNwdI4HsmyKF2hHbacY7gPv4K5ZeH23ay9aGdAtuKs0", nil,
		keyRequest{user: "alice", time: 1795362618, kind: 1, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}, {53, udp}, {80, tcp}, {443, tcp}, {8080, tcp}, {8443, tcp}, {51820, udp}, {1194, udp}, {993, tcp}, {995, tcp}, {3306, tcp}, {5432, tcp}}}},
	{"nat_host", "9S49pta+P75VEntdcMguir2Ce8mzH67csRsPIUNU1qtVbQv0v4Do93/JDYMkw1QJLu9avgWIFFd35AEvUE5s/LNottLK9AH5Q3mIvLkTDaT8o0AzjnJmmUd83LMyNPqqHgV7pXZ7FoNMdoVFGZxcro8uY7eDGmUpWp+2+5lA382fphnjyxANx2TfVPZUzMIk+qJe/iV0H3zQAjVLsbIxE7EIV54gCzpPAn2FWjIombtdnGOvusmArZ0",
		"1841456770450240:YWxpY2U:1795362618:3.0.0:2:MTkyLjAuMi43LHRjcC8yMg:aG9zdC5sYW4sMjIyMg:yyblWiE+MYNC4qsO5geuDdROvxh5m58b5uPWJNSMhgs", nil,
		keyRequest{user: "alice", time: 1795362618, kind: 2, address: netip.MustParseAddr("192.0.2.7"), ports: []Knock{{22, tcp}}, nat: "host.lan,2222"}},
}

// TestKeyPacketsOfClient reads packets of fwknop's client in all its modes, and makes those again that it can, byte for byte.
func TestKeyPacketsOfClient(t *testing.T) {
	for _, tt := range clientPackets {
		t.Run(tt.name, func(t *testing.T) {
			k := aliceKey(t)
			if tt.name == "pass" {
				k = &Key{Secret: []byte("testtest"), Auth: []byte("hmactest")}
			}
			if !keyShaped([]byte(tt.wire)) {
				t.Fatal("it has not the shape of a packet")
			}
			if !newKeyTry(nil, k).fits([]byte(tt.wire)) {
				t.Fatal("its HMAC is another one")
			}
			if newKeyTry(nil, &Key{Auth: []byte("another")}).fits([]byte(tt.wire)) {
				t.Error("it fits another key")
			}
			got, err := k.open([]byte(tt.wire))
			if err != tt.err || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v\nwant %+v, %v", got, err, tt.want, tt.err)
			}
			if tt.err != nil {
				return
			}
			raw, err := base64.RawStdEncoding.DecodeString(keyPrefix + tt.wire[:len(tt.wire)-keyTagLen])
			if err != nil {
				t.Fatal(err)
			}
			if got := k.seal(tt.plain, [8]byte(raw[8:16])); string(got) != tt.wire {
				t.Errorf("sealed again: got %s\nwant %s", got, tt.wire)
			}
			if got.kind < keyAccess || got.kind > keyNATTimeout || tt.name == "dig512" {
				return
			}
			var random uint64
			_, _ = fmt.Sscanf(tt.plain, "%16d:", &random)
			if plain := got.plain(random); plain != tt.plain {
				t.Errorf("written again: got %s\nwant %s", plain, tt.plain)
			}
		})
	}
}

// TestKeyPacketChanged changes each byte of a packet in turn, cuts it, and makes it longer: it fits no more.
func TestKeyPacketChanged(t *testing.T) {
	k := aliceKey(t)
	try := newKeyTry(nil, k)
	for _, tt := range clientPackets[:4] {
		whole := []byte(tt.wire)
		authentic := func(what string, b []byte) {
			if keyShaped(b) && try.fits(b) {
				t.Errorf("%s, %s: it fits", tt.name, what)
			}
		}
		for i := range whole {
			for c := range 256 {
				if b := bytes.Clone(whole); byte(c) != b[i] {
					b[i] = byte(c)
					authentic(fmt.Sprintf("byte %d is %#x", i, c), b)
				}
			}
			authentic(fmt.Sprintf("cut at %d", i), whole[:i])
			authentic(fmt.Sprintf("without the first %d", i+1), whole[i+1:])
		}
		for n := 1; n < 200; n++ {
			for _, c := range []string{"=", "A", "/", "\n", "\x00"} {
				authentic(fmt.Sprintf("%d times %q more", n, c), append(bytes.Clone(whole), strings.Repeat(c, n)...))
				authentic(fmt.Sprintf("%d times %q before", n, c), append([]byte(strings.Repeat(c, n)), whole...))
			}
		}
		authentic("with its prefix", []byte(keyPrefix+tt.wire))
		if !try.fits(whole) {
			t.Errorf("%s: it does not fit", tt.name)
		}
	}
}

// TestKeyPacketForged seals contents that no client makes with the right keys: none is read, and nothing panics.
func TestKeyPacketForged(t *testing.T) {
	k := aliceKey(t)
	good := "2024944812184608:YWxpY2U:1795362615:3.0.0:1:MTkyLjAuMi43LHRjcC8yMg:x"
	message := func(s string) string {
		return strings.Replace(good, "MTkyLjAuMi43LHRjcC8yMg", keyBase64.EncodeToString([]byte(s)), 1)
	}
	for name, plain := range map[string]string{
		"empty": "", "no fields": "x", "short random": good[1:], "letters for random": "x" + good[1:], "no time": strings.Replace(good, "1795362615", "", 1),
		"a time before 1970": strings.Replace(good, "1795362615", "-179536261", 1), "a long time": strings.Replace(good, "1795362615", "1795362615000", 1),
		"no type": strings.Replace(good, ":1:", "::", 1), "type 10": strings.Replace(good, ":1:", ":10:", 1), "type x": strings.Replace(good, ":1:", ":x:", 1),
		"padded user": strings.Replace(good, "YWxpY2U", "YWxpY2U=", 1), "long user": strings.Replace(good, "YWxpY2U", strings.Repeat("YWxp", 17), 1),
		"control characters": good + "\n", "not ASCII": good + "\u00e4", "type 3 without a timeout": strings.Replace(good, ":1:", ":3:", 1),
		"type 3 with a timeout that is none": strings.Replace(strings.Replace(good, ":1:", ":3:", 1), ":x", ":6x:x", 1),
		"type 2 without NAT":                 strings.Replace(good, ":1:", ":2:", 1), "type 4 without NAT": strings.Replace(strings.Replace(good, ":1:", ":4:", 1), ":x", ":60:x", 1),
		"fields too many": strings.Replace(good, ":x", ":YQ:YQ:x", 1), "an endless timeout": strings.Replace(strings.Replace(good, ":1:", ":3:", 1), ":x", ":131072:x", 1),
		"message no base64": strings.Replace(good, "MTkyLjAuMi43LHRjcC8yMg", "MTky!", 1),
		"no port":           message("192.0.2.7"), "port 0": message("192.0.2.7,tcp/0"), "port 65536": message("192.0.2.7,tcp/65536"), "port +22": message("192.0.2.7,tcp/+22"),
		"icmp": message("192.0.2.7,icmp/8"), "IPv6": message("2001:db8::7,tcp/22"), "a name": message("host,tcp/22"), "IPv4 in IPv6": message("::ffff:192.0.2.7,tcp/22"),
		"an empty port": message("192.0.2.7,tcp/22,"), "a zone": message("fe80::1%eth0,tcp/22"),
	} {
		wire := k.seal(plain, [8]byte{1})
		if !newKeyTry(nil, k).fits(wire) {
			t.Fatalf("%s: its HMAC is another one", name)
		}
		if got, err := k.open(wire); err == nil {
			t.Errorf("%s: got %+v, want an error", name, got)
		}
	}
	if got, err := k.open(k.seal(good, [8]byte{1})); err != nil || got.user != "alice" {
		t.Errorf("the one that they differ from: got %+v, %v", got, err)
	}
	other := *k
	other.Secret = []byte("another")
	if _, err := other.open(k.seal(good, [8]byte{1})); err == nil {
		t.Error("it opens with another key")
	}
}

// TestKeyAllocations tries packets that fit no key: that takes no memory.
func TestKeyAllocations(t *testing.T) {
	try, wire := newKeyTry(nil, &Key{Auth: []byte("another")}), []byte(clientPackets[0].wire)
	if n := testing.AllocsPerRun(100, func() { _ = keyShaped(wire) && try.fits(wire) }); n != 0 {
		t.Errorf("got %v allocations a packet, want none", n)
	}
}

// TestKeyHMAC compares the HMAC with the standard library's, for keys and texts around the length of a block.
func TestKeyHMAC(t *testing.T) {
	for key := range 140 {
		for _, text := range []int{0, 1, 55, 56, 63, 64, 65, 171, 400} {
			k, b := bytes.Repeat([]byte{byte(key), 1}, key)[:key], bytes.Repeat([]byte("text"), 100)[:text]
			want := hmac.New(sha256.New, k)
			_, _ = want.Write(b)
			h := newKeyHMAC(k)
			if got := h.sum(nil, b[:text/2], b[text/2:]); !bytes.Equal(got[:], want.Sum(nil)) {
				t.Fatalf("a key of %d and a text of %d bytes: got %x", key, text, got)
			}
		}
	}
}

func BenchmarkKeyTry(b *testing.B) {
	try, wire := newKeyTry(nil, &Key{Auth: []byte("another")}), []byte(clientPackets[0].wire)
	for b.Loop() {
		_ = keyShaped(wire) && try.fits(wire)
	}
}

// TestKeyAdmit has requests against a door.
func TestKeyAdmit(t *testing.T) {
	const now = 1795362615
	ports := func(text string) (all []Knock) {
		for _, item := range strings.Fields(text) {
			k, err := parseKnock(item)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, k)
		}
		return all
	}
	forward, err := parseOpenPort("8443 -> 10.0.0.5:443")
	if err != nil {
		t.Fatal(err)
	}
	door := &Door{
		Name: "ssh", OpenPorts: ports("22 51820:udp 80"), Behind: []Behind{forward}, CmdTimeout: time.Minute,
		Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
	}
	for _, tt := range []struct {
		name           string
		change         func(r *keyRequest)
		strict         bool
		own            string
		opens, whom    string // or
		err            string
		seconds        int
		withoutNetwork bool
	}{
		{name: "as it is", opens: "22:tcp", whom: "192.0.2.7", seconds: 60},
		{name: "several", change: func(r *keyRequest) { r.ports = ports("80 51820:udp") }, opens: "51820:udp,80:tcp", whom: "192.0.2.7", seconds: 60},
		{name: "another protocol", change: func(r *keyRequest) { r.ports = ports("22:udp") }, err: "it asks for 22:udp, which Open_Ports has not"},
		{name: "one too many", change: func(r *keyRequest) { r.ports = ports("22 23") }, err: "it asks for 23:tcp, which Open_Ports has not"},
		{name: "a shorter time", change: func(r *keyRequest) { r.timeout = 5 * time.Second }, opens: "22:tcp", whom: "192.0.2.7", seconds: 5},
		{name: "a longer time", change: func(r *keyRequest) { r.timeout = time.Hour }, opens: "22:tcp", whom: "192.0.2.7", seconds: 60},
		{name: "from elsewhere", own: "198.51.100.1", opens: "22:tcp", whom: "192.0.2.7", seconds: 60},
		{name: "for elsewhere", change: func(r *keyRequest) { r.address = netip.MustParseAddr("198.51.100.1") }, err: "it is to open for 198.51.100.1, which is not in Allow"},
		{name: "for this host", change: func(r *keyRequest) { r.address = netip.MustParseAddr("127.0.0.1") }, err: "it is to open for 127.0.0.1, which is no address of a host", withoutNetwork: true},
		{name: "for all", change: func(r *keyRequest) { r.address = netip.MustParseAddr("255.255.255.255") }, err: "it is to open for 255.255.255.255, which is no address of a host", withoutNetwork: true},
		{name: "its own", change: func(r *keyRequest) { r.address = netip.IPv4Unspecified() }, opens: "22:tcp", whom: "192.0.2.1", seconds: 60},
		{name: "its own, strict", strict: true, change: func(r *keyRequest) { r.address = netip.IPv4Unspecified() }, err: "it names no address to open for, and strict asks for one"},
		{name: "strict", strict: true, opens: "22:tcp", whom: "192.0.2.7", seconds: 60},
		{name: "IPv6", own: "2001:db8::1", opens: "22:tcp", whom: "2001:db8::1", seconds: 60},
		{name: "IPv6, strict", strict: true, own: "2001:db8::1", err: "it names no address to open for, and strict asks for one"},
		{name: "early", change: func(r *keyRequest) { r.time = now + 120 }, opens: "22:tcp", whom: "192.0.2.7", seconds: 60},
		{name: "late", change: func(r *keyRequest) { r.time = now - 120 }, opens: "22:tcp", whom: "192.0.2.7", seconds: 60},
		{name: "too early", change: func(r *keyRequest) { r.time = now + 121 }, err: "its time differs by 121 s from this host's, and 120 are allowed: one of the two clocks is wrong, or it was kept back"},
		{name: "too late", change: func(r *keyRequest) { r.time = now - 121 }, err: "its time differs by -121 s from this host's, and 120 are allowed: one of the two clocks is wrong, or it was kept back"},
		{name: "a command", change: func(r *keyRequest) { r.kind = keyCommand }, err: "it is a command, and none is ever run"},
		{name: "local NAT", change: func(r *keyRequest) { r.kind = keyLocalNAT }, err: "it is of type 5 (local NAT), and 1 to 4 alone are known"},
		{name: "a forwarded port", change: func(r *keyRequest) { r.ports = ports("8443") }, opens: "8443:tcp -> 10.0.0.5:443", whom: "192.0.2.7", seconds: 60},
		{name: "NAT", change: func(r *keyRequest) { r.kind, r.ports, r.nat = keyNAT, ports("8443"), "10.0.0.5,443" }, opens: "8443:tcp -> 10.0.0.5:443", whom: "192.0.2.7", seconds: 60},
		{name: "NAT elsewhere", change: func(r *keyRequest) { r.kind, r.ports, r.nat = keyNAT, ports("8443"), "10.0.0.6,443" }, err: "it asks for 8443:tcp -> 10.0.0.6,443, which Open_Ports has not"},
		{name: "NAT for a port of this host", change: func(r *keyRequest) { r.kind, r.nat = keyNAT, "10.0.0.5,443" }, err: "it asks for 22:tcp -> 10.0.0.5,443, which Open_Ports has not"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := keyRequest{user: "alice", time: now, kind: keyAccess, address: netip.MustParseAddr("192.0.2.7"), ports: ports("22")}
			if tt.change != nil {
				tt.change(&r)
			}
			own, d := netip.MustParseAddr("192.0.2.1"), *door
			if tt.own != "" {
				own = netip.MustParseAddr(tt.own)
			}
			if tt.withoutNetwork {
				d.Allow = nil
			}
			open, source, err := d.admit(&Key{Strict: tt.strict}, r, own, now*time.Second+time.Second/2)
			switch {
			case tt.err != "":
				if err == nil || err.Error() != tt.err {
					t.Errorf("got %v, want %s", err, tt.err)
				}
			case err != nil:
				t.Error(err)
			case strings.Join(open.opens(), ",") != tt.opens || source.String() != tt.whom || open.CmdTimeout != time.Duration(tt.seconds)*time.Second:
				t.Errorf("got %v for %v for %v", open.opens(), source, open.CmdTimeout)
			}
		})
	}
}

// FuzzKeyPacket has datagrams, and contents sealed with the right keys: nothing panics, what fits has the right shape, and
// what is read can be written and read again.
func FuzzKeyPacket(f *testing.F) {
	k := aliceKey(f)
	for _, tt := range clientPackets {
		f.Add([]byte(tt.wire), tt.plain)
	}
	f.Fuzz(func(t *testing.T, wire []byte, plain string) {
		try := newKeyTry(nil, k)
		if keyShaped(wire) && try.fits(wire) {
			_, _ = k.open(wire)
		}
		sealed := k.seal(plain, [8]byte{byte(len(plain))})
		if !try.fits(sealed) {
			t.Fatalf("%q: what is sealed does not fit", plain)
		}
		if shaped := len(sealed) >= keyMinLen && len(sealed) <= keyMaxLen; shaped != keyShaped(sealed) {
			t.Fatalf("%q: %d bytes are of the right shape: %v", plain, len(sealed), !shaped)
		}
		r, err := k.open(sealed)
		if err != nil || r.kind < keyAccess || r.kind > keyNATTimeout {
			return
		}
		again, err := parseKeyRequest(r.plain(rand.Uint64()))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%q: got %+v, and again %+v, %v", plain, r, again, err)
		}
	})
}
