package statefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type value struct {
	Name string
	N    int
}

const kind = "colod-test-1"

func TestWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "state")
	var got value
	if err := Read(path, kind, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no file: %v", err)
	}
	if err := Remove(path); err != nil {
		t.Fatalf("remove what is not there: %v", err)
	}
	for i := range 3 {
		want := value{"two\nlines", i}
		if err := Write(path, kind, want); err != nil {
			t.Fatal(err)
		}
		if err := Read(path, kind, &got); err != nil || got != want {
			t.Fatalf("read %+v, %v; want %+v", got, err, want)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("files: %v, %v", left, err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Read(path, kind, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("removed: %v", err)
	}
	if err := Write(path, kind, strings.Repeat("x", MaxSize)); err == nil {
		t.Error("more than the bound is written")
	}
	if err := Write(path, kind, func() {}); err == nil {
		t.Error("a function is written")
	}
}

// TestTorn: whatever part of a file is there, and whichever byte is changed,
// it is recognised.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := Write(path, kind, value{"x", 1}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var v value
		if err := Read(path, kind, &v); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, value %+v", what, err, v)
		}
	}
	for i := range whole {
		refused("cut short", whole[:i])
		changed := append([]byte(nil), whole...)
		changed[i] ^= 1
		refused("changed", changed)
	}
	refused("longer", append(append([]byte(nil), whole...), '\n'))
	refused("foreign", []byte("# a comment\n"))
	refused("huge", make([]byte, MaxSize+1))
	if err := Write(path, "colod-other-1", value{}); err != nil {
		t.Fatal(err)
	}
	var v value
	if err := Read(path, kind, &v); err == nil || !strings.Contains(err.Error(), `begins with "colod-other-1", not with "colod-test-1"`) {
		t.Errorf("of another kind: %v", err)
	}
}
