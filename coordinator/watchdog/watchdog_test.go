package watchdog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// told collects effects.
type told struct {
	mu      sync.Mutex
	effects []Effect
}

func (l *told) add(e Effect) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.effects = append(l.effects, e)
}

func (l *told) states() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, e := range l.effects {
		switch e := e.(type) {
		case Changed:
			out = append(out, e.To.String())
		case Do:
			out = append(out, "do "+e.Action)
		case Held:
			out = append(out, "held")
		}
	}
	return strings.Join(out, ", ")
}

// TestRestart: a part that dies is restarted until it lives.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l told
		w := Start(Options{Told: l.add})
		defer w.Close()
		var alive atomic.Bool
		alive.Store(true)
		tries := 0
		h, err := w.Add(Spec{
			Part: Part{Name: "worker", Every: time.Second, FailAfter: 2, Steps: []Step{{Action: "restart", Times: 5, Wait: time.Second, MaxWait: time.Minute}}},
			Check: func(context.Context) error {
				if !alive.Load() {
					return errors.New("it is dead")
				}
				return nil
			},
			Actions: map[string]func(context.Context, Do) error{"restart": func(_ context.Context, d Do) error {
				if tries++; tries < 3 {
					return errors.New("it does not start")
				}
				alive.Store(true)
				return nil
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if s := w.Status(); len(s) != 1 || s[0].State != OK || l.states() != "" {
			t.Errorf("%+v; %s", s, l.states())
		}
		alive.Store(false)
		time.Sleep(time.Minute)
		if want := "suspect, failed, do restart, do restart, do restart, ok"; l.states() != want {
			t.Errorf("%s, want %s", l.states(), want)
		}
		if s := w.Status()[0]; s.State != OK || s.Actions != 3 || s.Last != "restart: done" {
			t.Errorf("%+v", s)
		}
		h.Remove()
		h.Remove()
		h.Beat()
		if len(w.Status()) != 0 {
			t.Error("it is still there")
		}
	})
}

// TestHangingCheck: a check that does not return is bad for as long as it hangs,
// and is not called a second time meanwhile.
func TestHangingCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l told
		w := Start(Options{Told: l.add})
		defer w.Close()
		var running, most atomic.Int32
		free := make(chan struct{})
		if _, err := w.Add(Spec{
			Part: Part{Name: "p", Every: time.Second, Limit: 500 * time.Millisecond, FailAfter: 3},
			Check: func(context.Context) error {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
				<-free
				return nil
			},
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s := w.Status()[0]; s.State != Failed || s.Reason != "its check has not returned for 500ms" || most.Load() != 1 {
			t.Errorf("%+v, %d at a time", s, most.Load())
		}
		close(free)
		time.Sleep(time.Second)
		if s := w.Status()[0]; s.State != OK || l.states() != "suspect, failed, ok" {
			t.Errorf("%+v, %s", s, l.states())
		}
	})
}

// TestContext: a check that heeds its context fails with its own words.
func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := Start(Options{})
		defer w.Close()
		if _, err := w.Add(Spec{Part: Part{Name: "p", Every: time.Second}, Check: func(ctx context.Context) error {
			<-ctx.Done()
			return errors.New("nobody answers")
		}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if s := w.Status()[0]; s.State != Failed || s.Reason != "nobody answers" {
			t.Errorf("%+v", s)
		}
	})
}

// TestCertain: one result that leaves no doubt is enough.
func TestCertain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l told
		w := Start(Options{Told: l.add})
		defer w.Close()
		var gone atomic.Bool
		if _, err := w.Add(Spec{Part: Part{Name: "p", Every: time.Second, FailAfter: 100}, Check: func(context.Context) error {
			if gone.Load() {
				return fmt.Errorf("look: %w", Certain(errors.New("it is gone")))
			}
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		gone.Store(true)
		time.Sleep(2 * time.Second)
		if s := w.Status()[0]; l.states() != "failed" || s.Reason != "look: it is gone" {
			t.Errorf("%s, %+v", l.states(), s)
		}
	})
}

func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l told
		w := Start(Options{Told: l.add})
		h, err := w.Add(Spec{Part: Part{Name: "loop", Limit: time.Second, FailAfter: 2, Steps: []Step{{Action: "notify", Free: true}}}})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			time.Sleep(900 * time.Millisecond)
			h.Beat()
		}
		if l.states() != "" {
			t.Error(l.states())
		}
		time.Sleep(5 * time.Second)
		h.Beat()
		h.Bad("it says so itself")
		if want := "suspect, failed, do notify, ok, suspect"; l.states() != want {
			t.Errorf("%s, want %s", l.states(), want)
		}
		for want, s := range map[string]Spec{
			"come together": {Part: Part{Name: "x", Every: 1}},
			"supervised":    {Part: Part{Name: "loop", Limit: 1}},
		} {
			if _, err := w.Add(s); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		w.Close()
		h.Beat()
		if _, err := w.Add(Spec{Part: Part{Name: "y", Limit: 1}}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}
