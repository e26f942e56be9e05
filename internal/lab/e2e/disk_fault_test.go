package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colod/coordinator"
	"colod/coordinator/peer"
	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// badDisk is the place of a node's image that can be made full, and can be made to fail: a file system of its
// own, and on it a file that qemu-storage-daemon shows with FUSE and answers as it is told.
type badDisk struct {
	t    *testing.T
	dir  string
	path string // of the image as the VM sees it
	conn net.Conn
	in   *bufio.Reader
}

const (
	faultDiskSize = 64 << 20
	faultRoom     = "150M" // of a file system with one image
)

func newBadDisk(t *testing.T, dir string) *badDisk {
	t.Helper()
	b := &badDisk{t: t, dir: filepath.Join(dir, "fs"), path: filepath.Join(dir, "disk.raw")}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("colod-test", b.dir, "tmpfs", 0, "size="+faultRoom); err != nil {
		t.Fatalf("mount a small file system (needs root): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(b.dir, unix.MNT_DETACH) })
	under := filepath.Join(b.dir, "image")
	for name, size := range map[string]int64{under: faultDiskSize, b.path: 0} {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	sock := filepath.Join(dir, "control")
	// Two ways to one file: a good one, and one whose requests fail (QEMU docs/devel/blkdebug.txt).
	cmd := exec.Command("qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=good,locking=off,discard=unmap,filename="+under,
		"--blockdev", "driver=file,node-name=under,locking=off,filename="+under,
		"--blockdev", `{"driver":"blkdebug","node-name":"bad","image":"under","inject-error":[{"event":"none","errno":5,"iotype":"write"},{"event":"none","errno":5,"iotype":"read"}]}`,
		"--blockdev", "driver=raw,node-name=top,file=good,discard=unmap",
		"--export", "type=fuse,id=disk,node-name=top,writable=on,mountpoint="+b.path,
		"--chardev", "socket,id=control,server=on,wait=off,path="+sock, "--monitor", "chardev=control")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("start qemu-storage-daemon (package qemu-system-common): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = unix.Unmount(b.path, unix.MNT_DETACH)
	})
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		st, err := os.Stat(b.path)
		if err == nil && st.Size() == faultDiskSize {
			if b.conn, err = net.Dial("unix", sock); err == nil {
				break
			}
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("qemu-storage-daemon does not show the image: %v", err)
		}
	}
	t.Cleanup(func() { b.conn.Close() })
	b.in = bufio.NewReader(b.conn)
	b.tell("qmp_capabilities", nil)
	return b
}

// tell sends a command to qemu-storage-daemon.
func (b *badDisk) tell(command string, args any) {
	b.t.Helper()
	b.conn.SetDeadline(time.Now().Add(time.Minute))
	cmd := map[string]any{"execute": command}
	if args != nil {
		cmd["arguments"] = args
	}
	if err := json.NewEncoder(b.conn).Encode(cmd); err != nil {
		b.t.Fatal(err)
	}
	for {
		line, err := b.in.ReadString('\n')
		if err != nil {
			b.t.Fatal(err)
		}
		if strings.Contains(line, `"error"`) {
			b.t.Fatalf("%s: %s", command, line)
		}
		if strings.Contains(line, `"return"`) {
			return
		}
	}
}

// fail makes every request of the disk end with EIO, or none any more.
func (b *badDisk) fail(yes bool) {
	b.t.Helper()
	node := map[bool]string{false: "good", true: "bad"}[yes]
	b.tell("blockdev-reopen", map[string]any{"options": []any{map[string]any{"driver": "raw", "node-name": "top", "file": node, "discard": "unmap"}}})
}

// resize puts a file of another size in the place of the image; 0 puts the image back.
func (b *badDisk) resize(t *testing.T, size int64) {
	t.Helper()
	if size != 0 {
		b.tell("block-export-del", map[string]any{"id": "disk", "mode": "hard"})
		for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if st, err := os.Stat(b.path); err == nil && st.Size() == 0 {
				break
			} else if time.Since(start) > time.Minute {
				t.Fatalf("the image does not go away: %v", err)
			}
		}
	}
	if err := os.Truncate(b.path, size); err != nil {
		t.Fatal(err)
	}
	if size == 0 {
		b.tell("block-export-add", map[string]any{"type": "fuse", "id": "disk", "node-name": "top", "writable": true, "mountpoint": b.path})
	}
}

