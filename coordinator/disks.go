package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"colod/coordinator/config"
	"colod/coordinator/pair"
	"colod/qmp"
	"colod/qmp/disk"
)

// diskLayout is the disks of a pair on this node; stateDir is where their overlays and ledger are.
func diskLayout(p *config.Pair, stateDir string) *disk.Layout {
	l := &disk.Layout{Dir: filepath.Join(stateDir, "disks", p.Name)}
	for _, d := range p.Disks {
		l.Disks = append(l.Disks, disk.Disk{Path: d.Path, Format: d.Format, Size: int64(d.Size), Kind: disk.Kind(d.Kind)})
	}
	return l
}

// disks is the part of a driver that keeps the guest's disks; nil for a guest without. Its methods run on the
// VM's lane unless they say otherwise.
type disks struct {
	d        *driver
	layout   *disk.Layout
	progress atomic.Pointer[disk.Progress] // of the copy under way; nil if there is none
	last     atomic.Pointer[DiskFault]     // the newest fault of the VM here; nil if there was none
	bad      string                        // of the image here, seen while the pair was not yet protected; loop only
}

// replicates reports whether any disk of the guest is replicated.
func (k *disks) replicates() bool { return k != nil && k.layout.Replicates() }

// Limits and intervals.
const (
	recoverTimeout = 10 * time.Minute // overlays of a dead VM are written into the images
	renewInterval  = 30 * time.Second // of the record of what is written
	leaveTimeout   = 30 * time.Second
	progressEvery  = 5 * time.Second
)

func newDisks(d *driver, stateDir string) *disks {
	l := diskLayout(d.cfg, stateDir)
	if l.Empty() {
		return nil
	}
	return &disks{d: d, layout: l}
}

// prepareDisks makes this node's images ready for a VM that is about to be launched, and returns QEMU's
// arguments for them.
func prepareDisks(ctx context.Context, l *disk.Layout, incoming bool) ([]string, error) {
	if l.Empty() {
		return nil, nil
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	if err := l.Check(ctx, incoming); err != nil {
		return nil, err
	}
	if incoming {
		if err := l.MakeOverlays(ctx); err != nil {
			return nil, err
		}
	} else {
		// It must not end half way because of the time allowed for a launch.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recoverTimeout)
		defer cancel()
		if _, err := l.Recover(rctx); err != nil {
			return nil, err
		}
	}
	return l.Args(incoming), nil
}

var errNoMonitor = errors.New("the VM's block devices cannot be reached")

// monitorOf is the monitor of a real VM.
func monitorOf(h *vmHandle) (*qmp.Monitor, error) {
	if h == nil {
		return nil, errNoMonitor
	}
	m, ok := h.VM.(interface{ Monitor() *qmp.Monitor })
	if !ok {
		return nil, errNoMonitor
	}
	return m.Monitor(), nil
}

// diskSock is the unix socket of the disk stream at QEMU, on either side.
func (s *session) diskSock(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("d-%08x", uint32(s.number())))
}

// offer opens this node's images to the speaker. The VM here waits for the guest.
func (k *disks) offer(ctx context.Context, s *session) error {
	if !k.replicates() {
		return nil
	}
	q, err := monitorOf(k.d.vm.Load())
	if err != nil {
		return err
	}
	if err := k.layout.Export(ctx, q, s.diskSock(k.d.dir)); err != nil {
		return err
	}
	h := k.d.vm.Load()
	s.setDisk(disk.NewSecondaryStream(func(err error) {
		// What is posted here comes before whatever the speaker may do about it, its death included.
		err = fmt.Errorf("disks of node %s: %w", k.d.node, err)
		k.last.Store(&DiskFault{Disk: -1, Write: true, Text: err.Error(), At: time.Now(), vm: h.id})
		k.d.post(pair.VMHung{VM: h.id, Reason: err.Error()})
	}))
	return nil
}

