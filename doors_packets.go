//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Which key packets have opened a door stands in a file beside the journal, so that none does so twice:
//
//	sesame packets 1 FLOOR<tab>SUM
//	TIME HMAC<tab>SUM
//	end 1<tab>SUM
//
// with a line for each, its own time in Unix seconds and its HMAC in base64; SUM is the journal's checksum. FLOOR is a
// time: no packet of it, or from before it, counts any more. It goes up, so that also after a clock was set back nothing
// counts whose line was forgotten. Without the file it is the boot's time plus the window: where StateDir is in memory, what
// came before the boot is not known.

const (
	packetsHead = "sesame packets 1 "
	// maxPackets bounds the file. Only who has a key adds to it; the oldest makes room, and raises the floor.
	maxPackets = 1024
)

var (
	errNoPlace   = errors.New("there is no place to note that its packet is used: StateDir names one")
	errUnsettled = errors.New("StateDir is in memory and this host's clock is not synchronised, so nobody knows which packets are new")
)

// packetsFile is the file in a journal's folder.
func (j *Journal) packetsFile() string { return filepath.Join(filepath.Dir(j.path), "packets") }

// spentPackets are those that have opened a door.
type spentPackets struct {
	path   string // "": there is no place for it
	load   func() ([]byte, error)
	save   func([]byte) error // returns when it is on the disk
	forget bool               // a reboot empties the folder
	synced func() bool        // whether this host's clock is
	read   bool               // the rest is as in the file
	floor  int64
	times  map[[32]byte]int64 // by HMAC
}

// configure says where the file is.
func (s *spentPackets) configure(path string) {
	var fs unix.Statfs_t
	_ = unix.Statfs(filepath.Dir(path), &fs)
	*s = spentPackets{
		path: path, forget: slices.Contains([]uint32{unix.TMPFS_MAGIC, unix.RAMFS_MAGIC}, uint32(fs.Type)), synced: clockSynced,
		load: func() ([]byte, error) { return os.ReadFile(path) },
		save: func(text []byte) error {
			_, err := writeFile(path, text, nil, nil)
			return err
		},
	}
}

// spend notes on the disk that a packet is used: with an error it must not open anything.
func (s *spentPackets) spend(g Grant) error {
	p := g.Packet
	switch {
	case s.path == "":
		return errNoPlace
	case s.forget && !s.synced():
		return errUnsettled
	}
	now := int64(p.Wall / time.Second)
	if err := s.recall(now, now-int64(g.When/time.Second)); err != nil {
		return err
	}
	for tag, t := range s.times {
		if t < now-keyWindow {
			s.drop(tag)
		}
	}
	if _, known := s.times[p.Tag]; known {
		return errSpent
	}
	if s.times[p.Tag] = p.Time; len(s.times) > maxPackets {
		s.drop(s.oldest())
	}
	if p.Time <= s.floor {
		delete(s.times, p.Tag)
		return fmt.Errorf("nobody knows any more whether its packet is used: one that is made in %d s counts", s.floor-p.Time+1)
	}
	if err := s.save(s.text()); err != nil {
		delete(s.times, p.Tag) // which at worst is in the file, and not open
		return fmt.Errorf("noting that its packet is used: %w: %s", err, otherDir)
	}
	return nil
}

// drop forgets a packet: neither it nor an older one counts again.
func (s *spentPackets) drop(tag [32]byte) {
	s.floor = max(s.floor, s.times[tag])
	delete(s.times, tag)
}

func (s *spentPackets) oldest() (tag [32]byte) {
	at := int64(0)
	for other, t := range s.times {
		if at == 0 || t < at {
			tag, at = other, t
		}
	}
	return tag
}

// recall reads the file, once. In the place of a damaged one everything until now, and a window more, is taken for used.
func (s *spentPackets) recall(now, boot int64) error {
	if s.read {
		return nil
	}
	text, err := s.load()
	switch {
	case errors.Is(err, os.ErrNotExist):
		s.floor, s.times = boot+keyWindow, map[[32]byte]int64{}
	case err != nil:
		return fmt.Errorf("reading which packets are used: %w: %s", err, otherDir)
	default:
		var ok bool
		if s.floor, s.times, ok = parsePackets(text); !ok {
			s.floor, s.times, s.read = now+keyWindow, map[[32]byte]int64{}, true
			return fmt.Errorf("%s is damaged: no packet counts for %d s, as nobody knows which are used", s.path, keyWindow)
		}
	}
	s.read = true
	return nil
}

// text is the file.
func (s *spentPackets) text() []byte {
	lines := []string{}
	for tag, t := range s.times {
		lines = append(lines, sealed(fmt.Sprintf("%d %s", t, keyBase64.EncodeToString(tag[:]))))
	}
	slices.Sort(lines)
	text := sealed(fmt.Sprint(packetsHead, s.floor)) + strings.Join(lines, "")
	return fmt.Appendf([]byte(text), "end %d\t%s", len(lines), checksum(text))
}

// parsePackets reads what text writes. ok is false for everything else.
func parsePackets(text []byte) (floor int64, times map[[32]byte]int64, ok bool) {
	s := spentPackets{times: map[[32]byte]int64{}}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "\t")
		if head, ok := strings.CutPrefix(line, packetsHead); ok {
			s.floor, _ = strconv.ParseInt(head, 10, 64)
		} else if number, text, _ := strings.Cut(line, " "); len(text) == keyTagLen {
			tag, _ := keyBase64.DecodeString(text)
			if t, err := strconv.ParseInt(number, 10, 64); err == nil && len(tag) == len([32]byte{}) {
				s.times[[32]byte(tag)] = t
			}
		}
	}
	return s.floor, s.times, string(s.text()) == string(text) && len(s.times) <= maxPackets
}
