package arbiter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T) (*File, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "arbiter")
	f, err := OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f, dir
}

func rec(g uint64, speaker, standby string) Record {
	return Record{Pair: "p", Generation: g, Speaker: speaker, Standby: standby, Reason: "test"}
}

func TestSwap(t *testing.T) {
	ctx := context.Background()
	f, _ := open(t)
	if r, err := f.Get(ctx, "p"); err != nil || r.Exists() {
		t.Fatalf("before the first: %v, %v", r, err)
	}
	first := rec(1, "a", "")
	if r, err := f.Swap(ctx, Record{}, first); err != nil || r != first {
		t.Fatalf("first: %v, %v", r, err)
	}
	if r, err := f.Swap(ctx, Record{}, rec(1, "b", "")); !errors.Is(err, ErrLost) || r != first {
		t.Errorf("second first: %v, %v", r, err)
	}
	second := rec(2, "a", "b")
	if r, err := f.Swap(ctx, first, second); err != nil || r != second {
		t.Errorf("second: %v, %v", r, err)
	}
	// The whole record counts, not its generation alone.
	if r, err := f.Swap(ctx, rec(2, "a", ""), rec(3, "b", "")); !errors.Is(err, ErrLost) || r != second {
		t.Errorf("swap of another record of the same generation: %v, %v", r, err)
	}
	for _, bad := range []struct {
		prev, next Record
		want       string
	}{
		{second, rec(4, "a", ""), "does not follow"},
		{second, rec(3, "", ""), "names no speaker"},
		{second, rec(3, "a", "a"), "both speaker and standby"},
		{second, Record{Pair: "../p", Generation: 3, Speaker: "a"}, "two pairs"},
		{Record{}, Record{Pair: "../p", Generation: 1, Speaker: "a"}, "not a pair name"},
	} {
		if _, err := f.Swap(ctx, bad.prev, bad.next); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v -> %v: %v, want %q", bad.prev, bad.next, err, bad.want)
		}
	}
	if r, err := f.Get(ctx, "p"); err != nil || r != second {
		t.Errorf("at last: %v, %v", r, err)
	}
}

// TestOneWinner: of many who swap the same record, exactly one wins, and
// every change is somebody's.
func TestOneWinner(t *testing.T) {
	_, dir := open(t)
	const rounds, nodes = 40, 4
	wins := make([]int, nodes)
	var wg sync.WaitGroup
	for n := range nodes {
		f, err := OpenFile(dir) // each as if in a process of its own
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			ctx := context.Background()
			for {
				cur, err := f.Get(ctx, "p")
				if err != nil {
					t.Error(err)
					return
				}
				if cur.Generation >= rounds {
					return
				}
				_, err = f.Swap(ctx, cur, rec(cur.Generation+1, fmt.Sprintf("n%d", n), ""))
				switch {
				case err == nil:
					wins[n]++
				case !errors.Is(err, ErrLost):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, w := range wins {
		total += w
	}
	if total != rounds {
		t.Errorf("%d swaps were won, the record is of generation %d", total, rounds)
	}
}

func TestTornAndForeignFiles(t *testing.T) {
	ctx := context.Background()
	f, dir := open(t)
	whole, err := encode(rec(1, "a", ""))
	if err != nil {
		t.Fatal(err)
	}
	other, err := encode(Record{Pair: "q", Generation: 1, Speaker: "a"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "p.record")
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "not a record"},
		{"foreign", "#!/bin/sh\n", "not a record"},
		{"newer", strings.Replace(string(whole), "record-1", "record-2", 1), "newer colod"},
		{"torn", string(whole[:len(whole)-20]), "cut short"},
		{"longer", string(whole) + "x", "something behind its end"},
		{"edited", strings.Replace(string(whole), `"speaker":"a"`, `"speaker":"b"`, 1), "checksum is wrong"},
		{"of another pair", string(other), `is of pair "q", not "p"`},
		{"huge", strings.Repeat("x", 100_000), "larger than"},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var corrupt *CorruptError
		if _, err := f.Get(ctx, "p"); !errors.As(err, &corrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: get: %v, want %q", c.name, err, c.want)
		}
		// What cannot be trusted is never overwritten.
		if _, err := f.Swap(ctx, Record{}, rec(1, "b", "")); !errors.As(err, &corrupt) {
			t.Errorf("%s: swap: %v", c.name, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != c.text {
			t.Errorf("%s: the file was changed", c.name)
		}
	}
	// A temporary file of a process that died does no harm.
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Swap(ctx, rec(1, "a", ""), rec(2, "b", "")); err != nil {
		t.Errorf("with a left temporary file: %v", err)
	}
}

// TestLockIsWaitedFor: a holder delays, and the context ends the wait with
// nothing changed.
func TestLockIsWaitedFor(t *testing.T) {
	f, dir := open(t)
	unlock, err := lock(context.Background(), filepath.Join(dir, "p.record.lock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.Swap(ctx, Record{}, rec(1, "a", "")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while locked: %v", err)
	}
	unlock()
	if _, err := f.Swap(context.Background(), Record{}, rec(1, "a", "")); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// FuzzDecode: what is read as a record is written as the same bytes' record.
func FuzzDecode(f *testing.F) {
	whole, err := encode(rec(7, "a", "b"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(fileFormat + "\n{}\ncrc32 00000000\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, why := decode(data, "p")
		if why != "" {
			return
		}
		again, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		if back, why := decode(again, "p"); why != "" || back != r {
			t.Fatalf("%v became %v, %s", r, back, why)
		}
	})
}
