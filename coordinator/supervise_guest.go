package coordinator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"colod/qmp"
)

// guestBite is how long the bite of a guest's watchdog device is shown.
const guestBite = time.Minute

// maxAgentReply bounds what is read of a guest agent.
const maxAgentReply = 64 << 10

// guestWatch is what is known of the guest inside of the VM: how often it was
// started, whether its watchdog device has bitten of late, and whether its agent
// answers. Both copies of a guest
// do the same, so that nothing can be failed over to: it is told.
type guestWatch struct {
	boots atomic.Uint64 // starts and resets of the guest, since colod runs

	mu     sync.Mutex
	bitten time.Time
	action string // what QEMU did
}

// bite takes QEMU's WATCHDOG event: the guest did not feed its watchdog device.
func (w *guestWatch) bite(e qmp.Event) (action string) {
	var d struct{ Action string }
	_ = json.Unmarshal(e.Data, &d) // an unreadable one is no action
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bitten, w.action = time.Now(), d.Action
	return d.Action
}

func (w *guestWatch) look() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bitten.IsZero() || time.Since(w.bitten) > guestBite {
		return nil
	}
	return fmt.Errorf("the guest's watchdog device has bitten %s ago; QEMU's action is %q", time.Since(w.bitten).Round(time.Second), w.action)
}

// guestLooks looks at the guest that is heard by clients; the other copy is left
// alone, as a question to it would be input that this one does not get.
func (d *driver) guestLooks(ctx context.Context) error {
	if err := d.guest.look(); err != nil {
		return err
	}
	path := d.cfg.VM.Agent
	if path == "" || d.vm.Load() == nil {
		return nil
	}
	if role := d.data.Stats().Role; role != "primary" && role != "solo" {
		return nil
	}
	if err := askAgent(ctx, path); err != nil {
		return fmt.Errorf("the guest agent does not answer: %w", err)
	}
	return nil
}

// askAgent asks a QEMU guest agent on a unix socket for a sign of life: guest-sync
// (qga/qapi-schema.json), which gives back a number, behind what the agent may still have
// had to say to somebody else.
func askAgent(ctx context.Context, path string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if t, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(t); err != nil {
			return err
		}
	}
	id := rand.Int32()
	if _, err := fmt.Fprintf(conn, "{\"execute\":\"guest-sync\",\"arguments\":{\"id\":%d}}\n", id); err != nil {
		return err
	}
	r := bufio.NewScanner(conn)
	r.Buffer(make([]byte, 0, 1024), maxAgentReply)
	for range 100 {
		if !r.Scan() {
			break
		}
		var reply struct{ Return *int64 }
		if json.Unmarshal(bytes.TrimSpace(r.Bytes()), &reply) == nil && reply.Return != nil && *reply.Return == int64(id) {
			return nil
		}
	}
	if err := r.Err(); err != nil {
		return err
	}
	return errors.New("it closed the connection, or says something else")
}
