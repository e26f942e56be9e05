// Package statefile keeps small values on disk that must survive a crash of
// the program or of the host.
//
// A file is replaced as a whole: written beside the old one, synced, renamed,
// and its directory synced. After a crash at any moment there is the old value
// or the new one. A file that is torn, was edited or belongs to something else
// is recognised by its first line and its checksum, and is never taken for
// what it is not.
package statefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// MaxSize bounds a file, in bytes.
const MaxSize = 1 << 20

// ErrUnusable is the cause of every refusal of a file's content.
var ErrUnusable = errors.New("file cannot be used")

// Write replaces the file by v as JSON. kind is the first line of the file:
// one word that tells it from others, with a version. Directories are made
// as needed, for their owner only.
func Write(path, kind string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s\n", kind, body)
	fmt.Fprintf(&b, "crc32 %08x\n", crc32.ChecksumIEEE(b.Bytes()))
	if b.Len() > MaxSize {
		return fmt.Errorf("write %s: %d bytes, at most %d allowed", path, b.Len(), MaxSize)
	}
	if err := Replace(path, b.Bytes()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Replace replaces a file as a whole by data: after a crash at any moment there is the old content or the new one.
// Directories are made as needed, for their owner only.
func Replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Read reads the file into v. The error is fs.ErrNotExist if there is none,
// and ErrUnusable with the reason if it cannot be trusted.
func Read(path, kind string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if why := decode(data, kind, v); why != "" {
		return fmt.Errorf("read state: %w: %s: %s", ErrUnusable, path, why)
	}
	return nil
}

// decode returns why data is not what Write wrote, "" if it is.
func decode(data []byte, kind string, v any) string {
	if len(data) > MaxSize {
		return fmt.Sprintf("it is larger than %d bytes", MaxSize)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	if first != kind {
		if len(first) > 40 {
			first = first[:40] + "..."
		}
		return fmt.Sprintf("it begins with %q, not with %q: it is something else, or of another version of colod", first, kind)
	}
	lines := strings.Split(string(data), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return "it is cut short or has something behind its end"
	}
	if want := fmt.Sprintf("crc32 %08x", crc32.ChecksumIEEE([]byte(lines[0]+"\n"+lines[1]+"\n"))); lines[2] != want {
		return "its checksum is wrong: it is torn or was edited"
	}
	if err := json.Unmarshal([]byte(lines[1]), v); err != nil {
		return "its content is not what is expected: " + err.Error()
	}
	return ""
}

// Remove removes the file for good; none is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove state: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}
