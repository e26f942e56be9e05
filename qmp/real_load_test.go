package qmp

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"colod/qmp/relay"
)

// dirtyDisk is a boot floppy with the guest of testdata/dirty.S.
var dirtyDisk = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "colod-dirty-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	obj, bin := filepath.Join(dir, "dirty.o"), filepath.Join(dir, "dirty.bin")
	for _, args := range [][]string{
		{"as", "--32", "-o", obj, "testdata/dirty.S"},
		{"ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", bin, obj},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, errors.New(string(out))
		}
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		return nil, err
	}
	return append(b, make([]byte, 1440<<10-len(b))...), nil
})

// loadedConfig is a VM whose guest keeps its memory changing and checks it.
func loadedConfig(t testing.TB, name string) VMConfig {
	t.Helper()
	disk, err := dirtyDisk()
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, name)
	path := filepath.Join(filepath.Dir(cfg.RunDir), "floppy.img")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Args = []string{"-drive", "if=floppy,format=raw,readonly=on,file=" + path}
	return cfg
}

// console counts what the guest said: progress and wrong pages.
func console(t testing.TB, v *VM) (dots, wrong int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(v.RunDir(), FileConsole))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte(".")), bytes.Count(b, []byte("E"))
}

// works waits until the guest has made progress and checks that its memory is right.
func works(t testing.TB, v *VM) {
	t.Helper()
	from, _ := console(t, v)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		dots, wrong := console(t, v)
		switch {
		case wrong > 0:
			t.Fatalf("VM %s (pid %d): the guest found wrong memory", v.Name(), v.PID())
		case dots >= from+4:
			return
		case time.Now().After(end):
			t.Fatalf("VM %s (pid %d): the guest makes no progress (%d)", v.Name(), v.PID(), dots)
		}
	}
}

// TestRealLossesUnderLoad loses one side again and again, at random instants, many within a
// checkpoint; the survivor, of either kind, becomes the primary of a new secondary. The guest's
// memory must always be whole. COLOD_LONG=1 takes more rounds.
func TestRealLossesUnderLoad(t *testing.T) {
	rounds := 8
	if os.Getenv("COLOD_LONG") != "" {
		rounds = 50
	}
	ctx := testContext(t, 10*time.Minute)
	p := launch(t, loadedConfig(t, "p"), false)
	works(t, p)
	var took [2][]time.Duration
	var pause []time.Duration
	within := 0
	for round := range rounds {
		s := launch(t, loadedConfig(t, "s"), true)
		x := protect(t, p, s, relay.Options{})
		for range 5 {
			c, err := p.Checkpoint(ctx)
			if err != nil {
				t.Fatal(err)
			}
			pause = append(pause, c.Pause())
		}
		works(t, s)
		survivor, lost := s, p
		if round%2 == 1 {
			survivor, lost = p, s
		}
		if err := p.TriggerCheckpoint(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(25_000)) * time.Microsecond)
		if x.rs.Stats().Phase != relay.Idle {
			within++
		}
		killNow(t, lost)
		x.cut()
		took[round%2] = append(took[round%2], survive(t, survivor))
		works(t, survivor)
		p = survivor
	}
	for i, name := range []string{"secondary takes over", "primary goes on"} {
		slices.Sort(took[i])
		t.Logf("%-21s p50 %v max %v (%d times)", name, quantile(took[i], 0.5), took[i][len(took[i])-1], len(took[i]))
	}
	slices.Sort(pause)
	t.Logf("pause with 8 MiB changing: p50 %v p99 %v; %d of %d losses within a checkpoint", quantile(pause, 0.5), quantile(pause, 0.99), within, rounds)
}
