package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// everyClient is one client of each kind, over IPv4 and IPv6 in turn.
func everyClient() []client.Load {
	return []client.Load{
		{Kind: client.Echo, Name: "echo", Rate: 100 << 10},
		{Kind: client.Echo, Name: "echo6", Host: image.GuestIPv6, Rate: 100 << 10},
		{Kind: client.UDPEcho},
		{Kind: client.UDPEcho, Name: "udp-echo6", Host: image.GuestIPv6},
		{Kind: client.Download, Host: image.GuestIPv6, Size: 1 << 20, Rate: 1 << 20},
		{Kind: client.Upload, Size: 1 << 20, Rate: 1 << 20},
		{Kind: client.Counter, Rate: 20},
		{Kind: client.Random, Rate: 2},
		{Kind: client.HTTPS, Host: image.GuestIPv6, Rate: 2},
		{Kind: client.Redis, Rate: 10},
		{Kind: client.SSH},
		{Kind: client.Fetch},
	}
}

// TestNativeLab shows that the guest, its services and the checking clients are
// sound by themselves: what fails with a pair and not here is colod's fault.
func TestNativeLab(t *testing.T) {
	l := up(t, "native", lab.Options{Native: true})
	finished(t, begin(t, l, func(r client.Report) bool { return r.Rounds > 0 }, everyClient()...))
	out, err := l.Command(t.Context(), lab.Client, "iperf3", "-c", image.GuestIPv4, "-t", "1", "-J").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("bits_per_second")) {
		t.Errorf("iperf3: %v: %s", err, out)
	}
	if said, err := l.Fault(t.Context(), lab.FreezeVM, ""); err != nil {
		t.Error(err)
	} else {
		t.Log(said)
	}
	if said, err := l.Fault(t.Context(), lab.ThawVM, ""); err != nil {
		t.Error(err)
	} else {
		t.Log(said)
	}
	if _, err := l.Fault(t.Context(), lab.KillColod, ""); err == nil {
		t.Error("a lab without colod let it be killed")
	}
}

// colod runs the program under test and returns what it printed.
func colod(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// TestLabCommands goes the way of a user: up, exec, status, down, each with its
// output and its errors.
func TestLabCommands(t *testing.T) {
	name := labName("cli")
	t.Cleanup(func() { lab.Down(context.Background(), name) })
	out, errs, err := colod(t, "lab", "up", "--native", "--json", "--name", name)
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	var info struct {
		Name  string
		State string
		Nodes []string
		Guest struct {
			IPv4, IPv6 string
			Services   []struct {
				Name string
				Port int
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if info.Name != name || info.State != "unprotected" || info.Guest.IPv4 != image.GuestIPv4 || len(info.Guest.Services) < 7 {
		t.Errorf("lab up --json: %s", out)
	}
	if _, errs, err := colod(t, "lab", "up", "--native", "--name", name); err == nil || !strings.Contains(errs, "lab down --name "+name) {
		t.Errorf("a second lab of the name: %v: %s", err, errs)
	}
	if out, errs, err := colod(t, "lab", "exec", "client", "--name", name, "--", "curl", "-s", "http://"+image.GuestIPv4+"/counter"); err != nil || out != "1\n" {
		t.Errorf("lab exec: %v: %q %s", err, out, errs)
	}
	if _, errs, err := colod(t, "lab", "exec", "nowhere", "--name", name, "--", "true"); err == nil || !strings.Contains(errs, "client, a, b") {
		t.Errorf("exec on an unknown host: %v: %s", err, errs)
	}
	if out, errs, err := colod(t, "lab", "status", "--json", "--name", name); err != nil || !strings.Contains(out, `"state": "unprotected"`) {
		t.Errorf("lab status: %v: %s %s", err, out, errs)
	}
	if _, errs, err := colod(t, "lab", "fault", "explode", "--name", name); err == nil || !strings.Contains(errs, "kill-vm") {
		t.Errorf("an unknown fault: %v: %s", err, errs)
	}
	if _, errs, err := colod(t, "lab", "down", "--name", name); err != nil {
		t.Errorf("lab down: %v: %s", err, errs)
	}
	if left := lab.Leaks(name); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "; "))
	}
	if _, errs, err := colod(t, "lab", "down", "--name", name); err == nil || !strings.Contains(errs, "no such lab") {
		t.Errorf("lab down of no lab: %v: %s", err, errs)
	}
	if _, errs, err := colod(t, "lab", "up", "--name", "No Name"); err == nil || !strings.Contains(errs, "lower-case") {
		t.Errorf("a bad name: %v: %s", err, errs)
	}
}

// TestDownAfterKilledUp ends the process that brings a lab up with SIGKILL at
// several moments; lab down leaves nothing each time.
func TestDownAfterKilledUp(t *testing.T) {
	big := []string{"--nodes=3", "--arbiter=etcd", "--members=3", "--paths=2"}
	for _, c := range []struct {
		name, step string
		args       []string
	}{
		{"native-hosts", "making the hosts", []string{"--native"}},
		{"native-serves", "the guest serves", []string{"--native"}},
		{"etcd-starts", "starting etcd", big},
		{"colod-starts", "starting colod", big},
		{"pair-serves", "the guest serves", big},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := labName("killed")
			cmd := exec.Command(program, append([]string{"lab", "up", "--name", name}, c.args...)...)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			awaitText(t, stderr, c.step)
			cmd.Process.Signal(syscall.SIGKILL)
			cmd.Wait()
			if len(lab.Leaks(name)) == 0 {
				t.Error("nothing was there to clear up: the leak check sees nothing")
			}
			if _, errs, err := colod(t, "lab", "down", "--name", name); err != nil {
				t.Errorf("lab down: %v: %s", err, errs)
			}
			if left := lab.Leaks(name); len(left) > 0 {
				t.Errorf("left: %s", strings.Join(left, "; "))
			}
		})
	}
}

// TestInterruptedUp ends the same with Ctrl-C: it clears up by itself.
func TestInterruptedUp(t *testing.T) {
	name := labName("intr")
	cmd := exec.Command(program, "lab", "up", "--native", "--name", name)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	awaitText(t, stderr, "starting the guest")
	cmd.Process.Signal(os.Interrupt)
	rest, _ := io.ReadAll(stderr)
	if err := cmd.Wait(); err == nil {
		t.Error("exit code 0 after an interrupt")
	}
	if left := lab.Leaks(name); len(left) > 0 {
		t.Errorf("left: %s\n%s", strings.Join(left, "; "), rest)
	}
}

// awaitText reads until the text has come.
func awaitText(t *testing.T, r io.Reader, want string) string {
	t.Helper()
	timeout := time.AfterFunc(3*time.Minute, func() { panic("no " + want + " within 3 minutes") })
	defer timeout.Stop()
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), want) {
		n, err := r.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("wait for %q: %v after %q", want, err, seen.String())
		}
	}
	return seen.String()
}
