package coordinator

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// AuditEntry says who asked for what, and what came of it. The audit log holds
// one as a JSON object a line, in the order of their ends.
type AuditEntry struct {
	Time    time.Time      `json:"time"` // of the entry; what it tells of began TookMS earlier
	Node    string         `json:"node"`
	Pair    string         `json:"pair,omitempty"`
	What    string         `json:"what"` // the operation
	Who     AuditWho       `json:"who"`
	Args    map[string]any `json:"args,omitempty"`
	Outcome string         `json:"outcome"` // begun, done, failed
	Error   string         `json:"error,omitempty"`
	TookMS  int64          `json:"took_ms"`
}

// AuditWho is whoever asked.
type AuditWho struct {
	UID  *uint32 `json:"uid,omitempty"` // of the process at the API's socket, as the kernel knows it
	PID  int32   `json:"pid,omitempty"`
	Name string  `json:"name"` // of the user, of the certificate or token, or colod for what it did by itself
}

// audit appends to the audit log. Every entry is on disk before the answer to
// what it tells of. Nothing is ever taken out of it; an operator may move the
// file away at any time.
type audit struct {
	path string
	node string
	log  zerolog.Logger
	mu   sync.Mutex
}

func openAudit(path, node string, log zerolog.Logger) *audit {
	return &audit{path: path, node: node, log: log}
}

// write appends an entry. A failure is told in the log, with the entry.
func (a *audit) write(e AuditEntry) {
	e.Time, e.Node = time.Now(), a.node
	err := a.add(e)
	ev := a.log.Info()
	if err != nil {
		ev = a.log.Error().AnErr("audit", err)
	}
	ev.Str("pair", e.Pair).Str("what", e.What).Str("who", e.Who.Name).Interface("args", e.Args).Str("outcome", e.Outcome).
		Str("error", e.Error).Msg("operation")
}

func (a *audit) add(e AuditEntry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.OpenFile(a.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	// A line that a crash tore off must not swallow this one.
	var last [1]byte
	if st, err := f.Stat(); err == nil && st.Size() > 0 {
		if _, err := f.ReadAt(last[:], st.Size()-1); err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	_, err = f.Write(append(line, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	return nil
}

// maxAuditLine is longer than any entry.
const maxAuditLine = 256 << 10

// last are the last n entries, of one pair if it is named; lines that are no
// entries, such as one that a crash has torn, are left out.
func (a *audit) last(n int, pair string) ([]AuditEntry, error) {
	f, err := os.Open(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return []AuditEntry{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read audit log %s: %w", filepath.Base(a.path), err)
	}
	defer f.Close()
	all := []AuditEntry{}
	r := bufio.NewReaderSize(f, maxAuditLine)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		var e AuditEntry
		if err != nil || json.Unmarshal(line, &e) != nil || pair != "" && e.Pair != pair {
			continue
		}
		if all = append(all, e); len(all) > n {
			all = all[1:]
		}
	}
}

// whoAtSocket is the process at the other end of a unix socket, as the kernel
// knows it (unix(7), SO_PEERCRED).
func whoAtSocket(c syscall.Conn) AuditWho {
	raw, err := c.SyscallConn()
	if err != nil {
		return AuditWho{Name: "unknown"}
	}
	who := AuditWho{Name: "unknown"}
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return
		}
		who = AuditWho{UID: &cred.Uid, PID: cred.Pid, Name: "uid " + strconv.FormatUint(uint64(cred.Uid), 10)}
	})
	if who.UID != nil {
		if u, err := user.LookupId(strconv.FormatUint(uint64(*who.UID), 10)); err == nil {
			who.Name = u.Username
		}
	}
	return who
}
