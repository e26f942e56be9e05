package arbiter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is an arbiter for one host: a directory with one file a record,
// guarded by flock, replaced by rename. It is no arbiter between hosts, as a
// shared file system's locks and renames are not what this needs.
type File struct {
	dir string
}

var pairName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$`)

// fileFormat begins every record file.
const fileFormat = "colod-record-1"

// maxRecord bounds a record file.
const maxRecord = 16 << 10

// lockPoll is how often a lock that another process holds is tried again;
// holders keep it for a write and a sync only.
const lockPoll = time.Millisecond

// CorruptError is a record file that cannot be trusted: torn, foreign or of
// another pair. It is never overwritten by itself.
type CorruptError struct {
	Path string
	Why  string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("read record %s: %s; no node will take a role until it is repaired or removed (stop both nodes first)", e.Path, e.Why)
}

// OpenFile opens the arbiter in directory dir, which is made if it is absent.
func OpenFile(dir string) (*File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make arbiter directory: %w", err)
	}
	return &File{dir: dir}, nil
}

// Close does nothing: no file stays open.
func (f *File) Close() error { return nil }

func (f *File) path(pair string) (string, error) {
	if !pairName.MatchString(pair) {
		return "", fmt.Errorf("%q is not a pair name", pair)
	}
	return filepath.Join(f.dir, pair+".record"), nil
}

// Get reads the record of pair.
func (f *File) Get(ctx context.Context, pair string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	path, err := f.path(pair)
	if err != nil {
		return Record{}, err
	}
	// Rename replaces the file as a whole, so reading needs no lock.
	return readRecord(path, pair)
}

// Swap replaces the record of a pair.
func (f *File) Swap(ctx context.Context, prev, next Record) (Record, error) {
	if err := checkSwap(prev, next); err != nil {
		return Record{}, fmt.Errorf("swap record: %w", err)
	}
	path, err := f.path(next.Pair)
	if err != nil {
		return Record{}, err
	}
	unlock, err := lock(ctx, path+".lock")
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	cur, err := readRecord(path, next.Pair)
	if err != nil {
		return Record{}, err
	}
	if cur != prev {
		return cur, ErrLost
	}
	if renamed, err := writeRecord(path, next); err != nil {
		if renamed {
			return Record{}, fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		return Record{}, err
	}
	return next, nil
}

// lock takes the lock file; the kernel gives it up when the process dies.
func lock(ctx context.Context, path string) (func(), error) {
	fd, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err := unix.Flock(int(fd.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { fd.Close() }, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			fd.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			fd.Close()
			return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// encode writes the format line, the record and a checksum over both.
func encode(r Record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s\n", fileFormat, body)
	fmt.Fprintf(&b, "crc32 %08x\n", crc32.ChecksumIEEE(b.Bytes()))
	return b.Bytes(), nil
}

// decode is the reverse of encode; why is "" when data is whole.
func decode(data []byte, pair string) (r Record, why string) {
	lines := strings.Split(string(data), "\n")
	if lines[0] != fileFormat {
		return r, fmt.Sprintf("it does not begin with %q: not a record, or of a newer colod", fileFormat)
	}
	if len(lines) != 4 || lines[3] != "" {
		return r, "it is cut short or has something behind its end"
	}
	sum := fmt.Sprintf("crc32 %08x", crc32.ChecksumIEEE([]byte(lines[0]+"\n"+lines[1]+"\n")))
	if lines[2] != sum {
		return r, "its checksum is wrong: the file is torn or was edited"
	}
	dec := json.NewDecoder(strings.NewReader(lines[1]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, "its content is not a record: " + err.Error()
	}
	if err := r.Check(pair); err != nil {
		return r, err.Error()
	}
	return r, ""
}

func readRecord(path, pair string) (Record, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("read record: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxRecord+1))
	if err != nil {
		return Record{}, fmt.Errorf("read record: %w", err)
	}
	if len(data) > maxRecord {
		return Record{}, &CorruptError{path, fmt.Sprintf("it is larger than %d bytes", maxRecord)}
	}
	r, why := decode(data, pair)
	if why != "" {
		return Record{}, &CorruptError{path, why}
	}
	return r, nil
}

// writeRecord replaces the file. renamed tells whether other processes may
// have seen the new record although an error is returned.
func writeRecord(path string, r Record) (renamed bool, err error) {
	data, err := encode(r)
	if err != nil {
		return false, err
	}
	tmp := path + ".new" // one writer at a time: the lock is held
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return false, fmt.Errorf("write record: %w", err)
	}
	_, err = out.Write(data)
	if err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(tmp)
		return false, fmt.Errorf("write record: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return false, fmt.Errorf("write record: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return true, fmt.Errorf("sync record: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return true, fmt.Errorf("sync record: %w", err)
	}
	return true, nil
}