// copy makes the images of the session's other node equal to those here, and makes them follow. The guest runs.
func (k *disks) copy(ctx context.Context, h *vmHandle, s *session) error {
	if !k.replicates() {
		return nil
	}
	began := time.Now()
	q, err := monitorOf(h)
	if err != nil {
		return err
	}
	if err := k.leave(h); err != nil { // what an earlier session left
		return err
	}
	talk, err := k.talkTo(ctx, s)
	if err != nil {
		return fmt.Errorf("speak about the disks: %w", err)
	}
	defer talk.close()
	since, err := talk.begin(func(base string) (bool, error) { return k.layout.Knows(ctx, q, base) })
	if err != nil {
		return fmt.Errorf("speak about the disks: %w", err)
	}
	stream, err := disk.NewPrimaryStream(s.diskSock(k.d.dir), func(ctx context.Context) (net.Conn, error) { return k.d.dialDisk(ctx, s, diskData) },
		func(err error) { k.streamEnded(h, err) })
	if err != nil {
		return err
	}
	s.setDisk(stream)
	told := time.Now()
	err = k.layout.Start(ctx, q, disk.Sync{
		Sock: s.diskSock(k.d.dir), Session: s.name, Since: since,
		Progress: func(p disk.Progress) {
			k.progress.Store(&p)
			if now := time.Now(); now.Sub(told) >= progressEvery {
				told = now
				k.d.log.Info().Int("disk", p.Disk).Int64("done", p.Done).Int64("total", p.Total).Bool("changes_only", p.Changed).Msg("disks are being copied")
			}
		},
	})
	k.progress.Store(nil)
	if err == nil {
		err = talk.equal()
	}
	if err != nil {
		if cause := stream.Err(); cause != nil && !errors.Is(cause, disk.ErrCut) {
			err = fmt.Errorf("%w (disk stream: %w)", err, cause)
		}
		stream.Cut()
		return errors.Join(err, k.leave(h))
	}
	// AwaitCommit is a part of Start: what a takeover had left is in the images.
	if err := k.layout.Committed(); err != nil {
		k.d.log.Warn().Err(err).Msg("cannot note that the disks are whole")
	}
	st := stream.Stats()
	k.d.log.Info().Dur("took_ms", time.Since(began)).Uint64("bytes", st.Out).Bool("changes_only", since != "").Msg("disks copied; they are equal from here on")
	k.d.dog.Go(func() { k.renew(s, q) })
	return nil
}

// renew keeps the record of what is written small, on a goroutine of its own.
func (k *disks) renew(s *session, q *qmp.Monitor) {
	t := time.NewTicker(renewInterval)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(s.ctx, checkTimeout)
		err := k.layout.Renew(ctx, q, s.name)
		cancel()
		if err != nil && s.ctx.Err() == nil {
			k.d.log.Warn().Err(err).Msg("cannot renew the record of what is written to the disks; more will be copied next time")
		}
	}
}

// streamEnded is called on the stream's goroutine.
func (k *disks) streamEnded(h *vmHandle, err error) {
	if err == nil || errors.Is(err, disk.ErrCut) {
		return
	}
	k.d.log.Warn().Err(err).Msg("disk stream ended")
	k.d.post(pair.COLOExit{VM: h.id, Reason: "the disks are no longer replicated: " + err.Error()})
}

// before is to be done before the VM here is let go of its peer; both streams have been cut.
func (k *disks) before(ctx context.Context, h *vmHandle) error {
	if !k.replicates() {
		return nil
	}
	q, err := monitorOf(h)
	if err != nil {
		return err
	}
	secondary, err := k.layout.Secondary(ctx, q)
	if err != nil || !secondary {
		return err
	}
	if err := k.layout.Promoting(); err != nil {
		// The guest goes on; a start from the images after its end may lack what was written meanwhile.
		k.d.log.Error().Err(err).Msg("cannot note that the guest takes over")
	}
	return k.layout.StopExport(ctx, q)
}

