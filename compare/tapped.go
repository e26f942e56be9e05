package compare

import (
	"time"

	"colod/internal/frame"
)

// Tap sees everything that an Engine is told, in order and before the engine sees it, and everything that it answers.
// Nothing given to it may be kept.
type Tap interface {
	Primary(now int64, f *Frame)
	Input(now int64, buf []byte)
	FlowDef(id uint32, key frame.FlowKey)
	Descriptor(now int64, d *Descriptor)
	Raw(now int64, raw Raw)
	Received(now int64, n uint64)
	Logged(now int64, key frame.FlowKey, seq, end frame.Num)
	Notify(now int64)
	Tick(now int64)
	SetBudget(d time.Duration)
	SetBuffer(on bool)
	BeginCheckpoint(now int64)
	EndCheckpoint(now, resume int64)
	AbortCheckpoint(now int64)
	Solo(now int64)
	Out(out *Out)
}

// Tapped is an Engine that a Tap can listen to. Without one it costs a comparison a call.
type Tapped struct {
	Engine
	tap Tap
}

// NewTapped makes an engine as NewEngine does.
func NewTapped(cfg Config) *Tapped { return &Tapped{Engine: *NewEngine(cfg)} }

// SetTap lets tap listen from now on; nil ends it. It returns the one before.
func (t *Tapped) SetTap(tap Tap) Tap {
	was := t.tap
	t.tap = tap
	return was
}

// Primary is Engine.Primary.
func (t *Tapped) Primary(now int64, f *Frame) {
	if t.tap != nil {
		t.tap.Primary(now, f)
	}
	t.Engine.Primary(now, f)
}

// Input is Engine.Input; buf is the frame that p was parsed from.
func (t *Tapped) Input(now int64, buf []byte, p *frame.Parsed) {
	if t.tap != nil {
		t.tap.Input(now, buf)
	}
	t.Engine.Input(now, p)
}

// FlowDef is Engine.FlowDef.
func (t *Tapped) FlowDef(id uint32, key frame.FlowKey) {
	if t.tap != nil {
		t.tap.FlowDef(id, key)
	}
	t.Engine.FlowDef(id, key)
}

// Descriptor is Engine.Descriptor.
func (t *Tapped) Descriptor(now int64, d *Descriptor) {
	if t.tap != nil {
		t.tap.Descriptor(now, d)
	}
	t.Engine.Descriptor(now, d)
}

// Raw is Engine.Raw.
func (t *Tapped) Raw(now int64, raw *Raw) {
	if t.tap != nil {
		t.tap.Raw(now, *raw)
	}
	t.Engine.Raw(now, raw)
}

// Received is Engine.Received.
func (t *Tapped) Received(now int64, n uint64) {
	if t.tap != nil {
		t.tap.Received(now, n)
	}
	t.Engine.Received(now, n)
}

// Logged is Engine.Logged.
func (t *Tapped) Logged(now int64, key frame.FlowKey, seq, end frame.Num) {
	if t.tap != nil {
		t.tap.Logged(now, key, seq, end)
	}
	t.Engine.Logged(now, key, seq, end)
}

// Notify is Engine.Notify. The tap is told when it has an effect.
func (t *Tapped) Notify(now int64) {
	if t.tap != nil && len(t.soft)+len(t.late) > 0 {
		t.tap.Notify(now)
	}
	t.Engine.Notify(now)
}

// Tick is Engine.Tick.
func (t *Tapped) Tick(now int64) {
	if t.tap != nil {
		t.tap.Tick(now)
	}
	t.Engine.Tick(now)
}

// SetBudget is Engine.SetBudget.
func (t *Tapped) SetBudget(d time.Duration) {
	if t.tap != nil {
		t.tap.SetBudget(d)
	}
	t.Engine.SetBudget(d)
}

// SetBuffer is Engine.SetBuffer.
func (t *Tapped) SetBuffer(on bool) {
	if t.tap != nil {
		t.tap.SetBuffer(on)
	}
	t.Engine.SetBuffer(on)
}

// BeginCheckpoint is Engine.BeginCheckpoint.
func (t *Tapped) BeginCheckpoint(now int64) {
	if t.tap != nil {
		t.tap.BeginCheckpoint(now)
	}
	t.Engine.BeginCheckpoint(now)
}

// EndCheckpoint is Engine.EndCheckpoint.
func (t *Tapped) EndCheckpoint(now, resume int64) {
	if t.tap != nil {
		t.tap.EndCheckpoint(now, resume)
	}
	t.Engine.EndCheckpoint(now, resume)
}

// AbortCheckpoint is Engine.AbortCheckpoint.
func (t *Tapped) AbortCheckpoint(now int64) {
	if t.tap != nil {
		t.tap.AbortCheckpoint(now)
	}
	t.Engine.AbortCheckpoint(now)
}

// Solo is Engine.Solo.
func (t *Tapped) Solo(now int64) {
	if t.tap != nil {
		t.tap.Solo(now)
	}
	t.Engine.Solo(now)
}

// Out is Engine.Out. The tap sees the result each time.
func (t *Tapped) Out() *Out {
	out := t.Engine.Out()
	if t.tap != nil {
		t.tap.Out(out)
	}
	return out
}
