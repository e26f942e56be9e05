package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colod/qmp"
)

// smallFS mounts a file system of a few MiB on dir. What is written to it beyond fails with ENOSPC.
func smallFS(t testing.TB, dir string, size string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("colod-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a small file system (needs root): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// awaitFault returns the first fault of a kind.
func awaitFault(t testing.TB, ev *qmp.Subscription, where Where) Fault {
	t.Helper()
	limit := time.After(60 * time.Second)
	for {
		select {
		case e, ok := <-ev.C:
			if !ok {
				t.Fatal(ev.Err())
			}
			if f, ok := FaultOf(e); ok && f.Where == where {
				t.Log(f)
				return f
			}
		case <-limit:
			t.Fatalf("no fault of %s was told of", where)
		}
	}
}

// TestRealSecondaryFull: no room on the other node, for the copy, and for a write later. The guest goes on, and
// every write that the other image lacks is told of.
func TestRealSecondaryFull(t *testing.T) {
	t.Run("copy", func(t *testing.T) {
		a, b := newHost(t, "a", Raw), newHost(t, "b", Raw)
		small := filepath.Join(b.dir, "small")
		smallFS(t, small, "8M")
		b.layout.Disks[0].Path = filepath.Join(small, "disk.raw")
		a.makeImages()
		a.launch(false)
		a.write(0, 1, "0", "16M")
		// Found out beforehand.
		err := b.layout.Check(testContext(t, 20*time.Second), true)
		if !errors.Is(err, ErrImage) || !strings.Contains(err.Error(), "its file system has") {
			t.Fatalf("check: %v", err)
		}
		t.Log(err)
		// And if it was not, the copy fails.
		b.layout.Disks[0].Size = 4 << 20
		b.makeImages()
		b.layout.Disks[0].Size = testSize
		if err := os.Truncate(b.layout.Disks[0].Path, testSize); err != nil {
			t.Fatal(err)
		}
		x := prepareUnchecked(t, a, b)
		err = a.layout.Start(testContext(t, 60*time.Second), a.vm.Monitor(), Sync{Sock: x.sock(), Session: x.session})
		if err == nil || !strings.Contains(err.Error(), "No space left on device") {
			t.Fatalf("copy: %v", err)
		}
		t.Log(err)
		x.streamP.Cut()
		if err := a.layout.Leave(testContext(t, 60*time.Second), a.vm.Monitor()); err != nil {
			t.Fatal(err)
		}
		a.write(0, 2, "0", "1M")
		a.reads(0, 2, "0", "1M")
	})
	for _, where := range []string{"image", "overlay"} {
		t.Run(where, func(t *testing.T) {
			a, b := newHost(t, "a", Raw), newHost(t, "b", Raw)
			small := filepath.Join(b.dir, "small")
			smallFS(t, small, "8M")
			if where == "image" {
				b.layout.Disks[0].Path = filepath.Join(small, "disk.raw")
			} else {
				b.layout.Dir = small
			}
			b.makeImages()
			a.makeImages()
			a.launch(false)
			if where == "overlay" {
				a.write(0, 9, "0", "16M") // so that there is something to keep of the time before
			}
			x := prepareUnchecked(t, a, b)
			x.copyDisks()
			x.copyGuest()
			ev := a.vm.Subscribe(0)
			defer ev.Close()
			a.write(0, 1, "0", "16M")
			select {
			case err := <-x.refused:
				if !errors.Is(err, unix.ENOSPC) {
					t.Errorf("refusal seen on the other node: %v", err)
				}
			case <-time.After(60 * time.Second):
				t.Error("the other node did not see that its image refused a write")
			}
			f := awaitFault(t, ev, Remote)
			if f.Disk != 0 || !f.Write || !strings.Contains(f.Text, "No space left") {
				t.Errorf("fault %+v", f)
			}
			x.goOn()
			a.reads(0, 1, "0", "16M")
			a.write(0, 2, "0", "1M")
			a.reads(0, 2, "0", "1M")
			b.end()
			// With room again the pair is protected again; what was written is known.
			if err := unix.Mount("colod-test", small, "tmpfs", unix.MS_REMOUNT, "size=200M"); err != nil {
				t.Fatal(err)
			}
			protect(t, a, b)
			b.reads(0, 2, "0", "1M")
			b.reads(0, 1, "1M", "15M")
		})
	}
}

// prepareUnchecked is prepare without the look for free space.
func prepareUnchecked(t testing.TB, p, s *host) *protection {
	t.Helper()
	s.unchecked = true
	defer func() { s.unchecked = false }()
	return prepare(t, p, s)
}

// TestRealPrimaryFull: alone, the guest stops and goes on when there is room; protected, the other node has
// everything that the guest was told is written.
func TestRealPrimaryFull(t *testing.T) {
	a, b := newHost(t, "a", Raw), newHost(t, "b", Raw)
	small := filepath.Join(a.dir, "small")
	smallFS(t, small, "8M")
	a.layout.Disks[0].Path = filepath.Join(small, "disk.raw")
	a.makeImages()
	a.launch(false)
	x := protect(t, a, b)
	ev := a.vm.Subscribe(0)
	defer ev.Close()
	a.write(0, 1, "0", "16M")
	if f := awaitFault(t, ev, Local); f.Disk != 0 || !f.Write {
		t.Errorf("fault %+v", f)
	}
	x.checkpoint()
	a.end()
	x.takeOver()
	b.reads(0, 1, "0", "16M")
	x.committed()
	b.reads(0, 1, "0", "16M")
}

// TestRealLostConnection: the NBD connection breaks while both nodes are well.
func TestRealLostConnection(t *testing.T) {
	for _, c := range []struct {
		name   string
		freeze bool
	}{{name: "broken"}, {name: "frozen with a write under way", freeze: true}} {
		t.Run(c.name, func(t *testing.T) {
			a, b := newHost(t, "a"), newHost(t, "b")
			a.makeImages()
			a.launch(false)
			x := protect(t, a, b)
			ev := a.vm.Subscribe(0)
			defer ev.Close()
			if c.freeze {
				if err := unix.Kill(b.vm.PID(), unix.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				line := `qemu-io -d /machine/peripheral/disk0/virtio-backend "aio_write -P 5 0 8M"`
				if err := a.vm.Monitor().Run(testContext(t, 30*time.Second), "human-monitor-command", obj{"command-line": line}, nil); err != nil {
					t.Fatal(err)
				}
				x.goOn()
			} else {
				x.streamS.Cut()
				select {
				case <-x.streamP.Done():
				case <-time.After(60 * time.Second):
					t.Fatal("the stream goes on")
				}
				t.Log(x.streamP.Err())
				a.write(0, 5, "0", "8M")
				awaitFault(t, ev, Remote)
				x.goOn()
			}
			a.reads(0, 5, "0", "8M")
			b.end()
			protect(t, a, b)
			b.reads(0, 5, "0", "8M")
		})
	}
}

// TestRealLostInCopy: the other node goes away while the disks are being copied.
func TestRealLostInCopy(t *testing.T) {
	a, b := newHost(t, "a"), newHost(t, "b")
	a.makeImages()
	a.launch(false)
	a.write(0, 1, "0", "64M")
	x := prepare(t, a, b)
	if err := b.layout.BeginCopy(x.session, "a"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t, 60*time.Second))
	defer cancel()
	err := a.layout.Start(ctx, a.vm.Monitor(), Sync{Sock: x.sock(), Session: x.session, Progress: func(p Progress) {
		if p.Done > 0 && b.vm != nil {
			b.end()
		}
	}})
	if err == nil {
		t.Fatal("copied to a dead VM")
	}
	t.Log(err)
	x.cut()
	if err := a.layout.Leave(testContext(t, 60*time.Second), a.vm.Monitor()); err != nil {
		t.Fatal(err)
	}
	a.write(0, 2, "0", "1M")
	// The other node's image is neither the old nor the new one, and is not started from.
	if err := b.tryLaunch(testContext(t, 60*time.Second), false); !errors.Is(err, ErrUnfinished) {
		t.Fatalf("start from an unfinished copy: %v", err)
	} else {
		t.Log(err)
	}
	protect(t, a, b)
	b.reads(0, 2, "0", "1M")
	b.reads(0, 1, "1M", "63M")
}

// TestRealDeadAfterTakeOver: the VM that took over ends too, before its overlays were committed, or after; a
// new one started here has everything.
func TestRealDeadAfterTakeOver(t *testing.T) {
	for _, committed := range []bool{false, true} {
		t.Run(map[bool]string{false: "uncommitted", true: "committed"}[committed], func(t *testing.T) {
			a, b := newHost(t, "a", QCOW2, Raw), newHost(t, "b", QCOW2, Raw)
			a.makeImages()
			a.launch(false)
			a.write(0, 1, "0", "4M")
			a.write(1, 1, "0", "4M")
			x := protect(t, a, b)
			a.write(0, 2, "0", "64k") // after the checkpoint: the survivor must not have it
			b.write(0, 3, "1M", "64k")
			if !committed {
				// What the end of QEMU leaves when it comes in the same instant as the takeover: overlays in use.
				x.cut()
				if err := b.layout.Promoting(); err != nil {
					t.Fatal(err)
				}
			} else {
				a.end()
				x.takeOver()
				if err := b.layout.AwaitCommit(testContext(t, 60*time.Second), b.vm.Monitor()); err != nil {
					t.Fatal(err)
				}
				b.write(0, 4, "2M", "64k")
				b.write(0, 5, "1M", "64k") // over what the overlay, closed by now, still holds
			}
			b.end()
			if a.vm != nil {
				a.end()
			}
			b.launch(false)
			b.reads(0, 1, "0", "64k")
			b.reads(1, 1, "0", "4M")
			if committed {
				b.reads(0, 5, "1M", "64k")
				b.reads(0, 4, "2M", "64k")
			} else {
				b.reads(0, 3, "1M", "64k")
			}
			g, err := b.layout.Ledger()
			if err != nil || g.Promoted || g.Committing {
				t.Errorf("ledger %+v, %v", g, err)
			}
		})
	}
}

// TestCheck: each thing that is wrong with an image, with its cure.
func TestCheck(t *testing.T) {
	ctx := testContext(t, 120*time.Second)
	a := newHost(t, "a", QCOW2)
	d := &a.layout.Disks[0]
	want := func(incoming bool, parts ...string) {
		t.Helper()
		err := a.layout.Check(ctx, incoming)
		if !errors.Is(err, ErrImage) {
			t.Errorf("check: %v, want ErrImage", err)
			return
		}
		for _, p := range parts {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("error %q does not say %q", err, p)
			}
		}
		t.Log(err)
	}
	want(false, "does not exist: make it (qemu-img create -f qcow2")
	path := d.Path
	d.Path = "/nowhere/at/all.qcow2"
	want(true, "nor does its directory")
	d.Path = a.dir
	want(false, "neither a file nor a block device")
	d.Path = path
	if err := a.layout.Check(ctx, true); err != nil { // a secondary's is made
		t.Fatal(err)
	}
	d.Size *= 2
	want(false, "has 67108864 bytes, the configuration says 134217728", "qemu-img resize")
	d.Size /= 2
	if err := os.WriteFile(d.Path, make([]byte, testSize), 0o600); err != nil {
		t.Fatal(err)
	}
	want(false, "is no qcow2 image: set format: raw")
	if err := os.Remove(d.Path); err != nil {
		t.Fatal(err)
	}
	a.makeImages()
	a.launch(false)
	want(false, "is in use by another process", "lslocks")
	a.end()
	if err := a.layout.Check(ctx, false); err != nil {
		t.Fatal(err)
	}
}

// TestCheckRawInUse: the lock of a raw image, which qemu-img does not meet.
func TestCheckRawInUse(t *testing.T) {
	ctx := testContext(t, 120*time.Second)
	a := newHost(t, "a", Raw)
	a.makeImages()
	a.launch(false)
	if err := a.layout.Check(ctx, false); !errors.Is(err, ErrImage) || !strings.Contains(err.Error(), "is in use by another process") {
		t.Errorf("check: %v", err)
	}
	a.end()
	if err := a.layout.Check(ctx, false); err != nil {
		t.Fatal(err)
	}
}
