package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"colod/qmp/qmptest"
)

// storm serves a QEMU that sends bursts of events of all sizes all the time, answers each command with its
// own argument, and closes the connection with probability closing per command.
func storm(t testing.TB, closing float64) string {
	var mu sync.Mutex
	sent := map[*qmptest.Conn]int{}
	burst := func(c *qmptest.Conn, n int) bool {
		mu.Lock()
		defer mu.Unlock()
		for range n {
			pad := strings.Repeat("x", rand.IntN(1000))
			if c.Event(time.Now(), "STORM", fmt.Sprintf(`{"n": %d, "pad": %q}`, sent[c], pad)) != nil {
				return false
			}
			sent[c]++
		}
		return true
	}
	return qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) {
		mu.Lock()
		_, started := sent[c]
		if !started {
			sent[c] = 0
		}
		mu.Unlock()
		if !started {
			go func() {
				for burst(c, rand.IntN(4)) {
					time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
				}
			}()
		}
		if rand.Float64() < closing {
			if rand.IntN(2) == 0 {
				_ = c.Raw(`{"return": {"half`) // a reply cut in the middle
			}
			_ = c.Close()
			return
		}
		burst(c, rand.IntN(10))
		_ = c.Return(cmd, string(cmd.Args))
		burst(c, rand.IntN(10))
	})
}

// TestHammer runs 10,000 commands beside an event storm, from several goroutines, over connections
// that close at random: each command gets its own reply or an error, every event comes in order.
func TestHammer(t *testing.T) {
	ctx := testContext(t, 8*time.Minute)
	path := storm(t, 0.001)
	const commands, workers = 10_000, 4
	replies, broken := 0, 0
	for n := 0; n < commands; {
		m, err := Dial(ctx, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		sub := m.Subscribe(1 << 20)
		events := make(chan int)
		go func() {
			next := 0
			for e := range sub.C {
				var d struct{ N int }
				if err := json.Unmarshal(e.Data, &d); err != nil || d.N != next {
					t.Errorf("event %d: got %d, %v", next, d.N, err)
				}
				next++
			}
			events <- next
		}()
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for {
					mu.Lock()
					if n >= commands {
						mu.Unlock()
						return
					}
					n++
					want := n
					mu.Unlock()
					var got struct{ X int }
					err := m.Run(ctx, "echo", map[string]int{"x": want}, &got)
					mu.Lock()
					switch {
					case err == nil && got.X == want:
						replies++
					case err == nil:
						t.Errorf("command %d: reply of %d", want, got.X)
					case errors.Is(err, ErrClosed):
						broken++
						mu.Unlock()
						return
					default:
						t.Errorf("command %d: %v", want, err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		m.Close()
		if <-events == 0 {
			t.Log("a connection without events")
		}
		if err := sub.Err(); !errors.Is(err, ErrClosed) {
			t.Errorf("subscription ended with %v", err)
		}
	}
	t.Logf("%d replies, %d commands ended by a closed connection", replies, broken)
	if replies < commands*9/10 {
		t.Errorf("only %d of %d commands were answered", replies, commands)
	}
}
