// Package goqemu is the evidence for docs/decisions/0003-qmp-transport.md, in a module of its own: the
// hammer test of package qmp over go-qemu's SocketMonitor, used as carefully as its interface allows
// (one command at a time, events always drained, replies copied at once). It is expected to fail:
//
//	cd qmp/goqemu && go test -race .
package goqemu

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"colod/qmp/qmptest"
	goqemu "github.com/digitalocean/go-qemu/qmp"
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

func TestHammer(t *testing.T) {
	path := storm(t, 0.001)
	const commands = 10_000
	replies, broken, wrong, lost := 0, 0, 0, 0
	deadline := time.Now().Add(120 * time.Second)
	for n := 0; n < commands && time.Now().Before(deadline); {
		m, err := goqemu.NewSocketMonitor("unix", path, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Connect(); err != nil {
			t.Fatal(err)
		}
		events, err := m.Events(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			next := 0.0
			for e := range events {
				if got, _ := e.Data["n"].(float64); got != next {
					lost++
					next = got
				}
				next++
			}
		}()
		for n < commands {
			n++
			b, err := m.Run(fmt.Appendf(nil, `{"execute":"echo","arguments":{"x":%d}}`, n))
			if err != nil {
				broken++
				break
			}
			b = append([]byte(nil), b...)
			var got struct{ Return struct{ X int } }
			if err := json.Unmarshal(b, &got); err != nil || got.Return.X != n {
				wrong++
				t.Logf("command %d: got %.80q", n, b)
			}
			replies++
		}
		m.Disconnect()
		<-ended
	}
	t.Logf("%d replies, %d of them wrong, %d commands ended by a closed connection, %d gaps in the events", replies, wrong, broken, lost)
	if wrong > 0 || lost > 0 {
		t.Fail()
	}
}