// after is to be done when the VM here runs alone.
func (k *disks) after(h *vmHandle) {
	if !k.replicates() {
		return
	}
	q, err := monitorOf(h)
	if err != nil {
		return // it is gone
	}
	began := time.Now()
	if err := k.leave(h); err != nil {
		k.d.log.Warn().Err(err).Msg("what is left of the replication is taken out before the next")
	}
	k.d.log.Debug().Dur("took_ms", time.Since(began)).Msg("the other node's images are taken out")
	k.d.dog.Go(func() {
		if err := k.layout.AwaitCommit(k.d.ctx, q); err != nil {
			return // ended meanwhile: the next launch looks at what is left
		}
		if err := k.layout.Committed(); err != nil {
			k.d.log.Error().Err(err).Msg("cannot note that the disks are whole")
			return
		}
		k.d.log.Debug().Dur("took_ms", time.Since(began)).Msg("disks are whole here")
	})
}

// mayStart says why a guest that runs nowhere must not be started from the images here; on any goroutine.
func (k *disks) mayStart() error {
	if !k.replicates() || k.d.vm.Load() != nil {
		return nil
	}
	return k.layout.Usable()
}

func (k *disks) leave(h *vmHandle) error {
	q, err := monitorOf(h)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	return k.layout.Leave(ctx, q)
}

// moved is called on the loop after a change of state: images that another node's guest goes on without are
// noted as such.
func (k *disks) moved(to pair.State) {
	if !k.replicates() {
		return
	}
	rec := k.d.m.Record()
	switch h := k.d.vm.Load(); {
	case to == pair.Solo:
		k.bad = ""
	case to == pair.Protected && k.bad != "" && h != nil && k.d.m.Role() == pair.Speaker:
		k.d.post(pair.VMHung{VM: h.id, Reason: k.bad})
		k.bad = ""
	}
	switch to {
	case pair.Standby, pair.Stopped, pair.Fenced, pair.Idle:
	default:
		return
	}
	if !rec.Exists() || rec.Speaker == k.d.node || rec.Standby == k.d.node {
		return
	}
	// Not on the VM's lane: it must not wait for a launch, nor be waited for by a takeover.
	k.d.disk.do(func() {
		if err := k.layout.LeftBehind(rec.Speaker); err != nil {
			k.d.log.Error().Err(err).Msg("cannot note that the disks here are old")
		}
	})
}

// DiskStatus is how the disks are, and how replicated ones are carried to the other node.
type DiskStatus struct {
	Out     uint64     `json:"out"`               // bytes from the speaker's QEMU to the other one
	In      uint64     `json:"in"`                // bytes back
	Copying *DiskCopy  `json:"copying,omitempty"` // under way on the speaker's node
	Fault   *DiskFault `json:"fault,omitempty"`   // the newest that QEMU here told of, since colod started
}

// DiskCopy is how far the copy of a disk is.
type DiskCopy struct {
	Disk    int   `json:"disk"`    // its index
	Done    int64 `json:"done"`    // bytes
	Total   int64 `json:"total"`   // bytes; grows while the guest writes
	Changes bool  `json:"changes"` // only what has changed is copied
}

// why adds to the reason of the pair's state that the guest stands still at a disk error; on any goroutine.
func (k *disks) why(reason string) string {
	if k == nil {
		return reason
	}
	if f, h := k.last.Load(), k.d.vm.Load(); f != nil && f.Stopped != "" && h != nil && h.id == f.vm {
		return reason + "; " + f.Text + "; " + f.Stopped
	}
	return reason
}

// status is called on any goroutine.
func (k *disks) status(s *session) *DiskStatus {
	if k == nil {
		return nil
	}
	d := &DiskStatus{Fault: k.last.Load()}
	if s != nil {
		s.mu.Lock()
		stream := s.disk
		s.mu.Unlock()
		if stream != nil {
			st := stream.Stats()
			d.Out, d.In = st.Out, st.In
		} else {
			s = nil
		}
	}
	if s == nil && d.Fault == nil {
		return nil
	}
	if p := k.progress.Load(); p != nil {
		d.Copying = &DiskCopy{Disk: p.Disk, Done: p.Done, Total: p.Total, Changes: p.Changed}
	}
	return d
}
