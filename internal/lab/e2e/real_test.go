package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
	"colod/internal/lab/pattern"
)

// staticFile writes the first n bytes of the guest's static content to a file
// and returns its SHA-256.
func staticFile(t *testing.T, name string, n int64) string {
	t.Helper()
	h := sha256.New()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := io.MultiWriter(f, h)
	for off := int64(0); off < n; {
		b := pattern.Static(off)
		b = b[:min(int64(len(b)), n-off)]
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		off += int64(len(b))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func sha256File(name string) string {
	sum := sha256.Sum256([]byte(readFile(name)))
	return hex.EncodeToString(sum[:])
}

// realClient is one unmodified program that works across the loss.
type realClient struct {
	name  string
	cmd   *exec.Cmd
	out   bytes.Buffer
	errs  bytes.Buffer
	check func(stdout string) error
}

// TestRealClients: programs that people use, unmodified, in the middle of what
// they do, over IPv4 and IPv6.
func TestRealClients(t *testing.T) {
	for _, host := range []string{image.GuestIPv4, image.GuestIPv6} {
		t.Run(host, func(t *testing.T) {
			l := protected(t)
			giveUpIfFailed(t, l)
			realClients(t, l, host)
		})
	}
}

func realClients(t *testing.T, l *lab.Lab, host string) {
	dir := t.TempDir()
	// As long as the loss and what comes before and after it takes, at 1 MiB/s.
	const seconds = 8
	const size = seconds << 20
	sum := staticFile(t, filepath.Join(dir, "static"), size)
	bracket := host
	if strings.Contains(host, ":") {
		bracket = "[" + host + "]"
	}
	sshArgs := client.SSHArgs(l.SSHKey(), l.KnownHosts())
	in := func(argv ...string) *exec.Cmd { return l.Command(t.Context(), lab.Client, argv...) }

	var all []*realClient
	add := func(name string, cmd *exec.Cmd, check func(string) error) *realClient {
		c := &realClient{name: name, cmd: cmd, check: check}
		cmd.Stdout, cmd.Stderr = &c.out, &c.errs
		all = append(all, c)
		return c
	}
	limit := fmt.Sprint(size * 8 / seconds / 1000) // kbit/s
	add("scp to the guest", in(append(append([]string{"scp", "-l", limit}, sshArgs...), filepath.Join(dir, "static"), "root@"+bracket+":/tmp/up")...),
		func(string) error {
			out, err := in(append(append([]string{"ssh"}, sshArgs...), "root@"+host, "sha256sum /tmp/up; rm /tmp/up")...).Output()
			if err != nil || !strings.HasPrefix(string(out), sum) {
				return fmt.Errorf("the guest has %q, want %s (%w)", out, sum, err)
			}
			return nil
		})
	add("wget", in("wget", "-q", "--tries=1", "--limit-rate=1m", "-O", filepath.Join(dir, "wget"), fmt.Sprintf("http://%s/static/%d", bracket, size)),
		func(string) error {
			if got := sha256File(filepath.Join(dir, "wget")); got != sum {
				return fmt.Errorf("the file's SHA-256 is %s, want %s", got, sum)
			}
			return nil
		})
	// Many answers over one encrypted connection: -w tells how many were opened for each.
	curl := []string{"curl", "-sS", "--http1.1", "--limit-rate", "512k", "--cacert", l.CACert(), "-w", "%{num_connects}\n"}
	for i := range seconds {
		curl = append(curl, "-o", filepath.Join(dir, fmt.Sprint("curl", i)), fmt.Sprintf("https://%s/static/512k", bracket))
	}
	add("curl over https", in(curl...), func(out string) error {
		if want := "1\n" + strings.Repeat("0\n", seconds-1); out != want {
			return fmt.Errorf("connections opened for each answer: %q, want %q", out, want)
		}
		want := staticFile(t, filepath.Join(dir, "half"), 512<<10)
		for i := range seconds {
			if got := sha256File(filepath.Join(dir, fmt.Sprint("curl", i))); got != want {
				return fmt.Errorf("answer %d: SHA-256 %s, want %s", i, got, want)
			}
		}
		return nil
	})
	key := fmt.Sprint("real:", host, time.Now().UnixNano())
	redis := add("redis-cli", in("redis-cli", "-h", host), func(out string) error {
		lines := strings.Fields(out)
		for i, s := range lines {
			if s != fmt.Sprint(i+1) {
				return fmt.Errorf("answer %d is %q", i+1, s)
			}
		}
		if len(lines) != seconds*100 {
			return fmt.Errorf("%d answers, want %d", len(lines), seconds*100)
		}
		return nil
	})
	feed(t, redis.cmd, seconds*100, seconds*time.Second, func(int) string { return "INCR " + key + "\n" })
	shell := add("ssh", in(append(append([]string{"ssh", "-tt"}, sshArgs...), "root@"+host)...), func(out string) error {
		for i := range seconds * 5 {
			if !strings.Contains(out, fmt.Sprintf("said %d.", i*i)) {
				return fmt.Errorf("no answer to line %d in %q", i, out)
			}
		}
		return nil
	})
	feed(t, shell.cmd, seconds*5+1, seconds*time.Second, func(i int) string {
		if i == seconds*5 {
			return "exit\n"
		}
		return fmt.Sprintf("echo said $((%d*%d)).\n", i, i)
	})

	var running sync.WaitGroup
	for _, c := range all {
		if err := c.cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	// In mid-transfer: every connection is made, none is done.
	time.Sleep(seconds * time.Second / 3)
	before := status(t, l)
	fault(t, l, lab.KillVM, before.Speaker)
	after, took := awaitSpeaker(t, l, before)
	t.Logf("%s -> %s after %v: %s", before.Speaker, after.Speaker, took.Round(time.Millisecond), after.Reason)
	for _, c := range all {
		running.Go(func() {
			err := c.cmd.Wait()
			if err == nil {
				err = c.check(c.out.String())
			}
			if err != nil {
				t.Errorf("%s: %v: %s", c.name, err, c.errs.String())
			}
		})
	}
	running.Wait()
}

// feed types lines into a program at an even pace and then ends its input.
func feed(t *testing.T, cmd *exec.Cmd, n int, over time.Duration, line func(int) string) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer in.Close()
		for i := range n {
			if _, err := io.WriteString(in, line(i)); err != nil {
				return
			}
			time.Sleep(over / time.Duration(n))
		}
	}()
}
