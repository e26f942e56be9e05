package disk

import (
	"context"
	"errors"
	"fmt"
)

// Leave takes everything of the other node's out of a primary's block graph: copies under way, the quorum's
// second child, the NBD nodes. The stream must have been cut before if the other node may be dead: a request
// that hangs on it hangs the monitor too. Nothing to do is no error.
func (l *Layout) Leave(ctx context.Context, q QMP) error {
	if !l.Replicates() {
		return nil
	}
	ns, err := nodes(ctx, q)
	if err != nil {
		return fmt.Errorf("leave replication: %w", err)
	}
	var errs []error
	for _, i := range l.replicated() {
		if _, there := ns[nodeRemote(i)]; there {
			errs = append(errs, l.detach(ctx, q, i))
		}
	}
	list, err := jobs(ctx, q)
	errs = append(errs, err)
	for _, i := range l.replicated() {
		for _, j := range list {
			if j.ID == jobCopy(i) || j.ID == jobDelta(i) {
				errs = append(errs, endJob(ctx, q, j.ID, true))
			}
		}
		for _, n := range []string{nodeDelta(i), nodeMirror(i)} {
			if _, there := ns[n]; there {
				errs = append(errs, deleteNode(ctx, q, n))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("leave replication: %w", err)
	}
	return nil
}

func (l *Layout) detach(ctx context.Context, q QMP, i int) error {
	// QEMU numbers a quorum's children and gives a freed number again: the second one is always children.1.
	err := q.Run(ctx, "x-blockdev-change", obj{"parent": nodeDisk(i), "child": "children.1"}, nil)
	if err != nil && !absent(err) {
		return fmt.Errorf("take the other image out of disk %d: %w", i, err)
	}
	return deleteNode(ctx, q, nodeRemote(i))
}
