package report

import (
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"colod/compare"
)

// Options of a Collector.
type Options struct {
	Dir        string // of the Store
	Node, Pair string
	Payload    Payload // default full
	Limits     Limits
	// Rate bounds the reports written, per second, with bursts of ten times as many; default 20. What is above is
	// counted, not written.
	Rate float64
	// Failed is told, at most once a minute, that reports cannot be written. May be nil.
	Failed func(error)
}

const (
	defaultRate = 20
	// queueLen bounds what waits for the collector. The data path never waits: what does not fit is counted.
	queueLen = 512
	// maxPending bounds the divergences that wait for their bytes or their checkpoint.
	maxPending = 1024
	// waitBytes and waitCheckpoint are how long a report waits for its exact position after its checkpoint, and for
	// the checkpoint.
	waitBytes      = time.Second
	waitCheckpoint = 20 * time.Second
	housekeeping   = 250 * time.Millisecond
)

// Stats are a collector's counters since it began.
type Stats struct {
	Found   uint64            `json:"found"`    // divergences
	Written uint64            `json:"written"`  // reports
	LeftOut map[string]uint64 `json:"left_out"` // divergences without a report: rate, queue, disk
	ByCause map[string]uint64 `json:"by_cause"` // reports
	Bytes   uint64            `json:"bytes"`    // on disk
	Torn    uint64            `json:"torn"`     // bytes that a crash had torn and that were cut off at the start
	Dropped uint64            `json:"dropped"`  // segments removed because of max_size or max_age
	Full    bool              `json:"full"`     // the last report could not be written
}

// Collector turns divergences into reports. Its methods but Close never block, and are safe for use by many goroutines.
type Collector struct {
	opt     Options
	store   *Store
	queue   chan item
	dropped atomic.Uint64
	quit    chan struct{}
	done    chan struct{}
	once    sync.Once
	now     func() time.Time // a seam for tests

	mu    sync.Mutex
	stats Stats

	// What follows belongs to the goroutine.
	pending  map[uint32]*waiting
	order    []uint32 // of pending
	lastID   uint32
	epoch    uint32 // that the next checkpoint ends
	begun    checkpoint
	tokens   float64
	refilled time.Time
	leftOut  map[string]uint64
	expired  time.Time
	warned   time.Time
}

// waiting is a divergence that waits to be written.
type waiting struct {
	v          compare.Divergence
	generation uint64
	found      time.Time
	healed     *Checkpoint
	healedAt   time.Time
}

type checkpoint struct {
	n       uint64
	at      time.Time
	reasons []string
}

// item is one thing that the collector is told.
type item struct {
	kind       itemKind
	at         time.Time
	v          compare.Divergence
	generation uint64
	n          uint64
	reasons    []string
	stop, cost time.Duration
	bytes      uint64
	flushed    chan struct{}
}

type itemKind uint8

const (
	itemDiverged itemKind = iota
	itemSession
	itemBegun
	itemDone
	itemFlush
)

// NewCollector opens the store and starts the collector.
func NewCollector(opt Options) (*Collector, error) {
	if opt.Payload == "" {
		opt.Payload = PayloadFull
	}
	if err := opt.Payload.valid(); err != nil {
		return nil, err
	}
	if opt.Rate <= 0 {
		opt.Rate = defaultRate
	}
	if opt.Failed == nil {
		opt.Failed = func(error) {}
	}
	store, err := Open(opt.Dir, opt.Limits)
	if err != nil {
		return nil, err
	}
	c := newCollector(opt, store)
	go c.run()
	return c, nil
}

func newCollector(opt Options, store *Store) *Collector {
	return &Collector{opt: opt, store: store, queue: make(chan item, queueLen), quit: make(chan struct{}), done: make(chan struct{}),
		now: time.Now, pending: map[uint32]*waiting{}, leftOut: map[string]uint64{}, tokens: 10 * opt.Rate,
		stats: Stats{LeftOut: map[string]uint64{}, ByCause: map[string]uint64{}}}
}

func (c *Collector) tell(it item) {
	it.at = c.now()
	select {
	case c.queue <- it:
	default:
		c.dropped.Add(1)
	}
}

