package disk

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Progress of a synchronisation.
type Progress struct {
	Disk        int   // index of the disk
	Done, Total int64 // bytes of it; Total grows while the guest writes
	Changed     bool  // only what has changed is copied
}

// Sync says how to bring the other node's images up to date.
type Sync struct {
	// Sock is the unix socket of the stream to the other node's NBD server.
	Sock string
	// Session names the bitmaps that record what is written from the end of the copy on. It is unique, of
	// letters, digits, "-" and "_".
	Session string
	// Since is the session since which the bitmaps here know what the other node's images lack; "" copies
	// everything. See [Layout.Knows].
	Since string
	// Progress, if set, is told from time to time. It must not block.
	Progress func(Progress)
}

// Start copies the replicated disks of a running guest to the other node's images and makes these follow
// every write. When it returns, the images are equal, and stay so: a mirror that holds each of the guest's
// writes until the other node has it too bridges the time until replication takes over, which it does by
// itself in the instant in which COLO starts. [Layout.Finish] is to be called then.
//
// After an error the guest runs on alone; call [Layout.Leave] after the stream was cut.
func (l *Layout) Start(ctx context.Context, q QMP, s Sync) error {
	if !l.Replicates() {
		return nil
	}
	// What an earlier attempt or session left.
	if err := l.Leave(ctx, q); err != nil {
		return err
	}
	if err := l.AwaitCommit(ctx, q); err != nil {
		return err
	}
	for _, i := range l.replicated() {
		if err := l.startCopy(ctx, q, s, i); err != nil {
			return fmt.Errorf("copy disk %d: %w", i, err)
		}
	}
	if err := l.awaitEqual(ctx, q, s); err != nil {
		return err
	}
	// From here on each write reaches both images or is in a bitmap.
	for _, i := range l.replicated() {
		if err := l.replaceBitmaps(ctx, q, i, s.Session); err != nil {
			return fmt.Errorf("record changes of disk %d: %w", i, err)
		}
		if err := l.attach(ctx, q, s, i); err != nil {
			return fmt.Errorf("replicate disk %d: %w", i, err)
		}
	}
	return nil
}

func (l *Layout) startCopy(ctx context.Context, q QMP, s Sync, i int) error {
	if err := q.Run(ctx, "blockdev-add", remote(nodeMirror(i), s.Sock, i), nil); err != nil {
		return fmt.Errorf("reach the other node's image: %w", err)
	}
	what := "full"
	if s.Since != "" {
		what = "none" // new writes only; the rest is below
	}
	err := q.Run(ctx, "blockdev-mirror", obj{
		"job-id": jobCopy(i), "device": nodeDisk(i), "target": nodeMirror(i), "sync": what,
		"copy-mode": "write-blocking", "auto-dismiss": false,
	}, nil)
	if err != nil || s.Since == "" {
		return err
	}
	// What was written since the images were equal, as it was when this job starts: what the guest writes
	// meanwhile waits until its old content was copied, and is then mirrored over it.
	name, err := l.mergeBitmaps(ctx, q, i, s.Since)
	if err != nil {
		return err
	}
	if err := q.Run(ctx, "blockdev-add", remote(nodeDelta(i), s.Sock, i), nil); err != nil {
		return fmt.Errorf("reach the other node's image: %w", err)
	}
	return q.Run(ctx, "blockdev-backup", obj{
		"job-id": jobDelta(i), "device": nodeBase(i), "target": nodeDelta(i), "sync": "bitmap", "bitmap": name, "bitmap-mode": "never",
		"auto-dismiss": false,
	}, nil)
}

// awaitEqual returns when all copies have caught up with the guest.
func (l *Layout) awaitEqual(ctx context.Context, q QMP, s Sync) error {
	for _, i := range l.replicated() {
		if s.Since != "" {
			if err := l.await(ctx, q, s, i, jobDelta(i), "concluded"); err != nil {
				return err
			}
			if err := endJob(ctx, q, jobDelta(i), false); err != nil {
				return err
			}
			if err := deleteNode(ctx, q, nodeDelta(i)); err != nil {
				return err
			}
		}
		if err := l.await(ctx, q, s, i, jobCopy(i), "ready"); err != nil {
			return err
		}
	}
	// A copy that was ready first may have failed while another one was waited for.
	for _, i := range l.replicated() {
		if err := l.await(ctx, q, s, i, jobCopy(i), "ready"); err != nil {
			return err
		}
	}
	return nil
}

func (l *Layout) await(ctx context.Context, q QMP, s Sync, i int, id, status string) error {
	for {
		j, ok, err := findJob(ctx, q, id)
		switch {
		case err != nil:
			return fmt.Errorf("copy disk %d: %w", i, err)
		case !ok:
			return fmt.Errorf("copy disk %d: its job is gone", i)
		case j.Status == "concluded" && j.Error != "":
			return fmt.Errorf("copy disk %d after %d of %d bytes: %s", i, j.Done, j.Total, j.Error)
		}
		if s.Progress != nil {
			s.Progress(Progress{Disk: i, Done: j.Done, Total: j.Total, Changed: s.Since != ""})
		}
		if j.Status == status {
			return nil
		}
		if j.Status == "concluded" {
			return fmt.Errorf("copy disk %d: its job ended before the images were equal", i)
		}
		if err := pause(ctx, pollInterval); err != nil {
			return fmt.Errorf("copy disk %d: %d of %d bytes copied: %w", i, j.Done, j.Total, err)
		}
	}
}

// attach adds the other node's image to the quorum. Nothing is written through it before COLO starts.
func (l *Layout) attach(ctx context.Context, q QMP, s Sync, i int) error {
	err := q.Run(ctx, "blockdev-add", obj{
		"driver": "replication", "node-name": nodeRepl(i), "mode": "primary", "file": remote(nodeNBD(i), s.Sock, i),
	}, nil)
	if err != nil {
		return err
	}
	return q.Run(ctx, "x-blockdev-change", obj{"parent": nodeDisk(i), "node": nodeRepl(i)}, nil)
}

// finishTimeout bounds the end of the mirrors.
const finishTimeout = 30 * time.Second

// Finish ends the mirrors once COLO runs. If one of them has failed meanwhile the images may differ: the
// error then means that the secondary must not be relied on.
func (l *Layout) Finish(ctx context.Context, q QMP) error {
	ctx, cancel := context.WithTimeout(ctx, finishTimeout)
	defer cancel()
	var errs []error
	for _, i := range l.replicated() {
		j, ok, err := findJob(ctx, q, jobCopy(i))
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case !ok:
			errs = append(errs, errors.New("the mirror is gone"))
			continue
		case j.Status == "concluded":
			errs = append(errs, fmt.Errorf("the mirror of disk %d ended: %s", i, j.Error))
			continue
		}
		if err := endJob(ctx, q, jobCopy(i), false); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, deleteNode(ctx, q, nodeMirror(i)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("finish the copy of the disks: %w", err)
	}
	return nil
}
