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
)

// TestDisk: a guest whose redis has each write on a replicated disk before it answers. Machines are lost under
// load; each time the clients miss nothing, and protection comes back with the disk. In the end the images of both
// nodes, as a sudden death leaves them, have clean file systems with every write that was answered.
func TestDisk(t *testing.T) {
	l := up(t, "disk", lab.Options{Disk: "64M", Encryption: "tls", NoRestart: true})
	loads := []client.Load{
		{Kind: client.Redis, Name: "one", Size: 1, Rate: 20}, {Kind: client.Redis, Name: "many", Size: 8, Rate: 4},
		{Kind: client.Echo, Rate: 10 << 10},
	}
	answered := map[string]int64{}
	for i := range rounds(4, 20) {
		before := status(t, l)
		victim := before.Speaker
		if i%4 == 2 {
			victim = other(victim)
		}
		gap, longest := watchedDisk(t, l, loads, answered, func() {
			fault(t, l, lab.KillVM, victim)
			awaitSpeaker(t, l, before)
			if err := l.AwaitState(t.Context(), "protected"); err != nil {
				t.Fatalf("%v\n%s", err, l.Logs(40))
			}
		})
		t.Logf("round %d: %s lost %s: %.0f ms until an answer, longest pause %.0f ms, answered %v", i, before.Speaker, victim, gap, longest, answered)
		if t.Failed() {
			t.Fatalf("logs of the nodes:\n%s", l.Logs(60))
		}
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
	}
}

// watchedDisk is watched for clients of redis: it also keeps what was answered.
func watchedDisk(t *testing.T, l *lab.Lab, loads []client.Load, answered map[string]int64, happen func()) (gap, longest float64) {
	t.Helper()
	s, err := l.Client(t.Context(), loads)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Await(3*time.Minute, working); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mark(); err != nil {
		t.Fatal(err)
	}
	happen()
	time.Sleep(time.Second)
	marked, err := s.Mark()
	if err != nil {
		t.Fatal(err)
	}
	reports, err := s.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range reports {
		if !r.Clean() || !r.Done {
			t.Errorf("client %s: lost %d, repeated %d, corrupt %d, done %v, error %q", r.Name, r.Lost, r.Repeated, r.Corrupt, r.Done, r.Error)
		}
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

// onImage checks the file system on a copy of an image, and counts the increments of each key in redis' file.
func onImage(t *testing.T, image string) map[string]int64 {
	t.Helper()
	dir := t.TempDir()
	img := filepath.Join(dir, "disk.raw")
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		if path, err := exec.LookPath(name); err == nil {
			cmd.Path, cmd.Err = path, nil
		} else {
			cmd.Path, cmd.Err = filepath.Join("/sbin", name), nil
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	run("cp", "--sparse=always", image, img)
	run("e2fsck", "-y", "-E", "journal_only", img)
	run("e2fsck", "-f", "-n", img)
	run("debugfs", "-R", "rdump /appendonlydir "+dir, img)
	files, err := filepath.Glob(filepath.Join(dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file of redis on %s: %v", image, err)
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