// fill leaves no room where the image is; nothing that was written is lost.
func (b *badDisk) fill() {
	b.t.Helper()
	f, err := os.Create(filepath.Join(b.dir, "filler"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	for buf := make([]byte, 1<<20); ; {
		if _, err := f.Write(buf); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				b.t.Fatal(err)
			}
			if buf = buf[:len(buf)/2]; len(buf) < 512 {
				return
			}
		}
	}
}

// room makes room again.
func (b *badDisk) room() {
	b.t.Helper()
	if err := os.Remove(filepath.Join(b.dir, "filler")); err != nil {
		b.t.Fatal(err)
	}
}

// faultLab is a pair whose disks can be broken.
type faultLab struct {
	*lab.Lab
	bad      map[string]*badDisk
	answered map[string]int64
}

var redisLoads = []client.Load{
	{Kind: client.Redis, Name: "one", Size: 1, Rate: 20}, {Kind: client.Redis, Name: "many", Size: 8, Rate: 4},
	{Kind: client.Echo, Rate: 10 << 10},
}

func faultUp(t *testing.T) *faultLab {
	t.Helper()
	dir, err := os.MkdirTemp("", "colod-bad-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &faultLab{bad: map[string]*badDisk{}, answered: map[string]int64{}}
	images := map[string]string{}
	for _, node := range []string{lab.NodeA, lab.NodeB} {
		f.bad[node] = newBadDisk(t, filepath.Join(dir, node))
		images[node] = f.bad[node].path
	}
	f.Lab = up(t, "fault", lab.Options{Disk: fmt.Sprint(faultDiskSize>>20, "M"), Images: images, NoRestart: true})
	return f
}

// ssh starts a command in the guest, and does not wait for it: its disk may stand still.
func (f *faultLab) ssh(t *testing.T, command string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	cmd := f.Command(ctx, lab.Client, append(append([]string{"ssh"}, client.SSHArgs(f.SSHKey(), f.KnownHosts())...), "root@"+image.GuestIPv4, command)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// written lets the guest write to places of its disk that it has not written before.
func (f *faultLab) written(t *testing.T) (await func()) {
	t.Helper()
	cmd := f.ssh(t, "dd if=/dev/urandom of=/data/more bs=64k count=32 conv=fsync; rm /data/more; sync")
	return func() {
		if err := cmd.Wait(); err != nil {
			t.Errorf("write in the guest: %v", err)
		}
	}
}

// awaitReason waits until a node says a state and these words of its pair, in the status.
func (f *faultLab) awaitReason(t *testing.T, node, state string, words ...string) string {
	t.Helper()
	last := ""
	for start := time.Now(); time.Since(start) < 2*time.Minute; time.Sleep(20 * time.Millisecond) {
		st, err := f.NodeStatus(t.Context(), node)
		if err != nil {
			last = err.Error()
			continue
		}
		last = st.State + ": " + st.Reason
		if st.State == state && containsAll(st.Reason, words) {
			t.Logf("node %s: %s", node, last)
			return st.Reason
		}
	}
	t.Fatalf("node %s does not say %s with %q; last: %s\n%s", node, state, words, last, f.Logs(30))
	return ""
}

// awaitEvent waits for an event of a node's with these words, since a moment.
func (f *faultLab) awaitEvent(t *testing.T, node string, since time.Time, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var seen []string
	err := f.Events(ctx, node, func(e coordinator.Event) bool {
		if e.Time.Before(since) || e.Routine {
			return true
		}
		seen = append(seen, e.State+": "+e.Reason)
		if containsAll(e.Reason, words) {
			t.Logf("event of node %s: %s: %s", node, e.State, e.Reason)
			return false
		}
		return true
	})
	if err != nil {
		t.Fatalf("node %s has no event with %q: %v; it has:\n%s", node, words, err, strings.Join(seen, "\n"))
	}
}

func containsAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// TestDiskFaults: everything that can be wrong with the disk of a node. Each ends in a state of which status and events
// tell the reason; the guest lives, its clients miss nothing, and once the cause is mended the pair is protected by
// itself. In the end every write that was answered is on both images.
func TestDiskFaults(t *testing.T) {
	f := faultUp(t)
	for _, c := range []struct {
		name string
		do   func(f *faultLab, t *testing.T, speaker, secondary string)
	}{
		{"the-secondary's-is-full", func(f *faultLab, t *testing.T, speaker, secondary string) {
			f.brokenSecondary(t, speaker, secondary, f.bad[secondary].fill, f.bad[secondary].room, "o space left on device")
		}},
		{"the-secondary's-fails", func(f *faultLab, t *testing.T, speaker, secondary string) {
			f.brokenSecondary(t, speaker, secondary, func() { f.bad[secondary].fail(true) }, func() { f.bad[secondary].fail(false) }, "nput/output error")
		}},
		{"the-speaker's-is-full", func(f *faultLab, t *testing.T, speaker, secondary string) {
			f.brokenSpeaker(t, speaker, secondary, f.bad[speaker].fill, f.bad[speaker].room, "o space left on device")
		}},
		{"the-speaker's-fails", func(f *faultLab, t *testing.T, speaker, secondary string) {
			f.brokenSpeaker(t, speaker, secondary, func() { f.bad[speaker].fail(true) }, func() { f.bad[speaker].fail(false) }, "nput/output error")
		}},
		{"connection-lost", (*faultLab).lostConnection},
		{"alone-and-full", (*faultLab).aloneAndFull},
	} {
		ok := t.Run(c.name, func(t *testing.T) {
			st := status(t, f.Lab)
			gap, longest := watchedDisk(t, f.Lab, redisLoads, f.answered, func() {
				c.do(f, t, st.Speaker, other(st.Speaker))
				if err := f.AwaitState(t.Context(), "protected"); err != nil {
					t.Fatalf("%v\n%s", err, f.Logs(40))
				}
			})
			t.Logf("%.0f ms until an answer, longest pause %.0f ms, answered %v", gap, longest, f.answered)
		})
		if !ok {
			t.Fatalf("logs of the nodes:\n%s", f.Logs(60))
		}
	}
	f.judge(t)
}

// brokenSecondary: the node that only follows cannot write.
func (f *faultLab) brokenSecondary(t *testing.T, speaker, secondary string, hurt, mend func(), says string) {
	t.Helper()
	since := time.Now()
	hurt()
	await := f.written(t)
	f.awaitEvent(t, speaker, since, says)
	await()
	mend()
	if now := status(t, f.Lab); now.Speaker != speaker {
		t.Errorf("node %s speaks, %s did: its disk is well", now.Speaker, speaker)
	}
}

// brokenSpeaker: the node whose guest is heard cannot write: the other one, which has everything, takes over.
func (f *faultLab) brokenSpeaker(t *testing.T, speaker, secondary string, hurt, mend func(), says string) {
	t.Helper()
	before, since := status(t, f.Lab), time.Now()
	hurt()
	await := f.written(t)
	f.awaitEvent(t, speaker, since, says)
	after, _ := awaitSpeaker(t, f.Lab, before)
	await()
	mend()
	if after.Speaker != secondary {
		t.Errorf("node %s speaks, want %s: it has what node %s could not write", after.Speaker, secondary, speaker)
	}
}

// lostConnection: the disks' connection between the nodes breaks, and nothing else.
func (f *faultLab) lostConnection(t *testing.T, speaker, secondary string) {
	t.Helper()
	before := status(t, f.Lab)
	c := captureAt(t, f.Lab, speaker, preamblesOnly)
	fault(t, f.Lab, lab.KillVM, secondary) // so that the connections are opened again, and seen
	awaitSpeaker(t, f.Lab, before)
	if err := f.AwaitState(t.Context(), "protected"); err != nil {
		t.Fatal(err)
	}
	// The synchronisation may have taken several tries, each with a connection of its own, and what was captured may
	// come late: one that is open is needed.
	since, broken := time.Now(), 0
	for start := time.Now(); broken == 0; time.Sleep(50 * time.Millisecond) {
		if ports := c.ports(peer.ClassDisk); len(ports) > 0 {
			broken = breakConnections(t, f.Lab, speaker, ports)
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("no open connection of the disks was seen among %d", len(c.ports(peer.ClassDisk)))
		}
	}
	c.end()
	t.Logf("%d connections of the disks broken", broken)
	f.awaitEvent(t, speaker, since, "the disks are no longer replicated")
	if now := status(t, f.Lab); now.Speaker != speaker {
		t.Errorf("node %s speaks, %s did: its disk is well", now.Speaker, speaker)
	}
}

// aloneAndFull: no other node, and no room. The guest stands still, and goes on when there is room.
func (f *faultLab) aloneAndFull(t *testing.T, speaker, secondary string) {
	t.Helper()
	since := time.Now()
	fault(t, f.Lab, lab.KillColod, secondary)
	fault(t, f.Lab, lab.KillVM, secondary)
	if err := f.AwaitState(t.Context(), "solo"); err != nil {
		t.Fatal(err)
	}
	f.bad[speaker].fill()
	await := f.written(t)
	f.awaitReason(t, speaker, "solo", "disk 0: write of the guest's disk failed", "the guest stands still")
	f.awaitEvent(t, speaker, since, "disk 0: write of the guest's disk failed", "the guest stands still")
	st, err := f.NodeStatus(t.Context(), speaker)
	if err != nil || st.Disks == nil || st.Disks.Fault == nil || st.Disks.Fault.Stopped == "" || !st.Disks.Fault.Write {
		t.Errorf("status %+v, %v", st, err)
	}
	f.bad[speaker].room()
	f.awaitEvent(t, speaker, since, "the guest goes on")
	await()

	f.uselessImages(t, speaker, secondary)
	fault(t, f.Lab, lab.Heal, "")
}

// uselessImages: the other node comes back, and its image is in use, or of another size. The speaker says so.
func (f *faultLab) uselessImages(t *testing.T, speaker, secondary string) {
	t.Helper()
	bad := f.bad[secondary]
	// Another virtual machine that has it as its disk.
	user := exec.Command("qemu-system-x86_64", "-S", "-display", "none", "-nodefaults", "-accel", "tcg", "-m", "16", "-drive", "if=virtio,format=raw,file="+bad.path)
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	release := func() {
		_ = user.Process.Kill()
		_ = user.Wait()
	}
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if out, err := exec.Command("qemu-io", "-f", "raw", "-c", "quit", bad.path).CombinedOutput(); err != nil && strings.Contains(string(out), "lock") {
			break
		}
		if time.Since(start) > time.Minute {
			t.Fatal("the other virtual machine does not lock its disk")
		}
	}
	defer release()
	refused := func(words ...string) {
		t.Helper()
		since := time.Now()
		fault(t, f.Lab, lab.Heal, secondary)
		f.awaitEvent(t, speaker, since, words...)
		fault(t, f.Lab, lab.KillColod, secondary)
		if err := f.echo(); err != nil {
			t.Errorf("the guest does not answer: %v", err)
		}
	}
	refused("in use by another process")
	release()
	bad.resize(t, faultDiskSize/2)
	refused("both nodes need images of one size")
	bad.resize(t, 0)
}

// echo asks the guest for a sign of life.
func (f *faultLab) echo() error { return f.AwaitGuest(context.Background()) }

// judge ends everything at once and looks at both images.
func (f *faultLab) judge(t *testing.T) {
	t.Helper()
	for _, kind := range []string{lab.KillColod, lab.KillVM} {
		for _, node := range []string{lab.NodeA, lab.NodeB} {
			fault(t, f.Lab, kind, node)
		}
	}
	for _, node := range []string{lab.NodeA, lab.NodeB} {
		counts := onImage(t, f.DiskImage(node))
		for name, want := range f.answered {
			if got := counts["colod:"+name]; got < want {
				t.Errorf("image of node %s: %d increments of %s, %d were answered", node, got, name, want)
			}
		}
		t.Logf("image of node %s: clean, %v", node, counts)
	}
}
