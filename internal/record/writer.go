package record

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"colod/compare"
	"colod/internal/frame"
)

// Writer is a compare.Tap that makes a recording. Its methods of compare.Tap are called on the data path's thread and
// never block: when what they write is not taken in time, the recording ends there.
type Writer struct {
	head  []byte // header and state, as blocks
	cur   []byte // events, belongs to the data path's thread while it listens
	full  chan []byte
	spare chan []byte
	over  chan struct{} // closed when full was full
	ended bool

	mono, ktime int64 // of the event before
	events      uint64
	o           outcome
	quiet       bool // the event before was an empty outcome
}

// backlog bounds what waits to be written: 64 MiB of blocks.
const backlog = 256

// ErrSlow says that a recording was not written as fast as the traffic came.
var ErrSlow = errors.New("the recording could not be written fast enough and ends early; write it to a faster disk, or record less traffic")

// NewWriter begins a recording of an engine with the configuration cfg and the state state, at mono by the engine's
// clock and real by the kernel's, ns.
func NewWriter(h Header, cfg compare.Config, state []byte, mono, real int64) *Writer {
	h.Started, h.Mono, h.Key, h.HoldNS, h.Context = time.Unix(0, real).UTC(), mono, cfg.Key[:], int64(cfg.Hold), cfg.Context
	h.Tolerances = fromTolerances(cfg.Tolerances)
	w := &Writer{full: make(chan []byte, backlog), spare: make(chan []byte, backlog), over: make(chan struct{}), mono: mono, ktime: real}
	w.head = append(w.head, magic...)
	js, err := json.Marshal(&h)
	if err != nil {
		panic(err) // made of strings and numbers only
	}
	b := blockBuffer{&w.head}
	_ = writeBlock(b, js)
	_ = writeBlock(b, state)
	return w
}

// blockBuffer appends to a slice.
type blockBuffer struct{ b *[]byte }

func (w blockBuffer) Write(p []byte) (int, error) {
	*w.b = append(*w.b, p...)
	return len(p), nil
}

// begin begins an event at now.
func (w *Writer) begin(kind byte, now int64) {
	w.event(kind)
	w.cur = binary.AppendVarint(w.cur, now-w.mono)
	w.mono = now
}

func (w *Writer) event(kind byte) {
	if len(w.cur) >= blockLen {
		w.pass()
	}
	w.events++
	w.quiet = false
	w.cur = append(w.cur, kind)
}

// pass gives the block on.
func (w *Writer) pass() {
	if w.ended {
		w.cur = w.cur[:0]
		return
	}
	select {
	case w.full <- w.cur:
	default:
		w.ended = true
		close(w.over)
		w.cur = w.cur[:0]
		return
	}
	select {
	case w.cur = <-w.spare:
		w.cur = w.cur[:0]
	default:
		w.cur = make([]byte, 0, blockLen+80<<10)
	}
}

// Primary implements compare.Tap.
func (w *Writer) Primary(now int64, f *compare.Frame) {
	w.begin(evPrimary, now)
	w.cur = binary.AppendVarint(w.cur, f.KTime-w.ktime)
	w.ktime = f.KTime
	w.cur = binary.AppendVarint(w.cur, int64(f.Index))
	w.cur = appendBytes(w.cur, f.Buf)
}

// Input implements compare.Tap.
func (w *Writer) Input(now int64, buf []byte) {
	w.begin(evInput, now)
	w.cur = appendBytes(w.cur, buf)
}

// FlowDef implements compare.Tap.
func (w *Writer) FlowDef(id uint32, key frame.FlowKey) {
	w.event(evFlowDef)
	w.cur = binary.AppendUvarint(w.cur, uint64(id))
	w.cur = appendKey(w.cur, &key)
}

// Descriptor implements compare.Tap.
func (w *Writer) Descriptor(now int64, d *compare.Descriptor) {
	w.begin(evDescriptor, now)
	w.cur = appendDescriptor(w.cur, d)
}

