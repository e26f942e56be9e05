package failover

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"colod/bench/qemucolo"
	"colod/bench/rig"
	"colod/bench/vmlab"
	"colod/internal/lab"
)

// The guest of both systems, and the detection of a lost node: colod's settings in the lab.
const (
	memory      = 256 << 20
	memoryText  = "256M"
	beatEvery   = 50 * time.Millisecond
	beatTimeout = 250 * time.Millisecond
	beatPort    = 9100
)

// chain is QEMU's own COLO: a bare lab, and a guest that was saved once and from which each run starts.
type chain struct {
	lab  *lab.Lab
	file string
}

func startPeer(t *rig.TB, program string) (*chain, error) {
	l, err := vmlab.Up(t, lab.Options{Program: program, Memory: memoryText, Bare: true})
	if err != nil {
		return nil, err
	}
	c := &chain{lab: l, file: filepath.Join(t.TempDir(), "guest.state")}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := qemucolo.Save(ctx, l, qemucolo.Options{Memory: memory}, c.file); err != nil {
		return nil, err
	}
	return c, nil
}

// lose starts a pair, loses its primary under the eyes of clients, makes the secondary take over, and ends it.
func (c *chain) lose(ctx context.Context, loss string, p *pauses) (err error) {
	up, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	q, err := qemucolo.Start(up, c.lab, qemucolo.Options{Memory: memory, State: c.file})
	defer func() {
		if cerr := q.Close(); err == nil {
			err = cerr
		}
		if loss == lossNode {
			if _, herr := c.lab.Fault(context.WithoutCancel(ctx), lab.Heal, ""); err == nil {
				err = herr
			}
		}
	}()
	if err != nil {
		return err
	}
	var lost <-chan struct{} = q.Primary.Died()
	if loss == lossNode {
		watch, stop := context.WithCancel(ctx)
		defer stop()
		if lost, err = c.heartbeats(watch); err != nil {
			return err
		}
	}
	var losing atomic.Bool
	seen, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	tookOver := make(chan error, 1)
	go func() {
		select {
		case <-lost:
			if !losing.Load() {
				early := fmt.Errorf("heartbeats were missing before the loss: this machine was busy for more than %s", beatTimeout)
				if loss == lossVM {
					early = fmt.Errorf("the primary ended before the loss: %s", q.Primary.DeathReport())
				}
				giveUp(early)
				return
			}
			tookOver <- q.TakeOver(ctx)
		case <-seen.Done():
			tookOver <- seen.Err()
		}
	}()
	err = p.watch(seen, c.lab, func() error {
		kind := lab.KillVM
		if loss == lossNode {
			kind = lab.KillNode
		}
		losing.Store(true)
		_, err := c.lab.Fault(ctx, kind, lab.NodeA)
		return err
	})
	if cause := context.Cause(seen); cause != nil {
		return cause // it has ended the clients, which is what err says
	}
	if err != nil {
		return err
	}
	select {
	case err := <-tookOver:
		return err
	case <-time.After(patience):
		return fmt.Errorf("the loss of the %s was not noticed", loss)
	}
}

// heartbeats sends datagrams from node a to node b over the wire between them; the channel is closed when none has come
// for the time-out.
func (c *chain) heartbeats(ctx context.Context) (<-chan struct{}, error) {
	var in, out net.Conn
	err := c.lab.In(lab.NodeB, func() error {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(lab.NodeBIPv4), Port: beatPort})
		in = conn
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen for heartbeats: %w", err)
	}
	err = c.lab.In(lab.NodeA, func() (err error) {
		out, err = net.Dial("udp4", net.JoinHostPort(lab.NodeBIPv4, strconv.Itoa(beatPort)))
		return err
	})
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("send heartbeats: %w", err)
	}
	context.AfterFunc(ctx, func() { in.Close(); out.Close() })
	go func() {
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			out.Write([]byte("alive")) // a dead wire is what the other end is to notice
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	lost := make(chan struct{})
	go func() {
		buf := make([]byte, 64)
		for heard := false; ; heard = true {
			if heard {
				in.SetReadDeadline(time.Now().Add(beatTimeout))
			}
			if _, err := in.Read(buf); err != nil {
				if ctx.Err() == nil {
					close(lost)
				}
				return
			}
		}
	}()
	return lost, nil
}
