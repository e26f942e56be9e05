// Package witness watches what leaves each node of a lab towards the clients,
// and proves from it alone that the nodes never said different things: whatever
// the daemons say of themselves, clients see only these frames.
//
// Judge is the pure half: frames in, verdict out. Witness reads the frames from
// the switch's ports, where each port is one node's.
package witness

import (
	"fmt"
	"time"

	"colod/internal/frame"
)

// Bounds of what a Judge remembers.
const (
	pageSize     = 4096
	reachBehind  = 8 << 20 // bytes of a stream behind its newest that are still compared
	maxFlows     = 4096
	maxRecent    = 256 // segments of a flow
	maxListed    = 64  // conflicts and turns described in a report
	maxTurnsKept = 4096
)

// Segment is one frame's part of a stream, as seen on one node's port.
type Segment struct {
	Node string    `json:"node"`
	Time time.Time `json:"time"`
	From uint64    `json:"from"` // position in the stream, from the first byte seen
	To   uint64    `json:"to"`
}

// Conflict is one position of a stream for which two different bytes left.
type Conflict struct {
	Flow     string    `json:"flow"`
	Kind     string    `json:"kind"` // bytes, syn: another initial sequence number for one connection, fin: data behind the end
	Position uint64    `json:"position"`
	Now      Segment   `json:"now"`
	Earlier  []Segment `json:"earlier"` // that held the position
}

// Reset is a TCP reset by the guest.
type Reset struct {
	Flow     string    `json:"flow"`
	Node     string    `json:"node"`
	Time     time.Time `json:"time"`
	Position int64     `json:"position"` // in the stream
	Top      uint64    `json:"top"`      // of the stream; 0 = nothing was said
	Ack      uint32    `json:"ack"`
}