// Diverged takes a divergence; the exact one of the same number may follow. v is copied; its bytes are kept.
func (c *Collector) Diverged(v *compare.Divergence, generation uint64) {
	c.tell(item{kind: itemDiverged, v: *v, generation: generation})
}

// Session says that a protection begins: divergences and epochs are counted anew.
func (c *Collector) Session() { c.tell(item{kind: itemSession}) }

// CheckpointBegun says that checkpoint n was asked for.
func (c *Collector) CheckpointBegun(n uint64, reasons []string) {
	c.tell(item{kind: itemBegun, n: n, reasons: reasons})
}

// CheckpointDone says that checkpoint n is complete: the guest stood still for stop, what it covers was released cost
// after the request, and bytes of state were sent.
func (c *Collector) CheckpointDone(n uint64, stop, cost time.Duration, bytes uint64) {
	c.tell(item{kind: itemDone, n: n, stop: stop, cost: cost, bytes: bytes})
}

// Flush waits until everything told before is taken. What still waits for its bytes or its checkpoint is not written by it.
func (c *Collector) Flush() {
	ch := make(chan struct{})
	select {
	case c.queue <- item{kind: itemFlush, at: c.now(), flushed: ch}:
		<-ch
	case <-c.done:
	}
}

// Stats are the present counters.
func (c *Collector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.LeftOut, s.ByCause = maps.Clone(s.LeftOut), maps.Clone(s.ByCause)
	if n := c.dropped.Load(); n > 0 {
		s.LeftOut["queue"] += n
	}
	return s
}

// Close writes what waits and ends the collector.
func (c *Collector) Close() error {
	c.once.Do(func() { close(c.quit) })
	<-c.done
	return c.store.Close()
}

func (c *Collector) run() {
	defer close(c.done)
	t := time.NewTicker(housekeeping)
	defer t.Stop()
	for {
		select {
		case it := <-c.queue:
			c.take(it)
		case <-t.C:
			c.tick(c.now())
		case <-c.quit:
			for {
				select {
				case it := <-c.queue:
					c.take(it)
					continue
				default:
				}
				c.writeAll(c.now())
				return
			}
		}
	}
}

func (c *Collector) take(it item) {
	switch it.kind {
	case itemDiverged:
		c.diverged(it)
	case itemSession:
		c.writeAll(it.at)
		c.lastID, c.epoch, c.begun = 0, 0, checkpoint{}
	case itemBegun:
		c.begun = checkpoint{it.n, it.at, it.reasons}
	case itemDone:
		c.healed(it)
	case itemFlush:
		close(it.flushed)
	}
}

func (c *Collector) diverged(it item) {
	if w := c.pending[it.v.ID]; w != nil && it.v.ID <= c.lastID {
		detail := w.v.Detail
		w.v = it.v
		if w.v.Detail == "" {
			w.v.Detail = detail
		}
		if w.healed != nil && w.v.Final {
			c.write(it.v.ID)
			c.compact()
		}
		return
	}
	if it.v.ID <= c.lastID {
		return // of one that was left out or has been written
	}
	c.lastID = it.v.ID
	if it.v.Epoch > c.epoch+1 {
		c.epoch = it.v.Epoch // checkpoints were not told of
	}
	c.count(func(s *Stats) { s.Found++ })
	if len(c.pending) >= maxPending || !c.allowed(it.at) {
		c.leave("rate")
		return
	}
	c.pending[it.v.ID] = &waiting{v: it.v, generation: it.generation, found: it.at}
	c.order = append(c.order, it.v.ID)
}

// allowed takes a token of the rate.
func (c *Collector) allowed(now time.Time) bool {
	if !c.refilled.IsZero() {
		c.tokens = min(10*c.opt.Rate, c.tokens+c.opt.Rate*max(now.Sub(c.refilled).Seconds(), 0))
	}
	c.refilled = now
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	return true
}

