package disk

import (
	"context"
	"fmt"
)

// Export offers the images of a secondary, launched with the graph of one, on the unix socket sock, which
// must not exist. It has to be done before COLO starts.
func (l *Layout) Export(ctx context.Context, q QMP, sock string) error {
	if !l.Replicates() {
		return nil
	}
	if err := q.Run(ctx, "nbd-server-start", obj{"addr": obj{"type": "unix", "data": obj{"path": sock}}, "max-connections": 0}, nil); err != nil {
		return fmt.Errorf("offer disks: %w", err)
	}
	for _, i := range l.replicated() {
		err := q.Run(ctx, "block-export-add", obj{"type": "nbd", "id": "colod-" + exportName(i), "node-name": nodeBase(i), "name": exportName(i), "writable": true}, nil)
		if err != nil {
			return fmt.Errorf("offer disk %d: %w", i, err)
		}
	}
	return nil
}

// StopExport ends the export: the first step of a takeover, before COLO is left. A VM that exports nothing
// is no error.
func (l *Layout) StopExport(ctx context.Context, q QMP) error {
	if !l.Replicates() {
		return nil
	}
	if err := q.Run(ctx, "nbd-server-stop", nil, nil); err != nil && !absent(err) {
		return fmt.Errorf("stop offering disks: %w", err)
	}
	return nil
}

// Secondary reports whether this QEMU has the graph of a secondary whose overlays are in use: it runs as
// one, or has taken over and has not committed them yet.
func (l *Layout) Secondary(ctx context.Context, q QMP) (bool, error) {
	ns, err := nodes(ctx, q)
	if err != nil {
		return false, fmt.Errorf("look at disks: %w", err)
	}
	for _, i := range l.replicated() {
		if _, there := ns[nodeActive(i)]; there {
			return true, nil
		}
	}
	return false, nil
}

// AwaitCommit returns when QEMU has committed the overlays of a former secondary into its images and has
// closed them, which it does by itself after a takeover.
func (l *Layout) AwaitCommit(ctx context.Context, q QMP) error {
	for wait := pollInterval / 4; ; wait = min(2*wait, 25*pollInterval) {
		busy, err := l.Secondary(ctx, q)
		if err != nil || !busy {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("wait until what was written before the takeover is in the image: %w", err)
		}
	}
}
