package disk

import (
	"context"
	"fmt"
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

// Start copies the replicated disks of a running guest to the other node's images and makes these take
// every write. When it returns, the images are equal, and stay so until [Layout.Leave] or a fault that QEMU
// reports (see [FaultOf]); COLO may be started, now or later.
//
// The other node's image is a child of the quorum as it is, without QEMU's replication driver before it,
// which would do nothing on this side but hide errors: it reports a failed write to nobody (QEMU 7.2 to 11.1,
// block/replication.c, replication_return_value), and a takeover would find the image without it.
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
	// A write that reaches only one image from here on is in a bitmap.
	for _, i := range l.replicated() {
		if err := l.replaceBitmaps(ctx, q, i, s.Session); err != nil {
			return fmt.Errorf("record changes of disk %d: %w", i, err)
		}
		if err := l.attach(ctx, q, s, i); err != nil {
			return fmt.Errorf("replicate disk %d: %w", i, err)
		}
	}
	// Both ways at once do no harm: the mirror writes what the quorum has just written. Now one is enough. A
	// mirror that failed meanwhile may have missed a write of the time before.
	for _, i := range l.replicated() {
		if err := endJob(ctx, q, jobCopy(i), false); err != nil {
			return fmt.Errorf("copy disk %d: %w", i, err)
		}
		if err := deleteNode(ctx, q, nodeMirror(i)); err != nil {
			return fmt.Errorf("copy disk %d: %w", i, err)
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
		"copy-mode": "write-blocking", "auto-dismiss": false, "filter-node-name": nodeCopied(i),
	}, nil)
	if err != nil || s.Since == "" {
		return err
	}
	// What was written since the images were equal, as it was when this job starts: what the guest writes
	// meanwhile waits until its old content was copied, and is then mirrored over it. If that cannot be copied the
	// write fails, and the guest stops at it (QEMU block/copy-before-write.c): it is to be continued when the job
	// is gone.
	name, err := l.mergeBitmaps(ctx, q, i, s.Since)
	if err != nil {
		return err
	}
	if err := q.Run(ctx, "blockdev-add", remote(nodeDelta(i), s.Sock, i), nil); err != nil {
		return fmt.Errorf("reach the other node's image: %w", err)
	}
	return q.Run(ctx, "blockdev-backup", obj{
		"job-id": jobDelta(i), "device": nodeBase(i), "target": nodeDelta(i), "sync": "bitmap", "bitmap": name, "bitmap-mode": "never",
		"auto-dismiss": false, "filter-node-name": nodeSaved(i),
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

// attach adds the other node's image to the quorum.
func (l *Layout) attach(ctx context.Context, q QMP, s Sync, i int) error {
	if err := q.Run(ctx, "blockdev-add", remote(nodeRemote(i), s.Sock, i), nil); err != nil {
		return err
	}
	return q.Run(ctx, "x-blockdev-change", obj{"parent": nodeDisk(i), "node": nodeRemote(i)}, nil)
}
