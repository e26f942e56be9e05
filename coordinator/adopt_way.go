package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"colod/compare"
	"colod/coordinator/config"
	"colod/proxy"
)

// way is a guest's way to the network with the data path on it, for a driver
// whose VM may have been started by somebody else: then its tap is another one
// than the configuration's, and when such a VM is let go there is none. It is
// a Path and a DataPath.
type way struct {
	plat   Platform
	cfg    *config.Pair
	log    zerolog.Logger
	events func(proxy.Event)

	mu       sync.RWMutex
	tap      string // that the path is on; "" with none
	path     Path
	data     DataPath
	buffered bool
}

// errNoWay is the answer to what needs the guest's network when it is not
// colod's.
var errNoWay = errors.New("the guest's network is not in colod's hands")

// open opens the way on a tap. A running guest's tap may be a port of the
// bridge. The caller holds the lock, or is alone.
func (w *way) open(tap string, running bool) error {
	on := w.on(tap)
	open := w.plat.OpenPath
	if running {
		f, ok := w.plat.(foreignPlatform)
		if !ok {
			return errNotHere
		}
		open = f.TakePath
	}
	path, err := open(on)
	if err != nil {
		return fmt.Errorf("open network of pair %s: %w", w.cfg.Name, err)
	}
	data, err := w.plat.OpenDataPath(on, path, w.log, w.events)
	if err != nil {
		return errors.Join(fmt.Errorf("open data path of pair %s: %w", w.cfg.Name, err), path.Detach())
	}
	data.SetBuffered(w.buffered)
	w.tap, w.path, w.data = tap, path, data
	return nil
}

// on is the pair's configuration with its guest on a tap.
func (w *way) on(tap string) *config.Pair {
	p := *w.cfg
	p.Network.Tap = tap
	return &p
}

// use changes to another tap, if it is not the present one.
func (w *way) use(tap string, running bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tap == tap && w.path != nil {
		return nil
	}
	if err := w.shut(); err != nil {
		w.log.Warn().Err(err).Msg("the guest's former way to the network is not wholly gone")
	}
	err := w.open(tap, running)
	if err != nil && running {
		err = errors.Join(err, w.open(w.cfg.Network.Tap, false))
	}
	return err
}

// shut takes the present way out. The caller holds the lock.
func (w *way) shut() error {
	if w.path == nil {
		return nil
	}
	err := errors.Join(w.data.Close(), w.path.Remove())
	w.tap, w.path, w.data = "", nil, nil
	return err
}

// handOver gives the guest its network without colod. Nothing is done if it has it.
func (w *way) handOver() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.path == nil {
		return nil
	}
	h, ok := w.path.(interface{ HandOver() error })
	if !ok {
		return errNotHere
	}
	if err := w.data.Close(); err != nil {
		return err
	}
	if err := w.path.SetMode(proxy.Pass); err != nil {
		return err
	}
	if err := h.HandOver(); err != nil {
		return err
	}
	w.tap, w.path, w.data = "", nil, nil
	return nil
}

// device is the tap of the present way, or "".
func (w *way) device() string {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.tap
}

// with calls fn with the data path.
func (w *way) with(fn func(DataPath) error) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.data == nil {
		return errNoWay
	}
	return fn(w.data)
}

// tell is with, for what has no outcome.
func (w *way) tell(fn func(DataPath)) {
	_ = w.with(func(d DataPath) error { fn(d); return nil })
}

// Mute lets nothing of the guest out. Where there is no way, nothing can; and
// a tap that went with the VM that somebody else had started is no way.
func (w *way) Mute(ctx context.Context) error {
	err := w.with(func(d DataPath) error { return d.Mute(ctx) })
	switch tap := w.device(); {
	case err == nil:
		return nil
	case tap == "":
		return nil
	case tap == w.cfg.Network.Tap:
		return err
	default:
		if _, gone := net.InterfaceByName(tap); gone == nil {
			return err
		}
		w.log.Info().Str("tap", tap).Msg("the guest's tap went with its VM")
		return w.use(w.cfg.Network.Tap, false)
	}
}

