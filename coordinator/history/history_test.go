package history

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rec struct {
	N    int    `json:"n"`
	Text string `json:"text"`
}

func open(t *testing.T, dir string, opt Options) *Store[rec] {
	t.Helper()
	s, err := Open[rec](dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func numbers(t *testing.T, s *Store[rec]) []int {
	t.Helper()
	var got []int
	if err := s.Read(func(r rec) bool { got = append(got, r.N); return true }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestKeptOverARestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for i := range 100 {
		s.Add(rec{N: i, Text: "line\nwith \x1b[31m and \u2028"})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if got := numbers(t, s); len(got) != 100 || got[0] != 0 || got[99] != 99 {
		t.Fatalf("%d records: %v", len(got), got)
	}
	s.Add(rec{N: 100})
	s.Close()
	s = open(t, dir, Options{})
	if got := numbers(t, s); len(got) != 101 || got[100] != 100 {
		t.Fatalf("%d records after the second start", len(got))
	}
	seen := 0
	if err := s.Read(func(rec) bool { seen++; return seen < 3 }); err != nil || seen != 3 {
		t.Errorf("a reader that has enough got %d, %v", seen, err)
	}
}

func TestBounded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Files: 3, FileSize: 1000})
	const all = 5000
	for i := 0; i < all; i += 100 {
		for j := range 100 {
			s.Add(rec{N: i + j, Text: strings.Repeat("x", 50)})
		}
		s.Close()
		s = open(t, dir, Options{Files: 3, FileSize: 1000})
	}
	s.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, e := range entries {
		i, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += i.Size()
	}
	// A batch of what waited may go beyond a file's size by itself and one line.
	if len(entries) > 3 || size > 3*2200 {
		t.Errorf("%d files of %d bytes in all", len(entries), size)
	}
	got := numbers(t, s)
	if len(got) == 0 || got[len(got)-1] != all-1 {
		t.Fatalf("the last of %d records is not there", len(got))
	}
	for i, n := range got {
		if n != all-len(got)+i {
			t.Fatalf("record %d of %d is %d", i, len(got), n)
		}
	}
}

// TestTorn cuts the last file at every byte, as a loss of power can: all
// whole records before the cut are there, and writing goes on.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for i := range 5 {
		s.Add(rec{N: i})
	}
	s.Close()
	file := filepath.Join(dir, "00000001.jsonl")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) {
		if err := os.WriteFile(file, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, Options{})
		s.Add(rec{N: 99})
		s.Close()
		want := strings.Count(string(whole[:cut]), "\n")
		got := numbers(t, s)
		if len(got) != want+1 || got[want] != 99 {
			t.Fatalf("cut at %d: %v, want %d whole records and the new one", cut, got, want)
		}
	}
}

func TestForeignContent(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"00000001.jsonl": "{\"n\":1}\nnot JSON\n\x00\x00\x00\n" + strings.Repeat("z", 3*MaxLine) + "\n[]\n{\"n\":2}\n",
		"00000002.jsonl": "\x00\x00\x00\x00",
		"other.jsonl":    "{\"n\":7}\n",
		"notes":          "{\"n\":8}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "00000009.jsonl"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Options{})
	s.Add(rec{N: 3})
	s.Close()
	if got := fmt.Sprint(numbers(t, s)); got != "[1 2 3]" {
		t.Errorf("got %s", got)
	}
}

func TestTooLongIsLost(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	s.Add(rec{N: 1, Text: strings.Repeat("x", MaxLine)})
	s.Add(rec{N: 2})
	s.Close()
	if got := fmt.Sprint(numbers(t, s)); got != "[2]" || s.Lost() != 1 {
		t.Errorf("got %s, lost %d", got, s.Lost())
	}
}

// TestDiskThatFails: records are lost and counted, and once the disk is good
// again, writing goes on.
func TestDiskThatFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	s.Add(rec{N: 1})
	for len(numbers(t, s)) == 0 {
		time.Sleep(time.Millisecond)
	}
	s.mu.Lock()
	good := s.f
	bad, err := os.Open(good.Name()) // for reading only
	if err != nil {
		t.Fatal(err)
	}
	s.f = bad
	s.mu.Unlock()
	s.Add(rec{N: 2})
	for s.Lost() == 0 {
		time.Sleep(time.Millisecond)
	}
	s.Add(rec{N: 3})
	s.Close()
	good.Close()
	if got := fmt.Sprint(numbers(t, s)); got != "[1 3]" || s.Lost() != 1 {
		t.Errorf("got %s, lost %d", got, s.Lost())
	}
}

func TestRefuses(t *testing.T) {
	if _, err := Open[rec](t.TempDir(), Options{Files: 1}); err == nil {
		t.Error("a store that cannot rotate was opened")
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open[rec](file, Options{}); err == nil {
		t.Error("a file was opened as a directory")
	}
}
