package web

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// A token is 32 random bytes; the file of tokens holds only their hashes. No
// salt and no slow hash are needed for what cannot be guessed.

const tokenPrefix = "colod_"

// maxTokens bounds the file's lines.
const maxTokens = 1000

// NewToken makes a token, to be given to the caller, and the line for the file of tokens.
func NewToken(name string, role Role) (token, line string, err error) {
	if err := checkTokenName(name); err != nil {
		return "", "", err
	}
	if role != Read && role != Operate {
		return "", "", fmt.Errorf("make token: role %s is not one of read and operate", role)
	}
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", "", fmt.Errorf("make token: %w", err)
	}
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(token))
	return token, fmt.Sprintf("%s %s %s", name, role, hex.EncodeToString(sum[:])), nil
}

func checkTokenName(name string) error {
	ok := name != "" && len(name) <= 64
	for _, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(".-_@", c))
	}
	if !ok {
		return fmt.Errorf("%q cannot be a token's name: use letters, digits and . - _ @, at most 64", name)
	}
	return nil
}

type token struct {
	id   Identity
	hash [sha256.Size]byte
}

// parseTokens reads a file of tokens: one a line, "NAME ROLE HASH"; empty
// lines and those that begin with # are passed over.
func parseTokens(path string, data []byte) ([]token, error) {
	var all []token
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("%s:%d: %d words, want NAME ROLE HASH as colod token prints them", path, n, len(f))
		}
		role, err := ParseRole(f[1])
		if err == nil {
			err = checkTokenName(f[0])
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		t := token{id: Identity{Name: f[0], Role: role}}
		if b, err := hex.DecodeString(f[2]); err != nil || len(b) != len(t.hash) {
			return nil, fmt.Errorf("%s:%d: the hash is not %d hexadecimal digits; colod token prints the whole line", path, n, 2*len(t.hash))
		} else {
			copy(t.hash[:], b)
		}
		if all = append(all, t); len(all) > maxTokens {
			return nil, fmt.Errorf("%s: more than %d tokens", path, maxTokens)
		}
	}
	return all, nil
}

// Tokens is a file of tokens, read anew when it changes. Safe for use by many goroutines.
type Tokens struct {
	path string

	mu    sync.Mutex
	mtime time.Time
	size  int64
	all   []token
	err   error
}

// OpenTokens reads the file once, to tell its mistakes early. Without a path
// there are no tokens.
func OpenTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh()
	return t, t.err
}

// refresh reads a changed file. One with a mistake lets nobody in.
func (t *Tokens) refresh() {
	if t.path == "" {
		return
	}
	st, err := os.Stat(t.path)
	if err != nil {
		t.all, t.mtime, t.err = nil, time.Time{}, fmt.Errorf("read tokens: %w", err)
		return
	}
	if st.ModTime().Equal(t.mtime) && st.Size() == t.size {
		return
	}
	t.mtime, t.size = st.ModTime(), st.Size()
	t.all, t.err = nil, nil
	if st.Mode().Perm()&0o022 != 0 {
		t.err = fmt.Errorf("read tokens: %s can be written by others than its owner (mode %o); chmod 640 it", t.path, st.Mode().Perm())
		return
	}
	data, err := os.ReadFile(t.path)
	if err != nil {
		t.err = fmt.Errorf("read tokens: %w", err)
		return
	}
	t.all, t.err = parseTokens(t.path, data)
}

// check finds the identity of a token.
func (t *Tokens) check(text string) (hash [sha256.Size]byte, id Identity, ok bool) {
	hash = sha256.Sum256([]byte(text))
	id, ok = t.lookup(hash)
	return hash, id, ok
}

// lookup finds the identity of a token's hash; a token that was taken out of the file has none.
func (t *Tokens) lookup(hash [sha256.Size]byte) (Identity, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh()
	var id Identity
	for i := range t.all {
		if subtle.ConstantTimeCompare(t.all[i].hash[:], hash[:]) == 1 {
			id = t.all[i].id
		}
	}
	return id, id.Role != NoRole
}

// Err is why no token counts at present; nil if the file is good.
func (t *Tokens) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh()
	return t.err
}
