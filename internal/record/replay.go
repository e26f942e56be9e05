package record

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"colod/compare"
	"colod/internal/frame"
)

// Options of a replay.
type Options struct {
	// Other replaces the recorded tolerances by Tolerances; the outcome then differs on purpose and is not checked.
	Other      bool
	Tolerances []compare.Tolerance
	// Diverged is called with each divergence of the replay, at the time of the recording. May be nil.
	Diverged func(at time.Time, d *compare.Divergence)
}

// Result is what a replay found.
type Result struct {
	Header Header `json:"-"`
	// Recorded and Replayed are the two runs. Recorded has no bytes.
	Recorded Run `json:"recorded"`
	Replayed Run `json:"replayed"`
	Events   uint64
	Length   time.Duration // of the recording
	Took     time.Duration // of the replay
	// Same says that every answer was the recorded one; First names the first that was not.
	Same  bool
	First string
	// Whole says that the recording was ended in order and has no gap.
	Whole bool
	// Unanswered counts the questions of the replay to which the recording has no answer.
	Unanswered int
}

// Run counts the answers of an engine.
type Run struct {
	Releases    uint64            `json:"releases"`
	Bytes       uint64            `json:"bytes"`
	Messages    uint64            `json:"messages"`
	Divergences uint64            `json:"divergences"`
	ByReason    map[string]uint64 `json:"by_reason"`
	Tolerated   uint64            `json:"tolerated"`
	Checkpoints uint64            `json:"checkpoints"` // ended
	// Needed counts the epochs in which there was a divergence: each costs a checkpoint.
	Needed uint64 `json:"needed"`
	// Rules are the uses of the tolerances, in their order.
	Rules []compare.ToleranceStats `json:"rules,omitempty"`

	last     uint32 // highest number of a divergence
	epoch    uint32 // of the newest divergence
	diverged bool
}

func (r *Run) note(id, epoch uint32, reason compare.Reason) {
	if id <= r.last {
		return
	}
	r.last = id
	r.Divergences++
	r.ByReason[reason.String()]++
	if !r.diverged || epoch != r.epoch {
		r.Needed++
	}
	r.diverged, r.epoch = true, epoch
}

// Replay runs a recording. The error says that the file is no recording that can be used; a difference in the
// answers is not an error but in the result.
func Replay(in io.ReadSeeker, opt Options) (res *Result, err error) {
	defer func() {
		if r := recover(); r != nil { // a state that passed its checks and is none: the file was made by hand
			res, err = nil, fmt.Errorf("%w: the engine gave up: %v", ErrDamaged, r)
		}
	}()
	p := &player{opt: opt, res: &Result{Same: true}, raws: map[ask][]byte{}}
	p.res.Recorded.ByReason, p.res.Replayed.ByReason = map[string]uint64{}, map[string]uint64{}
	if opt.Other {
		if err := p.scanRaws(in); err != nil {
			return nil, err
		}
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	began := time.Now()
	r := bufio.NewReaderSize(in, 1<<20)
	if err := p.open(r); err != nil {
		return nil, err
	}
	start := p.mono
	err = blocks(r, func(rd *reader) error {
		for len(rd.b) > 0 && rd.err == nil && !p.finished {
			p.event(rd)
		}
		return rd.err
	})
	if err != nil {
		return nil, err
	}
	p.res.Took, p.res.Length = time.Since(began), time.Duration(p.mono-start)
	p.res.Replayed.Rules = p.e.Tolerances()
	if !p.finished {
		p.res.Whole = false
	}
	return p.res, nil
}

// blocks calls fn with each block of events. A torn end is where the recording ends.
func blocks(r io.Reader, fn func(*reader) error) error {
	var b []byte
	var err error
	for {
		b, err = readBlock(r, b)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, ErrDamaged):
			return nil
		case err != nil:
			return err
		}
		if err := fn(&reader{b: b}); err != nil {
			return err
		}
	}
}

// Info reads the header of a recording.
func Info(in io.Reader) (*Header, error) {
	h, _, err := begin(bufio.NewReader(in))
	return h, err
}

func begin(r io.Reader) (*Header, []byte, error) {
	line := make([]byte, len(magic))
	if _, err := io.ReadFull(r, line); err != nil || string(line) != magic {
		return nil, nil, ErrFormat
	}
	js, err := readBlock(r, nil)
	if err != nil {
		return nil, nil, ErrDamaged
	}
	h := new(Header)
	if err := json.Unmarshal(js, h); err != nil {
		return nil, nil, fmt.Errorf("%w: its header: %v", ErrDamaged, err)
	}
	state, err := readBlock(r, nil)
	if err != nil {
		return nil, nil, ErrDamaged
	}
	return h, state, nil
}

