package pollset

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newSet(t *testing.T) *Set {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// pipe is a pair of connected sockets, which do not block.
func pipe(t *testing.T) (fds [2]int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

func write(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1}); err != nil {
		t.Error(err)
	}
}

// wait waits for what list has added.
func wait(t *testing.T, s *Set, d time.Duration, add ...entry) {
	t.Helper()
	s.Clear()
	for _, e := range add {
		s.Add(int(e.fd), e.events, e.owner)
	}
	if err := s.Wait(d); err != nil {
		t.Fatal(err)
	}
}

func TestReady(t *testing.T) {
	s := newSet(t)
	a, b := pipe(t), pipe(t)
	list := []entry{{int32(a[0]), In, &a}, {int32(b[0]), In, &b}}
	wait(t, s, 0, list...)
	if s.Ready(a[0]) || s.Ready(b[0]) || !s.Has(a[0]) || !s.Has(b[0]) || s.Has(a[1]) {
		t.Fatal("something is ready, or the set does not know what is in it")
	}
	// What comes while it waits, without a time.
	go func() {
		time.Sleep(10 * time.Millisecond)
		write(t, b[1])
	}()
	wait(t, s, -1, list...)
	if s.Ready(a[0]) || !s.Ready(b[0]) {
		t.Fatal("what was written to is not ready")
	}
	// It stays ready until it is read, and whatever else is watched.
	write(t, a[1])
	for range 3 {
		wait(t, s, time.Minute, list...)
		if !s.Ready(a[0]) || !s.Ready(b[0]) {
			t.Fatal("two are ready")
		}
	}
	wait(t, s, time.Minute, list[0])
	if !s.Ready(a[0]) || s.Ready(b[0]) || s.Has(b[0]) {
		t.Fatal("what is not asked for is ready")
	}
	// Other events of the same.
	wait(t, s, 0, entry{int32(b[0]), Out, &b})
	if !s.Ready(b[0]) {
		t.Fatal("a socket is not writable")
	}
	unix.Close(b[1])
	for _, fd := range []int{a[0], a[1]} {
		unix.Close(fd)
	}
	wait(t, s, -1, entry{int32(b[0]), In, &b})
	if !s.Ready(b[0]) {
		t.Fatal("the other end's closing is not told")
	}
	unix.Close(b[0])
}

// What is closed leaves the set; another descriptor of the same number is another one.
func TestNumberUsedAgain(t *testing.T) {
	s := newSet(t)
	old := pipe(t)
	wait(t, s, 0, entry{int32(old[0]), In, "old"})
	fresh := pipe(t)
	// In one step the old one is closed and the new one gets its number.
	if err := unix.Dup3(fresh[0], old[0], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	unix.Close(fresh[0])
	unix.Close(old[1])
	fresh[0] = old[0]
	defer unix.Close(fresh[0])
	defer unix.Close(fresh[1])
	write(t, fresh[1])
	wait(t, s, time.Minute, entry{int32(fresh[0]), In, "fresh"})
	if !s.Ready(fresh[0]) {
		t.Error("the new descriptor is not watched")
	}
}

func TestTime(t *testing.T) {
	s := newSet(t)
	a := pipe(t)
	defer unix.Close(a[0])
	defer unix.Close(a[1])
	e := entry{int32(a[0]), In, &a}
	// It may return early, when an earlier time passes, but not for ever.
	for _, d := range []time.Duration{30 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		start, turns := time.Now(), 0
		for rest := d; rest > 0; rest = d - time.Since(start) {
			wait(t, s, rest, e)
			if turns++; turns > 10 {
				t.Fatalf("%d waits for %v", turns, d)
			}
		}
		if s.Ready(a[0]) {
			t.Error("nothing was written")
		}
	}
	// A time that has passed does not disturb a wait without one.
	wait(t, s, time.Millisecond, e)
	time.Sleep(5 * time.Millisecond)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !s.Ready(a[0]) {
			wait(t, s, -1, e)
		}
	}()
	time.Sleep(5 * time.Millisecond)
	write(t, a[1])
	<-done
}

func TestBadDescriptor(t *testing.T) {
	s := newSet(t)
	s.Clear()
	s.Add(1<<20, In, s)
	if err := s.Wait(0); err == nil {
		t.Error("a descriptor that is none is watched")
	}
}

// Waiting is in the way of every frame.
func TestWaitAllocatesNothing(t *testing.T) {
	s := newSet(t)
	a, b := pipe(t), pipe(t)
	for _, fd := range []int{a[0], a[1], b[0], b[1]} {
		defer unix.Close(fd)
	}
	var buf [8]byte
	peer := func() { unix.Write(a[1], buf[:1]) }
	n := testing.AllocsPerRun(1000, func() {
		peer()
		s.Clear()
		s.Add(a[0], In, &a)
		s.Add(b[0], In|Out, &b)
		if err := s.Wait(time.Second); err != nil {
			t.Fatal(err)
		}
		unix.Read(a[0], buf[:])
	})
	if n != 0 {
		t.Errorf("%v allocations a wait", n)
	}
	runtime.KeepAlive(s)
}

// BenchmarkWake is a hand-over to a goroutine that waits, and back.
func BenchmarkWake(b *testing.B) {
	s, err := New()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var buf [8]byte
		for {
			s.Clear()
			s.Add(fds[0], In, b)
			if s.Wait(time.Second) != nil {
				return
			}
			if n, err := unix.Read(fds[0], buf[:]); n == 0 && err == nil {
				return
			} else if n > 0 {
				unix.Write(fds[0], buf[:n])
			}
		}
	}()
	var buf [8]byte
	if err := unix.SetNonblock(fds[1], false); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		unix.Write(fds[1], buf[:1])
		unix.Read(fds[1], buf[:])
	}
	unix.Close(fds[1])
	<-done
	unix.Close(fds[0])
}
