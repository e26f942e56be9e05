package image

import (
	"fmt"
	"io"
	"path"
	"strings"
)

// The file types of a cpio "newc" entry, as in stat(2)'s st_mode.
const (
	typeDir     = 0o040000
	typeFile    = 0o100000
	typeSymlink = 0o120000
	typeChar    = 0o020000
)

// cpioWriter writes an archive in the format that the Linux kernel unpacks as
// its initial file system (Documentation/driver-api/early-userspace/buffer-format,
// "newc": magic 070701). Entries carry no time and no owner but root, so equal
// input gives equal bytes. Parent directories are written by themselves, once.
type cpioWriter struct {
	w    io.Writer
	ino  uint32
	size int64
	dirs map[string]bool
	err  error
}

func newCPIO(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, dirs: map[string]bool{"": true, ".": true}}
}

func (c *cpioWriter) put(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.size += int64(n)
	c.err = err
}

// pad fills up to the next multiple of n bytes.
func (c *cpioWriter) pad(n int64) {
	if rest := c.size % n; rest != 0 {
		c.put(make([]byte, n-rest))
	}
}

func (c *cpioWriter) entry(name string, mode, major, minor uint32, data []byte) {
	c.ino++
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
	// rdevmajor, rdevminor, namesize, check
	c.put(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0))
	c.put(append([]byte(name), 0))
	c.pad(4)
	c.put(data)
	c.pad(4)
}

func (c *cpioWriter) parents(name string) {
	dir := path.Dir(name)
	if !c.dirs[dir] {
		c.Dir(dir, 0o755)
	}
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// Dir adds a directory and its parents.
func (c *cpioWriter) Dir(name string, perm uint32) {
	name = clean(name)
	if c.dirs[name] {
		return
	}
	c.parents(name)
	c.dirs[name] = true
	c.entry(name, typeDir|perm, 0, 0, nil)
}

// File adds a regular file.
func (c *cpioWriter) File(name string, perm uint32, data []byte) {
	name = clean(name)
	c.parents(name)
	c.entry(name, typeFile|perm, 0, 0, data)
}

// Symlink adds a symbolic link with the given target.
func (c *cpioWriter) Symlink(name, target string) {
	name = clean(name)
	c.parents(name)
	c.entry(name, typeSymlink|0o777, 0, 0, []byte(target))
}

// Char adds a character device.
func (c *cpioWriter) Char(name string, perm, major, minor uint32) {
	name = clean(name)
	c.parents(name)
	c.entry(name, typeChar|perm, major, minor, nil)
}

// Close ends the archive, padded to 512 bytes so that another one can follow it
// in the same file. It does not close the writer below.
func (c *cpioWriter) Close() error {
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	c.pad(512)
	return c.err
}
