package systems

import (
	"context"
	"fmt"
	"time"

	"colod/coordinator"
	"colod/internal/lab"
)

// pairName is the pair of every lab.
const pairName = "guest"

// epoch is one epoch of a pair: from the release that a checkpoint ends with to the next one's, in milliseconds.
//
// A frame that the guest sends just after one release waits until the next: Period is the longest wait that the epoch can make,
// Longest the one that a frame has had (0: none waited). The phases are those of colod's records.
type epochTimes struct {
	released                                 time.Time
	under                                    string // the load meanwhile; "" between loads
	period, longest                          float64
	buffer, request, transfer, load, release float64
}

// checkpoint is the time of the epoch's checkpoint, from its request to its release.
func (e epochTimes) checkpoint() float64 { return e.request + e.transfer + e.load + e.release }

// fetchEpochs reads the epochs since a time from the records of the pair's speaker.
func fetchEpochs(ctx context.Context, l *lab.Lab, since time.Time) ([]epochTimes, error) {
	var all []coordinator.CheckpointRecord
	err := coordinator.NewClient(l.Socket(lab.NodeA)).Checkpoints(ctx, pairName, since.Format(time.RFC3339Nano), func(c coordinator.CheckpointRecord) error {
		all = append(all, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the records of checkpoints: %w", err)
	}
	return cutEpochs(all), nil
}

// cutEpochs makes epochs of records in their order. Between two that do not follow each other there is none.
func cutEpochs(all []coordinator.CheckpointRecord) []epochTimes {
	released := func(c coordinator.CheckpointRecord) time.Time {
		ms := c.RequestMS + c.TransferMS + c.LoadMS + c.ReleaseMS
		return c.Time.Add(time.Duration(ms * float64(time.Millisecond)))
	}
	var out []epochTimes
	for i := 1; i < len(all); i++ {
		c, before := all[i], all[i-1]
		if c.N != before.N+1 {
			continue
		}
		out = append(out, epochTimes{
			released: released(c),
			period:   float64(released(c).Sub(released(before))) / float64(time.Millisecond),
			longest:  c.LongestMS, buffer: c.BufferMS, request: c.RequestMS, transfer: c.TransferMS, load: c.LoadMS, release: c.ReleaseMS,
		})
	}
	return out
}

// window is when a load was on a system.
type window struct {
	kind     string
	from, to time.Time
}

// under tells the epochs which load they were under.
func under(all []epochTimes, windows []window) {
	for i := range all {
		for _, w := range windows {
			if at := all[i].released; !at.Before(w.from) && at.Before(w.to) {
				all[i].under = w.kind
			}
		}
	}
}
