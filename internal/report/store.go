package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound a Store. A zero value of a field means its default.
type Limits struct {
	MaxSize uint64        // bytes of all segments together; default 64 MiB, at least 128 KiB
	MaxAge  time.Duration // of the newest report in a segment that is kept; default 30 days
}

const (
	defaultMaxSize = 64 << 20
	leastMaxSize   = 128 << 10
	defaultMaxAge  = 30 * 24 * time.Hour
	// A store has about so many segments when it is full: forgetting the oldest loses that part of it.
	segments       = 8
	largestSegment = 16 << 20
	segmentSuffix  = ".reports"
)

func (l Limits) withDefaults() Limits {
	if l.MaxSize == 0 {
		l.MaxSize = defaultMaxSize
	}
	l.MaxSize = max(l.MaxSize, leastMaxSize)
	if l.MaxAge <= 0 {
		l.MaxAge = defaultMaxAge
	}
	return l
}

func (l Limits) segment() int64 { return int64(min(l.MaxSize/segments, largestSegment)) }

// Store keeps the reports of one pair in one directory. One process appends; any may read meanwhile. It is not
// safe for concurrent use.
type Store struct {
	dir   string
	lim   Limits
	files []segmentFile // by number
	out   *os.File
	next  uint64 // number of the next report
	dirty bool
	buf   []byte
	stats StoreStats

	write func(*os.File, []byte) (int, error) // a seam for tests
}

type segmentFile struct {
	number uint64 // of its first report
	size   int64
	newest time.Time
}

// StoreStats say how full a store is.
type StoreStats struct {
	Reports uint64 // written since Open
	Bytes   uint64 // on disk now
	Failed  uint64 // not written, since the disk was full or failed
	Torn    uint64 // bytes that a crash had torn, cut off by Open
	Dropped uint64 // segments removed because of the limits
}

// Open makes or opens a store for appending and repairs what a crash has torn.
func Open(dir string, lim Limits) (*Store, error) {
	s := &Store{dir: dir, lim: lim.withDefaults(), next: 1, write: func(f *os.File, b []byte) (int, error) { return f.Write(b) }}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of reports: %w", err)
	}
	names, err := listSegments(dir)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		path := filepath.Join(dir, name)
		var last Report
		seen := false
		size, cut, err := repairSegment(path, func(body []byte) error {
			seen = json.Unmarshal(body, &last) == nil || seen
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("open reports: %w", err)
		}
		s.stats.Torn += uint64(cut)
		if size == 0 || !seen && i < len(names)-1 {
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("open reports: %w", err)
			}
			continue
		}
		f := segmentFile{number: segmentNumber(name), size: size, newest: last.Time}
		if !seen {
			f.newest = time.Now()
		}
		s.next = max(s.next, last.Number+1, f.number)
		s.files = append(s.files, f)
	}
	return s, nil
}

