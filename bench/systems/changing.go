package systems

import (
	"context"
	"strings"
	"sync"
	"time"

	"colod/internal/lab"
)

// phases of the load that changes: equal output, divergent output, equal output again.
var phases = []struct{ name, kind string }{
	{"equal", "http-static"},
	{"divergent", "http-random"},
	{"equal again", "http-static"},
}

// modes follows which mode an adaptive pair is in.
type modes struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	last     string
	changes  int
	buffered int // samples in epochs
	samples  int
}

const modeSample = 50 * time.Millisecond

func watchModes(ctx context.Context, l *lab.Lab) *modes {
	ctx, cancel := context.WithCancel(ctx)
	m := &modes{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		tick := time.NewTicker(modeSample)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if st, err := l.Status(ctx); err == nil {
				m.take(st.Mode)
			}
		}
	}()
	return m
}

func (m *modes) take(mode string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last != "" && mode != m.last {
		m.changes++
	}
	m.last = mode
	m.samples++
	if strings.Contains(mode, "epoch") {
		m.buffered++
	}
}

// fetch returns the changes of mode and the share of time in epochs (%) since the last fetch.
func (m *modes) fetch() (changes int, share float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changes = m.changes
	if m.samples > 0 {
		share = 100 * float64(m.buffered) / float64(m.samples)
	}
	m.changes, m.buffered, m.samples = 0, 0, 0
	return changes, share
}

func (m *modes) stop() {
	m.cancel()
	<-m.done
}