// Raw implements compare.Tap.
func (w *Writer) Raw(now int64, raw compare.Raw) {
	w.begin(evRaw, now)
	w.cur = binary.AppendUvarint(w.cur, uint64(raw.ID))
	w.cur = binary.AppendUvarint(w.cur, uint64(raw.Flow))
	w.cur = binary.AppendUvarint(w.cur, uint64(raw.Seq))
	w.cur = appendBytes(w.cur, raw.Data)
}

// Received implements compare.Tap.
func (w *Writer) Received(now int64, n uint64) {
	w.begin(evReceived, now)
	w.cur = binary.AppendUvarint(w.cur, n)
}

// Tick implements compare.Tap.
func (w *Writer) Tick(now int64) { w.begin(evTick, now) }

// SetBudget implements compare.Tap.
func (w *Writer) SetBudget(d time.Duration) {
	w.event(evBudget)
	w.cur = binary.AppendVarint(w.cur, int64(d))
}

// SetBuffer implements compare.Tap.
func (w *Writer) SetBuffer(on bool) {
	w.event(evBuffer)
	w.cur = append(w.cur, bits(on))
}

// Logged implements compare.Tap.
func (w *Writer) Logged(now int64, key frame.FlowKey, seq, end frame.Num) {
	w.begin(evLogged, now)
	w.cur = appendKey(w.cur, &key)
	w.cur = binary.AppendUvarint(w.cur, uint64(seq))
	w.cur = binary.AppendUvarint(w.cur, uint64(end))
}

// Notify implements compare.Tap.
func (w *Writer) Notify(now int64) { w.begin(evNotify, now) }

// BeginCheckpoint implements compare.Tap.
func (w *Writer) BeginCheckpoint(now int64) { w.begin(evBegin, now) }

// EndCheckpoint implements compare.Tap.
func (w *Writer) EndCheckpoint(now, resume int64) {
	w.begin(evEnd, now)
	w.cur = binary.AppendVarint(w.cur, resume-w.ktime)
}

// AbortCheckpoint implements compare.Tap.
func (w *Writer) AbortCheckpoint(now int64) { w.begin(evAbort, now) }

// Solo implements compare.Tap.
func (w *Writer) Solo(now int64) { w.begin(evSolo, now) }

// Out implements compare.Tap.
func (w *Writer) Out(out *compare.Out) {
	w.o.take(out)
	if w.o.empty() {
		if w.quiet {
			return // nothing has happened in between
		}
		w.event(evOut)
		w.cur = w.o.append(w.cur)
		w.quiet = true
		return
	}
	w.event(evOut)
	w.cur = w.o.append(w.cur)
}

// Stream writes the recording to out until ctx ends. detach ends the listening and says whether the engine was the
// same all the time.
func (w *Writer) Stream(ctx context.Context, out io.Writer, flush func() error, detach func() (bool, error)) error {
	_, err := out.Write(w.head)
	w.head = nil
	for err == nil {
		select {
		case b := <-w.full:
			err = writeBlock(out, b)
			select {
			case w.spare <- b:
			default:
			}
			if len(w.full) == 0 && err == nil {
				err = flush()
			}
			continue
		case <-w.over:
			err = ErrSlow
		case <-ctx.Done():
		}
		break
	}
	whole, derr := detach()
	if derr != nil {
		return errors.Join(err, fmt.Errorf("end the recording: %w", derr))
	}
	// Nobody else writes from here on.
	slow := errors.Is(err, ErrSlow)
	if err != nil && !slow {
		return err
	}
	for {
		select {
		case b := <-w.full:
			if werr := writeBlock(out, b); werr != nil {
				return werr
			}
			continue
		default:
		}
		break
	}
	if w.ended {
		slow, w.cur = true, w.cur[:0] // what follows a gap is of no use
	}
	w.cur = append(w.cur, evFinish, bits(whole && !slow))
	w.cur = binary.AppendUvarint(w.cur, w.events)
	if werr := writeBlock(out, w.cur); werr != nil {
		return werr
	}
	if slow {
		return ErrSlow
	}
	return flush()
}