// healed joins the divergences of the epoch that ends with their checkpoint.
func (c *Collector) healed(it item) {
	cp := &Checkpoint{Number: it.n, StopMS: millis(it.stop), CostMS: millis(it.cost), Bytes: it.bytes}
	if c.begun.n == it.n {
		cp.Reasons = c.begun.reasons
	}
	if cp.Reasons == nil {
		cp.Reasons = []string{}
	}
	var of []*waiting
	for _, id := range c.order {
		if w := c.pending[id]; w.healed == nil && w.v.Epoch <= c.epoch {
			of = append(of, w)
		}
	}
	c.epoch++
	for _, w := range of {
		x := *cp
		x.SharedBy = len(of)
		if c.begun.n == it.n {
			x.DelayMS = max(millis(c.begun.at.Sub(w.found)), 0)
		}
		w.healed, w.healedAt = &x, it.at
	}
	for _, id := range c.order {
		if w := c.pending[id]; w.healed != nil && w.v.Final {
			c.write(id)
		}
	}
	c.compact()
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// tick writes what has waited long enough, and keeps the store in its limits.
func (c *Collector) tick(now time.Time) {
	for _, id := range c.order {
		w := c.pending[id]
		if w.healed != nil && now.Sub(w.healedAt) > waitBytes || now.Sub(w.found) > waitCheckpoint {
			c.write(id)
		}
	}
	c.compact()
	if now.Sub(c.expired) > time.Minute {
		c.expired = now
		c.store.Expire(now)
		c.storeStats()
	}
	if err := c.store.Sync(); err != nil {
		c.failed(now, err)
	}
}

func (c *Collector) writeAll(now time.Time) {
	for _, id := range c.order {
		c.write(id)
	}
	c.compact()
	if err := c.store.Sync(); err != nil {
		c.failed(now, err)
	}
}

// write writes one report and takes it out of pending; compact has to follow.
func (c *Collector) write(id uint32) {
	w := c.pending[id]
	delete(c.pending, id)
	r := fromDivergence(&w.v)
	r.Time, r.Node, r.Pair, r.Generation, r.Checkpoint = w.found.UTC(), c.opt.Node, c.opt.Pair, w.generation, w.healed
	r.Cause = Classify(r.evidence())
	c.opt.Payload.apply(r)
	c.takeDrops()
	if len(c.leftOut) > 0 {
		r.LeftOut = c.leftOut
	}
	if err := c.store.Append(r); err != nil {
		c.leave("disk")
		c.failed(w.found, err)
		return
	}
	c.leftOut = map[string]uint64{}
	c.count(func(s *Stats) {
		s.Written++
		s.ByCause[r.Cause.Kind]++
		s.Full = false
	})
	c.storeStats()
}

// evidence is what Classify needs of a report whose payload is whole.
func (r *Report) evidence() *Evidence {
	e := &Evidence{Reason: r.Reason, Detail: r.Detail, Flow: r.Flow, Exact: r.Position.Exact, Absolute: r.Position.Absolute, Stream: r.Position.Stream}
	if r.Bytes != nil {
		e.Primary, e.Secondary, e.At = r.Bytes.Primary, r.Bytes.Secondary, r.Bytes.At
	}
	return e
}

func (c *Collector) compact() {
	kept := c.order[:0]
	for _, id := range c.order {
		if c.pending[id] != nil {
			kept = append(kept, id)
		}
	}
	c.order = kept
}

// takeDrops counts what did not fit the queue.
func (c *Collector) takeDrops() {
	if n := c.dropped.Swap(0); n > 0 {
		c.leftOut["queue"] += n
		c.count(func(s *Stats) { s.LeftOut["queue"] += n })
	}
}

func (c *Collector) leave(why string) {
	c.leftOut[why]++
	c.count(func(s *Stats) { s.LeftOut[why]++ })
}

func (c *Collector) failed(now time.Time, err error) {
	c.count(func(s *Stats) { s.Full = true })
	if now.Sub(c.warned) > time.Minute {
		c.warned = now
		c.opt.Failed(errors.Join(errors.New("reports of divergences are left out until the disk takes them again"), err))
	}
}

func (c *Collector) count(fn func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.stats)
}

func (c *Collector) storeStats() {
	st := c.store.Stats()
	c.count(func(s *Stats) { s.Bytes, s.Torn, s.Dropped = st.Bytes, st.Torn, st.Dropped })
}
