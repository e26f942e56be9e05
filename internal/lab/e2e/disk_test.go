package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// TestDisk: a guest whose redis has each write on a replicated disk before it answers, with a second replicated disk and
// one that both nodes share and only read. Machines are lost under load; each time the clients miss nothing, and
// protection comes back with the disks. In the end the images of both nodes, as a sudden death leaves them, have clean
// file systems with every write that was answered. In full the first twenty losses are all the speaker's: the roles
// alternate.
func TestDisk(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "shared.raw")
	content := bytes.Repeat([]byte("what both nodes have\n"), 1<<20/21+1)[:1<<20]
	if err := os.WriteFile(pool, content, 0o600); err != nil {
		t.Fatal(err)
	}
	l := up(t, "disk", lab.Options{
		Disk: "64M", Encryption: "tls", NoRestart: true,
		MoreDisks: []lab.Disk{{Size: "32M", Kind: "replicated"}, {Size: "1M", Kind: "shared", Image: pool}},
	})
	inGuest(t, l, "mkdir -p /mnt && mount /dev/vdb /mnt")
	loads := []client.Load{
		{Kind: client.Redis, Name: "one", Size: 1, Rate: 20}, {Kind: client.Redis, Name: "many", Size: 8, Rate: 4},
		{Kind: client.Echo, Rate: 10 << 10},
	}
	answered := map[string]int64{}
	var gaps, protect figures
	n := rounds(4, 40)
	for i := range n {
		before := status(t, l)
		victim := before.Speaker
		if i%4 == 2 && (!long || i >= n/2) {
			victim = other(victim)
		}
		gap, longest := watchedDisk(t, l, loads, answered, func() {
			inGuest(t, l, fmt.Sprintf("echo round %d >> /mnt/log && sync", i))
			fault(t, l, lab.KillVM, victim)
			start := time.Now()
			awaitSpeaker(t, l, before)
			if err := l.AwaitState(t.Context(), "protected"); err != nil {
				t.Fatalf("%v\n%s", err, l.Logs(40))
			}
			protect = append(protect, time.Since(start).Seconds())
		})
		gaps = append(gaps, gap)
		t.Logf("round %d: %s lost %s: %.0f ms until an answer, longest pause %.0f ms, protected after %.1f s, answered %v", i, before.Speaker, victim, gap, longest, protect[i], answered)
		if got := inGuest(t, l, "wc -l < /mnt/log; echo > /dev/vdc; head -c 21 /dev/vdc"); !strings.Contains(got, fmt.Sprint(i+1, "\n")) || !strings.Contains(got, "what both nodes have") {
			t.Errorf("the other disks have %q", got)
		}
		if out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 512", pool).CombinedOutput(); err == nil || !strings.Contains(string(out), "lock") {
			t.Errorf("the shared image can be written by others: %v: %s", err, out)
		}
		if t.Failed() {
			t.Fatalf("logs of the nodes:\n%s", l.Logs(60))
		}
	}
	t.Logf("until an answer, ms: %s; until protected again, s: %s; load average %s", gaps, protect, loadAverage())
	record(t, map[string]any{"gap_ms": gaps, "protected_s": protect})
	if got := readFile(pool); got != string(content) {
		t.Error("the shared image has changed")
	}
	// Everything dies at once.
	for _, kind := range []string{lab.KillColod, lab.KillVM} {
		for _, node := range []string{lab.NodeA, lab.NodeB} {
			fault(t, l, kind, node)
		}
	}
	for _, node := range []string{lab.NodeA, lab.NodeB} {
		counts := onImage(t, l.DiskImage(node))
		for name, want := range answered {
			if got := counts["colod:"+name]; got < want {
				t.Errorf("image of node %s: %d increments of %s, %d were answered", node, got, name, want)
			}
		}
		t.Logf("image of node %s: clean, %v", node, counts)
		if got := fileOn(t, l.MoreImage(node, 0), "/log"); strings.Count(got, "round ") != n {
			t.Errorf("second image of node %s: %q, want %d rounds", node, got, n)
		}
	}
}

// inGuest runs a command in the guest, and returns what it said.
func inGuest(t *testing.T, l *lab.Lab, command string) string {
	t.Helper()
	out, err := l.Command(t.Context(), lab.Client, append(append([]string{"ssh"}, client.SSHArgs(l.SSHKey(), l.KnownHosts())...), "root@"+image.GuestIPv4, command)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// watchedDisk is watched for clients of redis: it also keeps what was answered.
func watchedDisk(t *testing.T, l *lab.Lab, loads []client.Load, answered map[string]int64, happen func()) (gap, longest float64) {
	t.Helper()
	s := begin(t, l, working, loads...)
	unbroken(t, s, "before")
	happen()
	time.Sleep(time.Second)
	marked := unbroken(t, s, "afterwards")
	for i, r := range finished(t, s) {
		gap, longest = max(gap, marked[i].FirstMS), max(longest, marked[i].PauseMS)
		if r.Kind == client.Redis {
			n, err := strconv.ParseInt(r.Last, 10, 64)
			if err != nil || n <= answered[r.Name] {
				t.Errorf("client %s: the last answer is %q, after %d", r.Name, r.Last, answered[r.Name])
			}
			answered[r.Name] = n
		}
	}
	return gap, longest
}

// imageTool runs a program of e2fsprogs, or another one.
func imageTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	if path, err := exec.LookPath(name); err == nil {
		cmd.Path, cmd.Err = path, nil
	} else {
		cmd.Path, cmd.Err = filepath.Join("/sbin", name), nil
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// checkedCopy is a copy of an image whose file system is clean once its journal was replayed.
func checkedCopy(t *testing.T, from string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "disk.raw")
	imageTool(t, "cp", "--sparse=always", from, img)
	imageTool(t, "e2fsck", "-y", "-E", "journal_only", img)
	imageTool(t, "e2fsck", "-f", "-n", img)
	return img
}

// fileOn is the content of a file on an image.
func fileOn(t *testing.T, from, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "file")
	imageTool(t, "debugfs", "-R", "dump "+name+" "+out, checkedCopy(t, from))
	return readFile(out)
}

// onImage checks the file system on a copy of an image, and counts the increments of each key in redis' file.
func onImage(t *testing.T, name string) map[string]int64 {
	t.Helper()
	dir := t.TempDir()
	imageTool(t, "debugfs", "-R", "rdump /appendonlydir "+dir, checkedCopy(t, name))
	files, err := filepath.Glob(filepath.Join(dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file of redis on %s: %v", name, err)
	}
	counts := map[string]int64{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// *2 $4 INCR $n KEY, a line each.
		for _, entry := range bytes.Split(data, []byte("\r\n$4\r\nINCR\r\n")) {
			if f := strings.SplitN(string(entry), "\r\n", 3); len(f) > 1 && f[0] == fmt.Sprintf("$%d", len(f[1])) {
				counts[f[1]]++
			}
		}
	}
	return counts
}
