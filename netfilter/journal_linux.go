package netfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultDir holds the locks and journals of paths, unless Config.Dir says otherwise. It should not outlive a reboot, as
// the devices do not.
const DefaultDir = "/run/colod/netfilter"

// step is one line of a journal: how to undo a change. It is written before the change is made, so that it can name
// something which was never done.
type step struct {
	Undo  string   `json:"undo"` // delete, restore or clsact
	Link  string   `json:"link"`
	Index int      `json:"index,omitempty"`
	Was   *setting `json:"was,omitempty"` // restore
}

const (
	undoDelete  = "delete"  // delete a device which we made
	undoRestore = "restore" // give a device which we adopted its settings back
	undoClsact  = "clsact"  // remove the qdisc which we added to a device that we adopted
)

// setting is what we change of a device that we did not make.
type setting struct {
	MTU         int    `json:"mtu"`
	TxQLen      int    `json:"txqlen"`
	Up          bool   `json:"up"`
	Alias       string `json:"alias"`
	DisableIPv6 string `json:"disable_ipv6,omitempty"` // the sysctl's text
	Bridge      string `json:"bridge,omitempty"`       // that it was a port of
}

// header is a journal's first line.
type header struct {
	Owner  string `json:"owner"`
	Tap    string `json:"tap"`
	Uplink string `json:"uplink"`
}

// journal is the record of one path in one network namespace, held under a lock.
type journal struct {
	lock  *os.File
	path  string
	head  header
	steps []step
}

// journalBase is the file name of a path's lock and journal without their endings. Taps of one name can exist in
// several network namespaces, which may share a file system.
func journalBase(ns uint64, tap string) string { return fmt.Sprintf("%d-%s", ns, tap) }

// threadNS is the calling thread's network namespace.
const threadNS = "/proc/thread-self/ns/net"

// namespaceID identifies the calling thread's network namespace.
func namespaceID() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(threadNS, &st); err != nil {
		return 0, fmt.Errorf("identify the network namespace: %w", err)
	}
	return st.Ino, nil
}

// openJournal locks a path and reads what stands in its journal. A lock held by another process is ErrBusy.
func openJournal(dir, base string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, base+".lock")
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			defer f.Close()
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", name, err)
			}
			holder, _ := os.ReadFile(name)
			return nil, fmt.Errorf("its path %w by process %s, which holds %s", ErrBusy, strings.TrimSpace(string(holder)), name)
		}
		// The file may have been removed between opening and locking: then the lock is worth nothing.
		if mine, err := f.Stat(); err == nil {
			if there, err := os.Stat(name); err != nil || !os.SameFile(mine, there) {
				f.Close()
				continue
			}
		}
		j := &journal{lock: f, path: filepath.Join(dir, base+".journal")}
		if err := j.read(); err != nil {
			f.Close()
			return nil, err
		}
		f.Truncate(0)
		fmt.Fprintf(f, "%d\n", os.Getpid())
		return j, nil
	}
}

// read reads the journal. A last line without an end was being written when its process died: its change was not made,
// and the line is cut off.
func (j *journal) read() error {
	text, err := os.ReadFile(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if whole := bytes.LastIndexByte(text, '\n') + 1; whole < len(text) {
		if err := os.Truncate(j.path, int64(whole)); err != nil {
			return err
		}
		text = text[:whole]
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines[:len(lines)-1] {
		if i == 0 {
			err = json.Unmarshal([]byte(line), &j.head)
		} else {
			var s step
			err = json.Unmarshal([]byte(line), &s)
			j.steps = append(j.steps, s)
		}
		if err != nil {
			return fmt.Errorf("read journal %s line %d: %w", j.path, i+1, err)
		}
	}
	return nil
}

// begin writes the first line, unless it is there.
func (j *journal) begin(h header) error {
	if j.head == h {
		return nil
	}
	j.head, j.steps = h, nil
	if err := os.Remove(j.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return j.write(h)
}

// record writes how to undo what the caller does next. A step that stands there already is not repeated: the first
// record of a setting is the one before our time.
func (j *journal) record(s step) error {
	for _, have := range j.steps {
		if have.Undo == s.Undo && have.Link == s.Link && have.Index == s.Index {
			return nil
		}
	}
	j.steps = append(j.steps, s)
	return j.write(s)
}

func (j *journal) write(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.Write(append(line, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("write journal: %w", err)
	}
	return f.Close()
}

// close gives the lock up and leaves the journal.
func (j *journal) close() error { return j.lock.Close() }

// remove takes journal and lock away: there is nothing to undo any more. The directory goes with the last of them.
func (j *journal) remove() error {
	var errs []error
	for _, name := range []string{j.path, j.lock.Name()} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, j.lock.Close())
	os.Remove(filepath.Dir(j.path)) // fails, as it should, unless it is empty
	return errors.Join(errs...)
}
