package coordinator

import (
	"slices"
	"time"

	"colod/coordinator/metrics"
	"colod/internal/loghist"
	"colod/proxy"
	"colod/qmp/relay"
)

// A checkpoint's time, from the arrival of the oldest output that it covers to the release of that, is cut into phases that follow
// each other without a gap:
//
//	buffer    output waited before the checkpoint was asked for
//	request   from there until the guest stands still: the other node holds, QEMU is asked, the secondary has stopped
//	transfer  until the secondary has said that it has all of the state
//	load      until the guest runs again: the secondary has loaded the state and runs
//	release   until the output has been sent
//
// So their sum is the wait of the oldest output, the longest that a client sees; transfer and load are the guest's standstill.

// CheckpointRecord is one checkpoint that was taken here as speaker. Times are in milliseconds.
type CheckpointRecord struct {
	N       uint64    `json:"n"`       // number within this run of colod
	Time    time.Time `json:"time"`    // of the request
	Reasons []string  `json:"reasons"` // all that asked for it

	BufferMS   float64 `json:"buffer_ms"`   // wait of the oldest output before the request
	RequestMS  float64 `json:"request_ms"`  // from the request until the guest stands still
	TransferMS float64 `json:"transfer_ms"` // from there until the other side has all of the state
	LoadMS     float64 `json:"load_ms"`     // from there until the guest runs again
	ReleaseMS  float64 `json:"release_ms"`  // from there until the output is sent
	StopMS     float64 `json:"stop_ms"`     // the guest stood still: transfer and load
	DelayMS    float64 `json:"delay_ms"`    // all five: the wait of output that was there at the request
	LongestMS  float64 `json:"longest_ms"`  // wait of the frame that waited longest; 0: no frame waited

	Frames uint64 `json:"frames"` // of the guest, that it let out
	Output uint64 `json:"output"` // bytes, of the same
	Bytes  uint64 `json:"bytes"`  // state sent
}

// phases are a checkpoint's, in their order; see above.
type phases struct{ buffer, request, transfer, load, release time.Duration }

func (p phases) list() [metrics.Phases]time.Duration {
	return [...]time.Duration{p.buffer, p.request, p.transfer, p.load, p.release}
}

func (p phases) sum() (d time.Duration) {
	for _, x := range p.list() {
		d += x
	}
	return d
}

// cut makes the phases of a checkpoint that was asked for at began and whose output was released took later. stopped and resumed are
// QEMU's stamps, received when the relay saw that the other side has everything; a zero time means that it is not known, and its
// phase is 0. longest is the wait of the oldest output. A wall clock that was set in between moves time from one phase to another;
// it never changes the sum, and no phase is below 0.
func cut(began time.Time, stopped, received, resumed time.Time, took, longest time.Duration) phases {
	at := func(t time.Time, from time.Duration) time.Duration {
		if t.IsZero() {
			return from
		}
		return min(max(t.Sub(began.Round(0)), from), took) // Round takes the monotonic clock off: QEMU's stamps have none
	}
	stop := at(stopped, 0)
	got := at(received.Round(0), stop)
	run := at(resumed, got)
	if received.IsZero() {
		got = run // no relay told: all of the standstill counts as transfer
	}
	return phases{buffer: max(longest-took, 0), request: stop, transfer: got - stop, load: run - got, release: took - run}
}

// records are the last checkpoints, and what their phases were since colod started.
type records struct {
	last [1024]CheckpointRecord // a ring
	n    int                    // how many were ever written
	hist [metrics.Phases]loghist.Hist
	all  loghist.Hist // of the sums

	state   relay.Checkpoint // of the one under way, once told of
	covered proxy.Covered    // of the one under way, once told of
}

// begin forgets what was told of the one before.
func (r *records) begin() { r.state, r.covered = relay.Checkpoint{}, proxy.Covered{} }

// add writes the record of a checkpoint.
func (r *records) add(n uint64, reasons []string, began, stopped, resumed time.Time, took time.Duration) {
	var received time.Time
	if !r.state.Begin.IsZero() {
		received = r.state.Begin.Add(r.state.Stop + r.state.Transfer)
	}
	p := cut(began, stopped, received, resumed, took, r.covered.Longest)
	for i, d := range p.list() {
		r.hist[i].Add(d)
	}
	r.all.Add(p.sum())
	r.last[r.n%len(r.last)] = CheckpointRecord{
		N: n, Time: began, Reasons: slices.Clone(reasons),
		BufferMS: fineMS(p.buffer), RequestMS: fineMS(p.request), TransferMS: fineMS(p.transfer), LoadMS: fineMS(p.load),
		ReleaseMS: fineMS(p.release), StopMS: fineMS(p.transfer + p.load), DelayMS: fineMS(p.sum()), LongestMS: fineMS(r.covered.Longest),
		Frames: r.covered.Frames, Output: r.covered.Bytes, Bytes: r.state.Bytes,
	}
	r.n++
}

// after returns the records from number from on, oldest first, as far as they are kept, and the number of the next one.
func (r *records) after(from int) ([]CheckpointRecord, int) {
	from = max(from, r.n-len(r.last), 0)
	var out []CheckpointRecord
	for i := from; i < r.n; i++ {
		out = append(out, r.last[i%len(r.last)])
	}
	return out, r.n
}

// status are the phases' quantiles.
func (r *records) status() map[string]Quantiles {
	if r.n == 0 {
		return nil
	}
	q := func(h *loghist.Hist) Quantiles {
		return Quantiles{P50: ms(h.Quantile(0.5)), P99: ms(h.Quantile(0.99)), Max: ms(h.Max)}
	}
	out := map[string]Quantiles{"delay": q(&r.all)}
	for i, name := range metrics.PhaseNames {
		out[name] = q(&r.hist[i])
	}
	return out
}

// fineMS is d in milliseconds, to the nanosecond.
func fineMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
