package netfilter_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"colod/internal/netnstest"
	"colod/netfilter"
	"colod/proxy/afpacket"
)

// childKey is the environment variable by which this test program is told to be the process that gets killed.
const childKey = "NETFILTER_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childKey); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	netnstest.Main(m)
}

type childTask struct {
	Config netfilter.Config
	Mode   netfilter.Mode // stay in it; 0: open, change modes and remove for ever
	Seed   uint64
}

func child(text string) error {
	var task childTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		return err
	}
	fmt.Println("started")
	rng := rand.New(rand.NewPCG(task.Seed, 0))
	for {
		p, err := netfilter.Open(task.Config)
		if err != nil {
			return err
		}
		if task.Mode != 0 {
			if err := p.SetMode(task.Mode); err != nil {
				return err
			}
			fmt.Println("ready")
			select {}
		}
		for range rng.IntN(6) {
			if err := p.SetMode(netfilter.Mode(1 + rng.IntN(4))); err != nil {
				return err
			}
		}
		end := p.Remove
		if rng.IntN(3) == 0 {
			end = p.Detach
		}
		if err := end(); err != nil {
			return err
		}
	}
}

// start runs a child in the host's namespace until it has written the line.
func (s *site) start(t *testing.T, task childTask, line string) (kill func()) {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	c := s.host.Command(context.Background(), "/proc/self/exe")
	c.Env = append(os.Environ(), childKey+"="+string(text))
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = s.host.Start(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	for in := bufio.NewScanner(out); in.Scan(); {
		if in.Text() == line {
			return func() {
				syscall.Kill(c.Process.Pid, syscall.SIGKILL)
				var e interface{ ExitCode() int }
				if err := c.Wait(); !errors.As(err, &e) || e.ExitCode() != -1 {
					t.Errorf("the child ended before it was killed: %v", err)
				}
			}
		}
	}
	t.Fatalf("the child did not write %q: %v", line, c.Wait())
	return nil
}

// TestKilledAnywhere kills a process at random instants of opening, changing and removing a path, with a tap of its own
// and with one that an operator made. What it leaves is cleaned, or opened, or opened by a next process that is killed
// too; in the end there is no trace.
func TestKilledAnywhere(t *testing.T) {
	for _, existing := range []bool{false, true} {
		t.Run(fmt.Sprintf("existing tap %v", existing), func(t *testing.T) {
			s := newSite(t)
			if existing {
				tap := s.addTap(t)
				nl := s.host.Netlink()
				if err := errors.Join(nl.LinkSetTxQLen(tap, 123), nl.LinkSetAlias(tap, "of guest1")); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, s)
			cleaned, opened := 0, 0
			for round := range uint64(40) {
				rng := rand.New(rand.NewPCG(round, 1))
				for range 1 + rng.IntN(3) {
					kill := s.start(t, childTask{Config: s.config, Seed: round}, "started")
					time.Sleep(time.Duration(rng.IntN(30_000)) * time.Microsecond)
					kill()
				}
				if round%2 == 0 {
					s.host.Must(func() error {
						removed, err := netfilter.Clean(s.config.Dir, s.config.Owner)
						cleaned += len(removed)
						return err
					})
				} else {
					s.host.Must(func() error {
						p, err := netfilter.Open(s.config)
						if err != nil {
							return err
						}
						opened++
						return errors.Join(p.Verify(), p.SetMode(netfilter.Pass), p.Verify(), p.Remove())
					})
				}
				if after := snapshot(t, s); after != before {
					t.Fatalf("round %d left a trace. Before:\n%sAfter:\n%s", round, before, after)
				}
			}
			if cleaned == 0 || opened == 0 {
				t.Errorf("nothing was cleaned (%d) or opened (%d): the kills came too early or too late", cleaned, opened)
			}
		})
	}
}

// TestDeadProcessLeavesGuestMute kills the process in each mode that holds the guest's output: nothing escapes then.
func TestDeadProcessLeavesGuestMute(t *testing.T) {
	s := newSite(t)
	for _, m := range []netfilter.Mode{netfilter.Steal, netfilter.StealBoth, netfilter.Mute} {
		kill := s.start(t, childTask{Config: s.config, Mode: m}, "ready")
		var seam *afpacket.Seam
		s.host.Must(func() (err error) { seam, err = afpacket.OpenSeam(s.config.Uplink); return err })
		tap, err := openTap(s)
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(300) {
			if i == 100 {
				kill()
			}
			if _, err := tap.Write(numbered(i)); err != nil {
				t.Fatal(err)
			}
		}
		afpacket.Settle()
		if err := seam.Poll(); err != nil || seam.Frames() != 0 {
			t.Errorf("mode %v: %d frames of the guest left, %v", m, seam.Frames(), err)
		}
		if rx := s.host.Device("vm0").Attrs().Statistics.RxPackets; rx < 300 {
			t.Errorf("mode %v: only %d frames of the guest came", m, rx)
		}
		tap.Close()
		seam.Close()
		s.host.Must(func() error {
			removed, err := netfilter.Clean(s.config.Dir, s.config.Owner)
			if len(removed) != 1 {
				t.Errorf("removed %v", removed)
			}
			return err
		})
	}
}

// TestDeadProcessLeavesGuestReachable ends the process in Pass, as a graceful stop of a guest that runs alone does: a
// connection made before goes on, and new ones can be made.
func TestDeadProcessLeavesGuestReachable(t *testing.T) {
	s := newSite(t)
	kill := s.start(t, childTask{Config: s.config, Mode: netfilter.Pass}, "ready")
	s.vm(t)
	exchange(t, s.client, s.guest, "192.0.2.2", 1<<20)
	done := make(chan struct{})
	go func() {
		defer close(done)
		exchange(t, s.guest, s.client, "2001:db8::1", 32<<20)
	}()
	time.Sleep(10 * time.Millisecond)
	kill()
	<-done
	exchange(t, s.client, s.guest, "192.0.2.2", 1<<20)
	s.host.Must(func() error { _, err := netfilter.Clean(s.config.Dir, s.config.Owner); return err })
}

func openTap(s *site) (f *os.File, err error) {
	err = s.host.Do(func() (err error) { f, err = afpacket.OpenTap(s.config.Tap, 0); return err })
	return f, err
}

// TestCleanWithoutJournal removes marked devices when lock and journal are lost, and leaves everything else.
func TestCleanWithoutJournal(t *testing.T) {
	s := newSite(t)
	before := snapshot(t, s)
	p := s.open(t)
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.config.Dir); err != nil {
		t.Fatal(err)
	}
	s.host.Must(func() error {
		if removed, err := netfilter.Clean(s.config.Dir, "guest2"); len(removed) != 0 || err != nil {
			t.Errorf("clean of another owner: %v, %v", removed, err)
		}
		removed, err := netfilter.Clean(s.config.Dir, s.config.Owner)
		if len(removed) != 2 { // the port goes with the uplink
			t.Errorf("removed %v", removed)
		}
		return err
	})
	if after := snapshot(t, s); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	// A tap that was adopted stays.
	tap := s.addTap(t)
	p = s.open(t)
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.config.Dir); err != nil {
		t.Fatal(err)
	}
	s.host.Must(func() error { _, err := netfilter.Clean(s.config.Dir, s.config.Owner); return err })
	l := s.host.Device("vm0")
	if l.Attrs().Index != tap.Attrs().Index || l.Attrs().Alias != "" {
		t.Errorf("tap: %+v", l.Attrs())
	}
	qdiscs, err := s.host.Netlink().QdiscList(l)
	for _, q := range qdiscs {
		if _, ok := q.(*netlink.Clsact); ok || err != nil {
			t.Errorf("clsact stays on the tap, %v", err)
		}
	}
}

// TestDamagedJournal checks that a torn last line is passed over, and a wrong one is named.
func TestDamagedJournal(t *testing.T) {
	s := newSite(t)
	p := s.open(t)
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(s.config.Dir)
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	var name string
	for _, f := range files {
		if n := s.config.Dir + "/" + f.Name(); n[len(n)-len(".journal"):] == ".journal" {
			name = n
		}
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(whole, `{"undo":"dele`...), 0o644); err != nil {
		t.Fatal(err)
	}
	p = s.open(t)
	if text, err := os.ReadFile(name); err != nil || string(text) != string(whole) {
		t.Errorf("the torn line was not cut off: %q, %v", text, err)
	}
	if err := errors.Join(p.Verify(), p.Detach()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(name, []byte("{}\nnot json\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, s, nil, "line 2", name)
	if err := os.WriteFile(name, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	s.host.Must(func() error { _, err := netfilter.Clean(s.config.Dir, s.config.Owner); return err })
}