func (w *way) Solo(ctx context.Context) error {
	return w.with(func(d DataPath) error { return d.Solo(ctx) })
}
func (w *way) GoSolo(ctx context.Context) error {
	return w.with(func(d DataPath) error { return d.GoSolo(ctx) })
}

func (w *way) Promote(ctx context.Context) error {
	return w.with(func(d DataPath) error { return d.Promote(ctx) })
}

func (w *way) StartPrimary(ctx context.Context, l NetLink, s proxy.Session) error {
	return w.with(func(d DataPath) error { return d.StartPrimary(ctx, l, s) })
}

func (w *way) StartSecondary(ctx context.Context, l NetLink, s proxy.Session) error {
	return w.with(func(d DataPath) error { return d.StartSecondary(ctx, l, s) })
}

func (w *way) BeginCheckpoint(ctx context.Context, n uint64) error {
	return w.with(func(d DataPath) error { return d.BeginCheckpoint(ctx, n) })
}

func (w *way) EndCheckpoint(ctx context.Context, n uint64, at time.Time) error {
	return w.with(func(d DataPath) error { return d.EndCheckpoint(ctx, n, at) })
}

func (w *way) Stopped(n uint64, at time.Time)    { w.tell(func(d DataPath) { d.Stopped(n, at) }) }
func (w *way) SecondaryStopped(at time.Time)     { w.tell(func(d DataPath) { d.SecondaryStopped(at) }) }
func (w *way) SecondaryResumed(at time.Time)     { w.tell(func(d DataPath) { d.SecondaryResumed(at) }) }
func (w *way) SetCheckpointCost(c time.Duration) { w.tell(func(d DataPath) { d.SetCheckpointCost(c) }) }
func (w *way) Announce()                         { w.tell(func(d DataPath) { d.Announce() }) }

func (w *way) SetBuffered(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buffered = on
	if w.data != nil {
		w.data.SetBuffered(on)
	}
}

// Stats are those of the present data path; with none, it is said to be idle.
func (w *way) Stats() proxy.Stats {
	st := proxy.Stats{Role: "idle"}
	w.tell(func(d DataPath) { st = d.Stats() })
	return st
}

func (w *way) WarmUp() (d time.Duration) {
	w.tell(func(p DataPath) { d = p.WarmUp() })
	return d
}

func (w *way) Waits() (frames uint64, sum time.Duration) {
	w.tell(func(d DataPath) { frames, sum = d.Waits() })
	return frames, sum
}

func (w *way) Listen(ctx context.Context, begin func(compare.Config, []byte, int64, int64) compare.Tap) error {
	return w.with(func(d DataPath) error {
		if l, ok := d.(listener); ok {
			return l.Listen(ctx, begin)
		}
		return errNotRecorded
	})
}

func (w *way) Unlisten(ctx context.Context, t compare.Tap) (was bool, err error) {
	err = w.with(func(d DataPath) error {
		l, ok := d.(listener)
		if !ok {
			return errNotRecorded
		}
		was, err = l.Unlisten(ctx, t)
		return err
	})
	return was, err
}

func (w *way) Close() error {
	err := w.with(DataPath.Close)
	if errors.Is(err, errNoWay) {
		return nil
	}
	return err
}

func (w *way) SetMode(m proxy.Mode) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.path == nil {
		return nil
	}
	return w.path.SetMode(m)
}

func (w *way) Detach() error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.path == nil {
		return nil
	}
	return w.path.Detach()
}

func (w *way) Remove() error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.path == nil {
		return nil
	}
	return w.path.Remove()
}

var (
	_ Path     = (*way)(nil)
	_ DataPath = (*way)(nil)
	_ listener = (*way)(nil)
)