// player is a replay under way.
type player struct {
	opt      Options
	res      *Result
	e        *compare.Engine
	mono     int64
	ktime    int64
	finished bool

	desc      compare.Descriptor
	want, got outcome
	frames    [2][]*compare.Frame // given back: small and large
	raws      map[ask][]byte      // the recorded answers, with other tolerances
	start     time.Time
	startMono int64
}

func (p *player) open(r io.Reader) error {
	h, state, err := begin(r)
	if err != nil {
		return err
	}
	p.res.Header = *h
	cfg, err := h.config()
	if err != nil {
		return err
	}
	p.e = compare.NewEngine(cfg)
	if err := p.e.Restore(state); err != nil {
		if errors.Is(err, compare.ErrSnapshot) {
			return fmt.Errorf("%w: %v", ErrVersion, err)
		}
		return err
	}
	if p.opt.Other {
		p.e.SetTolerances(p.opt.Tolerances)
	}
	p.mono, p.ktime = h.Mono, h.Started.UnixNano()
	p.start, p.startMono = h.Started, h.Mono
	return nil
}

// scanRaws collects the recorded answers by their questions.
func (p *player) scanRaws(in io.ReadSeeker) error {
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(in, 1<<20)
	if _, _, err := begin(r); err != nil {
		return err
	}
	asks := map[uint32]ask{}
	var o outcome
	var d compare.Descriptor
	return blocks(r, func(rd *reader) error {
		for len(rd.b) > 0 && rd.err == nil {
			switch kind := rd.byte(); kind {
			case evOut:
				o.read(rd)
				for _, a := range o.asks {
					asks[a.id] = a
				}
			case evRaw:
				rd.int()
				id := uint32(rd.uint())
				rd.uint()
				rd.uint()
				data := rd.bytes()
				if a, ok := asks[id]; ok {
					a.id = 0
					p.raws[a] = append([]byte(nil), data...)
				}
			case evFinish:
				return nil
			default:
				skip(rd, kind, &d)
			}
		}
		return rd.err
	})
}

// skip passes over the fields of an event.
func skip(rd *reader, kind byte, d *compare.Descriptor) {
	switch kind {
	case evPrimary:
		rd.int()
		rd.int()
		rd.int()
		rd.bytes()
	case evInput:
		rd.int()
		rd.bytes()
	case evFlowDef:
		rd.uint()
		rd.key()
	case evDescriptor:
		rd.int()
		rd.descriptor(d)
	case evReceived:
		rd.int()
		rd.uint()
	case evEnd:
		rd.int()
		rd.int()
	case evLogged:
		rd.int()
		rd.key()
		rd.uint()
		rd.uint()
	case evBuffer:
		rd.byte()
	case evTick, evBudget, evBegin, evAbort, evSolo, evNotify:
		rd.int()
	default:
		rd.fail()
	}
}

func (p *player) now(rd *reader) int64 {
	p.mono += rd.int()
	return p.mono
}

// event gives one event to the engine.
func (p *player) event(rd *reader) {
	kind := rd.byte()
	if kind != evFinish {
		p.res.Events++
	}
	switch kind {
	case evPrimary:
		now := p.now(rd)
		p.ktime += rd.int()
		index, buf := rd.int(), rd.bytes()
		if rd.err != nil {
			return
		}
		f := p.frame(len(buf))
		copy(f.Buf, buf)
		f.KTime, f.Index = p.ktime, int(index)
		frame.Parse(f.Buf, &f.P)
		p.e.Primary(now, f)
	case evInput:
		now, buf := p.now(rd), rd.bytes()
		if rd.err == nil {
			var q frame.Parsed
			frame.Parse(buf, &q)
			p.e.Input(now, &q)
		}
	case evFlowDef:
		id := uint32(rd.uint())
		if key := rd.key(); rd.err == nil {
			p.e.FlowDef(id, key)
		}
	case evDescriptor:
		now := p.now(rd)
		if rd.descriptor(&p.desc); rd.err == nil {
			p.e.Descriptor(now, &p.desc)
		}
	case evRaw:
		now := p.now(rd)
		raw := compare.Raw{ID: uint32(rd.uint()), Flow: uint32(rd.uint()), Seq: frame.Num(rd.uint())}
		raw.Data = rd.bytes()
		if rd.err == nil && !p.opt.Other {
			p.e.Raw(now, &raw)
		}
	case evReceived:
		now := p.now(rd)
		if n := rd.uint(); rd.err == nil {
			p.e.Received(now, n)
		}
	case evLogged:
		now, key := p.now(rd), rd.key()
		seq, end := frame.Num(rd.uint()), frame.Num(rd.uint())
		if rd.err == nil {
			p.e.Logged(now, key, seq, end)
		}
	case evNotify:
		p.e.Notify(p.now(rd))
	case evBuffer:
		p.e.SetBuffer(rd.byte()&1 != 0)
	case evTick:
		p.e.Tick(p.now(rd))
	case evBudget:
		p.e.SetBudget(time.Duration(rd.int()))
	case evBegin:
		p.e.BeginCheckpoint(p.now(rd))
	case evEnd:
		now := p.now(rd)
		resume := p.ktime + rd.int()
		p.e.EndCheckpoint(now, resume)
		p.res.Recorded.Checkpoints++
		p.res.Replayed.Checkpoints++
	case evAbort:
		p.e.AbortCheckpoint(p.now(rd))
	case evSolo:
		p.e.Solo(p.now(rd))
	case evOut:
		p.want.read(rd)
		if rd.err == nil {
			p.out()
		}
	case evFinish:
		p.res.Whole, p.finished = rd.byte()&1 != 0, true
		if n := rd.uint(); n != p.res.Events {
			p.res.Whole = false
		}
	default:
		rd.fail()
	}
}

