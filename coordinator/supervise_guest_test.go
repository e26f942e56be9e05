package coordinator

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/qmp"
)

func TestAskAgent(t *testing.T) {
	for name, c := range map[string]struct{ reply, want string }{
		"answers":                 {"{\"return\": %d}\n", ""},
		"said something else too": {"{\"return\": 1}\n{\"error\": {}}\nnonsense\n{\"return\": %d}\n", ""},
		"closes":                  {"", "closed the connection"},
		"another number":          {"{\"return\": 9999999999}\n", "closed the connection"},
		"talks for ever":          {strings.Repeat("x", 2*maxAgentReply), "token too long"},
	} {
		path := filepath.Join(t.TempDir(), "agent")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			line, err := bufio.NewReader(conn).ReadBytes('\n')
			var ask struct{ Arguments struct{ ID int64 } }
			if err != nil || json.Unmarshal(line, &ask) != nil {
				return
			}
			reply := c.reply
			if strings.Contains(reply, "%d") {
				reply = fmt.Sprintf(reply, ask.Arguments.ID)
			}
			conn.Write([]byte(reply))
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err = askAgent(ctx, path)
		cancel()
		l.Close()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := askAgent(context.Background(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("an agent that is not there answers")
	}
}

func TestGuestWatchdog(t *testing.T) {
	var w guestWatch
	if err := w.look(); err != nil {
		t.Error(err)
	}
	if a := w.bite(qmp.Event{Name: qmp.EventWatchdog, Data: json.RawMessage(`{"action":"none"}`)}); a != "none" {
		t.Errorf("action %q", a)
	}
	if err := w.look(); err == nil || !strings.Contains(err.Error(), "has bitten") {
		t.Error(err)
	}
	w.bitten = time.Now().Add(-2 * guestBite)
	if err := w.look(); err != nil {
		t.Error(err)
	}
}
