package coordinator

import (
	"context"
	"time"

	"colod/coordinator/pair"
	"colod/qmp"
	"colod/qmp/disk"
)

// DiskFault is the newest error of a disk that QEMU on this node has told of.
type DiskFault struct {
	Disk  int       `json:"disk"`  // its index; -1 if it is not known
	Write bool      `json:"write"` // else a read or a flush
	Text  string    `json:"text"`
	At    time.Time `json:"at"`
	// Stopped says that the guest stands still because of it, and what lets it go on; "" = it runs.
	Stopped string `json:"stopped,omitempty"`

	vm uint64 // the machine's number of the VM
}

const (
	// retryEvery is the time between two attempts to let a guest go on that stands still at a disk error.
	retryEvery = 5 * time.Second
	// calmAfter is how long it must run without another error to count as mended.
	calmAfter = 2 * time.Second
)

// event takes one of QEMU's, on the watcher's goroutine.
func (k *disks) event(h *vmHandle, e qmp.Event) {
	if k == nil {
		return
	}
	if f, ok := disk.FaultOf(e); ok {
		k.d.box.post(func() { k.fault(h, f) })
	}
}

// resumed is called on the watcher's goroutine when the guest runs again.
func (k *disks) resumed() {
	if k == nil {
		return
	}
	was := k.last.Load()
	if was == nil || was.Stopped == "" {
		return
	}
	time.AfterFunc(calmAfter, func() {
		k.d.box.post(func() {
			if k.last.Load() != was {
				return // it did not last
			}
			now := *was
			now.Stopped = ""
			k.last.Store(&now)
			k.say("the guest goes on; it stood still after this: " + was.Text)
		})
	})
}

// statusIOError is QEMU's word for a guest that it has stopped at a disk error.
const statusIOError = "io-error"

// found takes the status of a VM that an earlier colod had.
func (k *disks) found(h *vmHandle, status string) {
	if k != nil && status == statusIOError {
		k.d.box.post(func() { k.fault(h, disk.Fault{Where: disk.Guest, Disk: -1, Text: "found as an earlier colod left it"}) })
	}
}

// retry lets a guest that stands still at a disk error make its request again from time to time, until it goes
// on or ends. It runs on a goroutine of its own.
func (k *disks) retry(h *vmHandle) {
	t := time.NewTicker(retryEvery)
	defer t.Stop()
	// The first at once: a copy that failed may have stopped the guest, and is gone when the lane is free.
	for first := true; ; first = false {
		if !first {
			select {
			case <-h.quit:
				return
			case <-k.d.ctx.Done():
				return
			case <-t.C:
			}
		}
		f := k.last.Load()
		if f == nil || f.Stopped == "" || f.vm != h.id {
			return
		}
		k.d.call(func() {
			if !k.d.m.HeldStill() {
				k.d.vmLane.do(func() { k.again(h) })
			}
		})
	}
}

// again is one attempt, on the VM's lane.
func (k *disks) again(h *vmHandle) {
	if k.d.vm.Load() != h {
		return
	}
	ctx, cancel := context.WithTimeout(k.d.ctx, triggerTimeout)
	defer cancel()
	if st, err := h.QueryStatus(ctx); err != nil || st.Status != statusIOError {
		return
	}
	if err := h.Cont(ctx); err != nil {
		k.d.log.Warn().Err(err).Msg("the guest stands still at a disk error and cannot be continued")
	}
}

// say makes an event of something that is no change of the pair's state, on the loop.
func (k *disks) say(reason string) {
	k.d.log.Info().Msg(reason)
	state := k.d.m.State().String()
	k.d.publish(Event{
		Time: time.Now(), Pair: k.d.cfg.Name, From: state, State: state, Role: k.d.m.Role().String(),
		Generation: k.d.m.Record().Generation, Reason: reason,
	}, false)
}

// note keeps a fault for the status. It reports whether it is a new one: not the repetition of the last within
// a minute. While the guest stands still at a fault that one stays: QEMU tells of others late, one a second.
func (k *disks) note(h *vmHandle, f disk.Fault, stopped string) bool {
	now := &DiskFault{Disk: f.Disk, Write: f.Write, Text: f.String(), At: time.Now(), Stopped: stopped, vm: h.id}
	was := k.last.Load()
	if stopped == "" && was != nil && was.Stopped != "" && was.vm == h.id {
		return false
	}
	k.last.Store(now)
	return was == nil || was.Text != now.Text || was.Stopped != now.Stopped || now.At.Sub(was.At) > time.Minute
}

// lacks is why the VM here must end: the guest has made a write that its image does not have.
func (k *disks) lacks(f disk.Fault) string {
	return "the image of node " + k.d.node + " lacks a write: " + f.String()
}

// fault answers a disk error, on the loop.
func (k *disks) fault(h *vmHandle, f disk.Fault) {
	if f.Where == disk.Remote && !k.d.sess.replicates() {
		return // known: it was cut off, and is being taken out
	}
	inStep := k.d.m.State() == pair.Protected || k.d.m.State() == pair.Checkpointing
	secondary := k.d.m.Role() == pair.Secondary
	stopped := ""
	if f.Where == disk.Guest && !secondary {
		stopped = "the guest stands still at this request, which is made again every 5 s until the cause is mended; nothing is lost"
	}
	was := k.last.Load()
	isNew := k.note(h, f, stopped)
	if isNew {
		k.d.log.Error().Int("disk", f.Disk).Bool("write", f.Write).Msg(f.String())
	}
	switch {
	case f.Where == disk.Remote:
		// The other image lacks a write: it must not be relied on. The one here has it.
		k.d.post(pair.COLOExit{VM: h.id, Reason: f.String()})
	case secondary && f.Where == disk.Guest:
		// It is of no use; the speaker's is well.
		k.d.post(pair.VMHung{VM: h.id, Reason: "the guest of node " + k.d.node + " stands still: " + f.String()})
	case inStep && f.Where == disk.Local && f.Write:
		// The other node has what this image lacks, and the guest here would read the old from it.
		k.d.post(pair.VMHung{VM: h.id, Reason: k.lacks(f)})
	case k.d.m.State() == pair.Syncing && f.Where == disk.Local && f.Write:
		k.bad = k.lacks(f) // as soon as the other node may
	case f.Where == disk.Guest:
		if isNew {
			k.say(f.String() + "; " + stopped)
		}
		if was == nil || was.Stopped == "" || was.vm != h.id {
			k.d.dog.Go(func() { k.retry(h) })
		}
	case f.Where == disk.Local && !f.Write && k.d.sess.replicates():
		if isNew {
			k.say(f.String() + "; read from the other node's image instead: replace the disk here after a switchover")
		}
	}
}