// out compares what the engine answers with what was recorded.
func (p *player) out() {
	out := p.e.Out()
	p.got.take(out)
	rec, rep := &p.res.Recorded, &p.res.Replayed
	rec.Releases += p.want.releases
	rec.Messages += p.want.messages
	rec.Tolerated += p.want.tolerated
	for i := range p.want.divergences {
		d := &p.want.divergences[i]
		rec.note(d.id, d.epoch, d.reason)
	}
	if !p.opt.Other && p.res.Same {
		if why := p.want.differs(&p.got); why != "" {
			p.res.Same = false
			p.res.First = fmt.Sprintf("event %d, %v after the beginning: %s", p.res.Events, time.Duration(p.mono-p.startMono).Round(time.Microsecond), why)
		}
	}
	p.count(out, rep)
	// With other tolerances the questions are answered at once: in the recording a checkpoint may have come first.
	for p.opt.Other && len(p.got.asks) > 0 {
		asks := append([]ask(nil), p.got.asks...)
		for _, a := range asks {
			id := a.id
			a.id = 0
			data, ok := p.raws[a]
			if !ok {
				p.res.Unanswered++
				continue
			}
			p.e.Raw(p.mono, &compare.Raw{ID: id, Flow: a.flow, Seq: a.seq, Data: data})
		}
		out = p.e.Out()
		p.got.take(out)
		p.count(out, rep)
	}
}

// count adds what out holds and takes the frames back.
func (p *player) count(out *compare.Out, rep *Run) {
	rep.Releases += uint64(len(out.Releases))
	rep.Messages += uint64(len(out.Messages))
	rep.Tolerated += uint64(len(out.Tolerated))
	for i := range out.Releases {
		r := &out.Releases[i]
		rep.Bytes += uint64(r.Len())
		if r.Last && r.F != nil {
			p.back(r.F)
		}
	}
	for i := range out.Divergences {
		d := &out.Divergences[i]
		rep.note(d.ID, d.Epoch, d.Reason)
		if p.opt.Diverged != nil {
			p.opt.Diverged(p.start.Add(time.Duration(p.mono-p.startMono)), d)
		}
	}
	for _, f := range out.Free {
		p.back(f)
	}
	out.Reset()
}

// differs says in which way got is not o, "" when it is.
func (o *outcome) differs(got *outcome) string {
	switch {
	case o.releases != got.releases:
		return fmt.Sprintf("%d frames released, recorded %d", got.releases, o.releases)
	case o.sum != got.sum:
		return "other bytes released"
	case o.messages != got.messages || o.msum != got.msum:
		return fmt.Sprintf("%d messages, recorded %d, or others", got.messages, o.messages)
	case o.freed != got.freed:
		return fmt.Sprintf("%d frames freed, recorded %d", got.freed, o.freed)
	case o.tolerated != got.tolerated:
		return fmt.Sprintf("%d differences tolerated, recorded %d", got.tolerated, o.tolerated)
	case len(o.divergences) != len(got.divergences):
		return fmt.Sprintf("%d divergences, recorded %d", len(got.divergences), len(o.divergences))
	}
	for i := range o.divergences {
		if o.divergences[i] != got.divergences[i] {
			return fmt.Sprintf("divergence %+v, recorded %+v", got.divergences[i], o.divergences[i])
		}
	}
	return ""
}

const smallFrame = 2048

func (p *player) frame(n int) *compare.Frame {
	class, size := 0, smallFrame
	if n > smallFrame {
		class, size = 1, 70<<10
	}
	if k := len(p.frames[class]); k > 0 && cap(p.frames[class][k-1].Buf) >= n {
		f := p.frames[class][k-1]
		p.frames[class] = p.frames[class][:k-1]
		f.Buf = f.Buf[:n]
		return f
	}
	return &compare.Frame{Buf: make([]byte, n, max(n, size))}
}

func (p *player) back(f *compare.Frame) {
	class := 0
	if cap(f.Buf) > smallFrame {
		class = 1
	}
	if len(p.frames[class]) < 4096 {
		p.frames[class] = append(p.frames[class], f)
	}
}