// Turn is a stretch of time in which one node alone was heard.
type Turn struct {
	Node   string    `json:"node"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Frames uint64    `json:"frames"`
	First  string    `json:"first"` // what it began with
}

// Report is the verdict so far.
type Report struct {
	Frames    map[string]uint64 `json:"frames"`    // of the guest's, by node
	Bytes     map[string]uint64 `json:"bytes"`     // of TCP payload, by node
	Compared  uint64            `json:"compared"`  // bytes that left again and were compared
	Across    uint64            `json:"across"`    // of these, bytes that had left another node before
	Unchecked uint64            `json:"unchecked"` // bytes too far behind their stream to be compared
	Flows     uint64            `json:"flows"`     // TCP connections seen
	Resets    uint64            `json:"resets"`    // TCP resets by the guest
	Ended     []Reset           `json:"last_resets,omitempty"`
	Conflicts uint64            `json:"conflicts"`
	Listed    []Conflict        `json:"listed,omitempty"`
	Turns     uint64            `json:"turns"` // stretches of one speaker; each but the first is a change of speakers
	Last      []Turn            `json:"last_turns,omitempty"`
	Dropped   uint64            `json:"dropped"` // frames that the witness was too slow for: they are not judged
}

// Judge compares what several nodes send in one guest's name. It is not safe
// for use by several goroutines.
type Judge struct {
	r     Report
	flows map[frame.FlowKey]*flow
	turns []Turn
}

// NewJudge returns a Judge that has seen nothing.
func NewJudge() *Judge {
	return &Judge{
		r:     Report{Frames: map[string]uint64{}, Bytes: map[string]uint64{}},
		flows: map[frame.FlowKey]*flow{},
	}
}

// flow is one connection, the guest's side of it.
type flow struct {
	base   frame.Num // sequence number of position 0
	synAck frame.Num // the client's sequence number that the guest's SYN acknowledged
	hasSyn bool
	top    uint64 // position behind the newest byte
	seen   bool
	fin    uint64 // position of the end
	hasFin bool
	pages  map[uint64]*page
	recent []Segment
	used   time.Time
}

// page is a piece of a stream: what was seen of it, and by whom first.
type page struct {
	data [pageSize]byte
	have [pageSize / 8]byte
}

// Frame judges one frame of the guest's that left a node. buf holds an empty
// virtio-net header and the frame.
func (j *Judge) Frame(node string, at time.Time, buf []byte) {
	var p frame.Parsed
	frame.Parse(buf, &p)
	j.r.Frames[node]++
	j.turn(node, at, &p)
	if p.Kind != frame.KindTCP {
		return
	}
	key := p.Key(true)
	f := j.flows[key]
	if f == nil {
		j.makeRoom()
		f = &flow{pages: map[uint64]*page{}}
		j.flows[key] = f
		j.r.Flows++
	}
	f.used = at
	if p.Flags&frame.RST != 0 {
		j.r.Resets++
		j.r.Ended = append(j.r.Ended[max(0, len(j.r.Ended)-maxListed+1):], Reset{
			Flow: key.String(), Node: node, Time: at, Position: f.position(p.Seq), Top: f.top, Ack: uint32(p.Ack),
		})
		return
	}
	if p.Flags&frame.SYN != 0 {
		j.syn(f, key, node, at, &p)
		return
	}
	if !f.seen {
		f.base, f.seen = p.Seq, true
	}
	payload := buf[p.Payload:p.End]
	from := f.position(p.Seq)
	if from < 0 {
		j.r.Unchecked += uint64(len(payload))
		return
	}
	seg := Segment{Node: node, Time: at, From: uint64(from), To: uint64(from) + uint64(len(payload))}
	if len(payload) > 0 {
		j.r.Bytes[node] += uint64(len(payload))
		j.data(f, key, seg, payload)
	}
	if p.Flags&frame.FIN != 0 {
		if f.hasFin && f.fin != seg.To {
			j.conflict(f, key, "fin", min(f.fin, seg.To), seg)
		}
		f.fin, f.hasFin = seg.To, true
	}
	if f.hasFin && len(payload) > 0 && seg.To > f.fin {
		j.conflict(f, key, "fin", f.fin, seg)
	}
}

// syn begins a connection, or compares a repeated beginning.
func (j *Judge) syn(f *flow, key frame.FlowKey, node string, at time.Time, p *frame.Parsed) {
	seg := Segment{Node: node, Time: at}
	answer := p.Flags&frame.ACK != 0
	// The guest's own connection has no client's number to tell it by: one at a time, the same ports are the same one.
	same := f.hasSyn && f.top == 0 && (!answer || f.synAck == p.Ack)
	if same && f.base != p.Seq+1 {
		j.conflict(f, key, "syn", 0, seg)
	}
	if !same {
		*f = flow{pages: map[uint64]*page{}, used: at}
	}
	f.base, f.seen, f.hasSyn, f.synAck = p.Seq+1, true, true, p.Ack
	f.note(seg)
}

// position is where a sequence number lies in the stream; negative before its
// beginning.
func (f *flow) position(n frame.Num) int64 {
	return int64(f.top) + int64(int32(uint32(n)-uint32(f.base)-uint32(f.top)))
}

// data compares a segment with what was seen of its positions, and keeps it.
func (j *Judge) data(f *flow, key frame.FlowKey, seg Segment, b []byte) {
	across := f.another(seg)
	pos := seg.From
	bad := int64(-1)
	for len(b) > 0 {
		if pos+reachBehind < f.top {
			j.r.Unchecked++
			b, pos = b[1:], pos+1
			continue
		}
		pg := f.pages[pos/pageSize]
		if pg == nil {
			pg = &page{}
			f.pages[pos/pageSize] = pg
		}
		i := int(pos % pageSize)
		n := min(len(b), pageSize-i)
		for k := range n {
			at, bit := (i+k)/8, byte(1)<<((i+k)%8)
			if pg.have[at]&bit == 0 {
				pg.have[at] |= bit
				pg.data[i+k] = b[k]
				continue
			}
			j.r.Compared++
			if across {
				j.r.Across++
			}
			if pg.data[i+k] != b[k] && bad < 0 {
				bad = int64(pos) + int64(k)
			}
		}
		b, pos = b[n:], pos+uint64(n)
	}
	if bad >= 0 {
		j.conflict(f, key, "bytes", uint64(bad), seg)
	}
	f.top = max(f.top, seg.To)
	f.note(seg)
	if len(f.pages) > 2*reachBehind/pageSize {
		for n := range f.pages {
			if (n+1)*pageSize+reachBehind < f.top {
				delete(f.pages, n)
			}
		}
	}
}

// another tells that a remembered segment of another node touches this one.
func (f *flow) another(seg Segment) bool {
	for _, s := range f.recent {
		if s.Node != seg.Node && s.From < seg.To && seg.From < s.To {
			return true
		}
	}
	return false
}

func (f *flow) note(seg Segment) {
	if len(f.recent) == maxRecent {
		f.recent = append(f.recent[:0], f.recent[maxRecent/2:]...)
	}
	f.recent = append(f.recent, seg)
}

func (j *Judge) conflict(f *flow, key frame.FlowKey, kind string, at uint64, seg Segment) {
	j.r.Conflicts++
	if len(j.r.Listed) == maxListed {
		return
	}
	c := Conflict{Flow: key.String(), Kind: kind, Position: at, Now: seg}
	for _, s := range f.recent {
		if s.From <= at && at < s.To || kind == "syn" {
			c.Earlier = append(c.Earlier, s)
		}
	}
	j.r.Listed = append(j.r.Listed, c)
}

// turn notes who is heard.
func (j *Judge) turn(node string, at time.Time, p *frame.Parsed) {
	if n := len(j.turns); n > 0 && j.turns[n-1].Node == node {
		j.turns[n-1].To = at
		j.turns[n-1].Frames++
		return
	}
	if len(j.turns) == maxTurnsKept {
		j.turns = append(j.turns[:0], j.turns[maxTurnsKept/2:]...)
	}
	j.r.Turns++
	key := p.Key(true)
	what := fmt.Sprintf("%s, %d bytes", key.String(), p.End-p.Payload)
	j.turns = append(j.turns, Turn{Node: node, From: at, To: at, Frames: 1, First: what})
}

// makeRoom forgets the connection that was used least recently when there are
// too many.
func (j *Judge) makeRoom() {
	if len(j.flows) < maxFlows {
		return
	}
	var oldest frame.FlowKey
	var when time.Time
	for k, f := range j.flows {
		if when.IsZero() || f.used.Before(when) {
			oldest, when = k, f.used
		}
	}
	delete(j.flows, oldest)
}

// Report returns the verdict so far, with the last turns.
func (j *Judge) Report() Report {
	r := j.r
	r.Frames, r.Bytes = map[string]uint64{}, map[string]uint64{}
	for k, v := range j.r.Frames {
		r.Frames[k] = v
	}
	for k, v := range j.r.Bytes {
		r.Bytes[k] = v
	}
	r.Listed = append([]Conflict(nil), j.r.Listed...)
	r.Ended = append([]Reset(nil), j.r.Ended...)
	r.Last = append([]Turn(nil), j.turns[max(0, len(j.turns)-maxListed):]...)
	return r
}