func listSegments(dir string) ([]string, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list reports: %w", err)
	}
	var names []string
	for _, e := range all { // in order of name, which is that of the number
		if e.Type().IsRegular() && strings.HasSuffix(e.Name(), segmentSuffix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func segmentName(n uint64) string { return fmt.Sprintf("%020d%s", n, segmentSuffix) }

func segmentNumber(name string) (n uint64) {
	_, _ = fmt.Sscanf(name, "%d", &n) // a foreign name is number 0
	return n
}

// Append numbers and writes a report. The error says why it is not on the disk; the store stays usable, and later
// reports are tried again.
func (s *Store) Append(r *Report) error {
	r.Number = s.next
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if len(body) > maxRecord {
		s.stats.Failed++
		return fmt.Errorf("report %d takes %d bytes: at most %d fit a record", r.Number, len(body), maxRecord)
	}
	s.buf = appendRecord(s.buf[:0], body)
	if err := s.room(int64(len(s.buf)), r.Time); err != nil {
		s.stats.Failed++
		return err
	}
	f := &s.files[len(s.files)-1]
	n, err := s.write(s.out, s.buf)
	if err == nil && n < len(s.buf) {
		err = unix.ENOSPC
	}
	if err != nil {
		s.stats.Failed++
		if terr := s.out.Truncate(f.size); terr != nil {
			s.abandon() // its end is torn; readers and the next Open see that
		} else if _, serr := s.out.Seek(f.size, 0); serr != nil {
			s.abandon()
		}
		return fmt.Errorf("write report: %w", err)
	}
	s.next++
	f.size += int64(len(s.buf))
	f.newest = r.Time
	s.dirty = true
	s.stats.Reports++
	return nil
}

// abandon closes the present segment; the next report begins another one.
func (s *Store) abandon() {
	if s.out != nil {
		s.out.Close()
		s.out = nil
	}
}

// room makes sure that a segment is open that takes n more bytes.
func (s *Store) room(n int64, now time.Time) error {
	if s.out != nil && s.files[len(s.files)-1].size+n > s.lim.segment() {
		if err := s.Sync(); err != nil {
			return err
		}
		s.abandon()
	}
	s.forget(n, now)
	if s.out != nil {
		return nil
	}
	if k := len(s.files); k > 0 && s.files[k-1].size+n <= s.lim.segment() {
		f, err := os.OpenFile(s.path(k-1), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			if st, serr := f.Stat(); serr == nil && st.Size() == s.files[k-1].size {
				s.out = f
				return nil
			}
			f.Close()
		}
	}
	path := filepath.Join(s.dir, segmentName(s.next))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("begin a segment of reports: %w", err)
	}
	if w, err := s.write(f, []byte(segmentMagic)); err != nil || w < len(segmentMagic) {
		f.Close()
		os.Remove(path)
		if err == nil {
			err = unix.ENOSPC
		}
		return fmt.Errorf("begin a segment of reports: %w", err)
	}
	if k := len(s.files); k > 0 && s.files[k-1].number == s.next {
		s.files = s.files[:k-1] // it had no report
	}
	s.files = append(s.files, segmentFile{number: s.next, size: int64(len(segmentMagic)), newest: now})
	s.out = f
	return syncDir(s.dir)
}

func (s *Store) path(i int) string { return filepath.Join(s.dir, segmentName(s.files[i].number)) }

// forget removes the oldest segments until n more bytes fit, and those that are too old.
func (s *Store) forget(n int64, now time.Time) {
	total := n + int64(len(segmentMagic))
	for _, f := range s.files {
		total += f.size
	}
	for len(s.files) > 0 {
		f := s.files[0]
		present := len(s.files) == 1 && s.out != nil
		if present || total <= int64(s.lim.MaxSize) && now.Sub(f.newest) <= s.lim.MaxAge {
			return
		}
		if err := os.Remove(s.path(0)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return // tried again with the next report
		}
		total -= f.size
		s.files = s.files[1:]
		s.stats.Dropped++
	}
}

// Expire removes what is too old.
func (s *Store) Expire(now time.Time) {
	if k := len(s.files); k > 0 && now.Sub(s.files[k-1].newest) > s.lim.MaxAge {
		s.abandon()
	}
	s.forget(0, now)
}

// Sync makes what was appended survive a crash of the host.
func (s *Store) Sync() error {
	if s.out == nil || !s.dirty {
		return nil
	}
	s.dirty = false
	if err := unix.Fdatasync(int(s.out.Fd())); err != nil {
		return fmt.Errorf("sync reports: %w", err)
	}
	return nil
}

// Stats are the present figures.
func (s *Store) Stats() StoreStats {
	st := s.stats
	for _, f := range s.files {
		st.Bytes += uint64(f.size)
	}
	return st
}

// Close ends the store.
func (s *Store) Close() error {
	err := s.Sync()
	s.abandon()
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Filter chooses reports. A zero value of a field excludes nothing.
type Filter struct {
	Since, Until time.Time
	Number       uint64 // only this one
	Last         int    // only the newest so many
}

// Read calls fn with the reports in dir that f admits, oldest first. A torn end is passed over; skipped counts
// the records that are not reports of a version known here. A directory that is not there has no reports.
func Read(dir string, f Filter, fn func(*Report) error) (skipped int, err error) {
	names, err := listSegments(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var last []*Report
	for i, name := range names {
		if f.Number > 0 && i+1 < len(names) && segmentNumber(names[i+1]) <= f.Number {
			continue
		}
		n, err := readSegment(filepath.Join(dir, name), f, func(r *Report) error {
			if f.Last <= 0 {
				return fn(r)
			}
			if last = append(last, r); len(last) >= 2*f.Last {
				last = append(last[:0], last[len(last)-f.Last:]...)
			}
			return nil
		})
		skipped += n
		if err != nil {
			return skipped, err
		}
	}
	for _, r := range last[max(0, len(last)-max(f.Last, 0)):] {
		if err := fn(r); err != nil {
			return skipped, err
		}
	}
	return skipped, nil
}

func readSegment(path string, f Filter, fn func(*Report) error) (skipped int, err error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // forgotten meanwhile
	}
	if err != nil {
		return 0, fmt.Errorf("read reports: %w", err)
	}
	defer file.Close()
	_, _, err = scanSegment(file, func(body []byte) error {
		r := new(Report)
		if json.Unmarshal(body, r) != nil || r.Version != Version {
			skipped++
			return nil
		}
		switch {
		case f.Number > 0 && r.Number != f.Number,
			!f.Since.IsZero() && r.Time.Before(f.Since),
			!f.Until.IsZero() && !r.Time.Before(f.Until):
			return nil
		}
		return fn(r)
	})
	return skipped, err
}
