// Package history keeps the latest records of a kind on disk, one JSON object
// a line, in a bounded number of files of bounded size.
//
// It is for what people read afterwards: a record that could not be written
// is counted, and never holds up the one who told it. What was being written
// when the machine lost its power is recognised at the next start and cut off;
// a file that holds something else is left out, line by line.
package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Limits of a store.
const (
	DefaultFiles    = 8
	DefaultFileSize = 1 << 20
	// MaxLine bounds a record; a longer one is lost.
	MaxLine = 64 << 10
	// queued is how many records may wait for the disk.
	queued = 1024
)

// Options of a store; zero values mean the defaults.
type Options struct {
	Files    int   // kept at most, the one being written included; at least 2
	FileSize int64 // at which the next file is begun, bytes
}

// Store keeps records of type T. Safe for use by many goroutines.
type Store[T any] struct {
	dir  string
	opt  Options
	in   chan []byte
	done chan struct{}
	lost atomic.Uint64

	closing sync.Once

	mu     sync.Mutex // of what follows, and of the files' names
	f      *os.File
	number uint64 // of the file being written
	size   int64
	failed error // of the last write; the next one begins a new file
}

// Open opens or makes a store in dir and starts its writer.
func Open[T any](dir string, opt Options) (*Store[T], error) {
	if opt.Files == 0 {
		opt.Files = DefaultFiles
	}
	if opt.FileSize == 0 {
		opt.FileSize = DefaultFileSize
	}
	if opt.Files < 2 || opt.FileSize < 1 {
		return nil, fmt.Errorf("open history %s: %d files of %d bytes are too few", dir, opt.Files, opt.FileSize)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of the history: %w", err)
	}
	s := &Store[T]{dir: dir, opt: opt, in: make(chan []byte, queued), done: make(chan struct{})}
	numbers, err := s.numbers()
	if err != nil {
		return nil, err
	}
	last := uint64(1)
	if len(numbers) > 0 {
		last = numbers[len(numbers)-1]
	}
	if err := s.use(last); err != nil {
		return nil, err
	}
	go s.write()
	return s, nil
}

const suffix = ".jsonl"

func (s *Store[T]) path(n uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%08d%s", n, suffix))
}

// numbers are those of the files that are there, in order.
func (s *Store[T]) numbers() ([]uint64, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read directory of the history: %w", err)
	}
	var all []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if n, err := strconv.ParseUint(name, 10, 63); ok && err == nil && e.Type().IsRegular() {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// use opens file n for writing and cuts off what is no whole line.
func (s *Store[T]) use(n uint64) error {
	f, err := os.OpenFile(s.path(n), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open history: %w", err)
	}
	size, err := wholeLines(f)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("open history %s: %w", f.Name(), err)
	}
	s.f, s.number, s.size = f, n, size
	return nil
}

// wholeLines is the length of f up to and with its last line end. Only the
// end is looked at: no line is longer than MaxLine.
func wholeLines(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	from := max(st.Size()-2*MaxLine, 0)
	tail := make([]byte, st.Size()-from)
	if _, err := f.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return from + int64(bytes.LastIndexByte(tail, '\n')) + 1, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Add keeps a record. It never waits: what the disk is too slow for is counted as lost.
func (s *Store[T]) Add(v T) {
	line, err := json.Marshal(v)
	if err != nil || len(line) >= MaxLine {
		s.lost.Add(1)
		return
	}
	select {
	case s.in <- append(line, '\n'):
	default:
		s.lost.Add(1)
	}
}

// Lost is how many records could not be kept since Open.
func (s *Store[T]) Lost() uint64 { return s.lost.Load() }

// write is the store's writer: what waits is written together, then made to
// survive a loss of power.
func (s *Store[T]) write() {
	defer close(s.done)
	for line := range s.in {
		if line == nil {
			return
		}
		batch, n, end := line, uint64(1), false
	more:
		for len(batch) < int(s.opt.FileSize) {
			select {
			case line := <-s.in:
				if line == nil {
					end = true
					break more
				}
				batch = append(batch, line...)
				n++
			default:
				break more
			}
		}
		if err := s.put(batch); err != nil {
			s.lost.Add(n)
		}
		if end {
			return
		}
	}
}

func (s *Store[T]) put(batch []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil || s.size >= s.opt.FileSize {
		if err := s.rotate(); err != nil {
			s.failed = err
			return err
		}
	}
	n, err := s.f.Write(batch)
	s.size += int64(n)
	if err == nil {
		err = s.f.Sync()
	}
	s.failed = err
	return err
}

// rotate begins the next file and removes the oldest ones.
func (s *Store[T]) rotate() error {
	old := s.f
	if err := s.use(s.number + 1); err != nil {
		return err
	}
	old.Close()
	numbers, err := s.numbers()
	if err != nil {
		return err
	}
	for len(numbers) > s.opt.Files {
		if err := os.Remove(s.path(numbers[0])); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		numbers = numbers[1:]
	}
	return nil
}

// Read calls fn for each record that is on disk, oldest first, until it
// returns false. Lines that are no record are passed over.
func (s *Store[T]) Read(fn func(T) bool) error {
	s.mu.Lock()
	numbers, err := s.numbers()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		f, err := os.Open(s.path(n))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("read history: %w", err)
		}
		more, err := readLines(f, fn)
		f.Close()
		if err != nil {
			return fmt.Errorf("read history %s: %w", f.Name(), err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

func readLines[T any](r io.Reader, fn func(T) bool) (more bool, err error) {
	br := bufio.NewReaderSize(r, MaxLine)
	long := false // within a line that is too long
	for {
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = true
			continue
		case errors.Is(err, io.EOF):
			return true, nil // a line without end is still being written
		case err != nil:
			return false, err
		}
		var v T
		if !long && json.Unmarshal(line, &v) == nil && !fn(v) {
			return false, nil
		}
		long = false
	}
}

// Close writes what waits and ends the writer. Add must not be called any more.
func (s *Store[T]) Close() error {
	s.closing.Do(func() { s.in <- nil })
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}
