package disk

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// QMP is the monitor of one QEMU; *qmp.Monitor is one.
type QMP interface {
	Run(ctx context.Context, command string, args, result any) error
}

// pollInterval is the time between two looks at a job or at the block graph.
const pollInterval = 20 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// blockNode is the part of query-named-block-nodes that is of use here.
type blockNode struct {
	Name    string `json:"node-name"`
	Bitmaps []struct {
		Name  string `json:"name"`
		Count int64  `json:"count"` // bytes
	} `json:"dirty-bitmaps"`
}

func nodes(ctx context.Context, q QMP) (map[string]blockNode, error) {
	var list []blockNode
	if err := q.Run(ctx, "query-named-block-nodes", obj{"flat": true}, &list); err != nil {
		return nil, err
	}
	m := make(map[string]blockNode, len(list))
	for _, n := range list {
		m[n.Name] = n
	}
	return m, nil
}

// job is an entry of query-jobs.
type job struct {
	ID     string `json:"id"`
	Status string `json:"status"` // running, ready, standby, waiting, pending, aborting, concluded...
	Done   int64  `json:"current-progress"`
	Total  int64  `json:"total-progress"`
	Error  string `json:"error"`
}

func jobs(ctx context.Context, q QMP) ([]job, error) {
	var list []job
	err := q.Run(ctx, "query-jobs", nil, &list)
	return list, err
}

func findJob(ctx context.Context, q QMP, id string) (job, bool, error) {
	list, err := jobs(ctx, q)
	if err != nil {
		return job{}, false, err
	}
	i := slices.IndexFunc(list, func(j job) bool { return j.ID == id })
	if i < 0 {
		return job{}, false, nil
	}
	return list[i], true, nil
}

// endJob cancels a job, if it is there, waits for its end and forgets it. With force it does not try to
// bring its target up to date first. The error is the job's own too, unless it is that of having been cancelled.
func endJob(ctx context.Context, q QMP, id string, force bool) error {
	asked := false
	for {
		j, ok, err := findJob(ctx, q, id)
		switch {
		case err != nil:
			return fmt.Errorf("end job %s: %w", id, err)
		case !ok:
			return nil
		case j.Status == "concluded":
			if err := q.Run(ctx, "job-dismiss", obj{"id": id}, nil); err != nil && !absent(err) {
				return fmt.Errorf("end job %s: %w", id, err)
			}
			if j.Error != "" && !force {
				return fmt.Errorf("job %s failed: %s", id, j.Error)
			}
			return nil
		case !asked && j.Status != "aborting":
			asked = true
			if err := q.Run(ctx, "block-job-cancel", obj{"device": id, "force": force}, nil); err != nil && !absent(err) && !said(err, "cannot accept") {
				return fmt.Errorf("end job %s: %w", id, err)
			}
		}
		if err := pause(ctx, pollInterval); err != nil {
			return fmt.Errorf("end job %s: it is %s: %w", id, j.Status, err)
		}
	}
}

func deleteNode(ctx context.Context, q QMP, node string) error {
	if err := q.Run(ctx, "blockdev-del", obj{"node-name": node}, nil); err != nil && !absent(err) {
		return fmt.Errorf("delete block node %s: %w", node, err)
	}
	return nil
}
