package compare

import "colod/internal/frame"

// flow is what the engine knows of one flow. TCP numbers are in the primary's space, acknowledgements in the
// client's. As in dflow, what every segment needs comes first.
type flow struct {
	key   frame.FlowKey
	epoch uint32 // state below belongs to this epoch; see Engine.renew
	sid   uint32 // the secondary's number for it, 0 when not known
	held  int    // frames of it that are held

	touched  bool   // used since the eviction hand came by
	dead     bool   // not in the table any more
	dirty    bool   // in Engine.dirty
	soft     bool   // in Engine.soft, and owes it
	late     bool   // in Engine.late, and waits for it
	pSeen    bool   // the primary's guest has spoken in this connection
	reported uint32 // Engine.round in which a divergence was reported
	broken   uint32 // Engine.round in which the streams were found to differ
	pTime    int64  // kernel's time of the primary's newest frame, for reports
	sTime    int64  // kernel's time of the secondary's newest, by its host's clock
	next     *flow  // the secondary is ahead with a new connection on the same key
	tol      *tolerance
	swait    timer
	owed     timer

	t tcpState
	d dgramState
}

// tcpState is the state of one TCP connection.
type tcpState struct {
	// known says that v, pmax, rel and base are valid: the primary has sent stream bytes. Always
	// v <= pmax, and rel <= v unless a checkpoint or solo authority let out more.
	v       frame.Num // all before it is agreed on
	pmax    frame.Num // highest end that the primary sent
	rel     frame.Num // highest end released
	base    frame.Num // the first byte compared
	hint    frame.Num // highest sequence number of the primary; valid with hintOK
	una     frame.Num // highest acknowledgement by the client, never beyond what it was sent
	pFINSeq frame.Num
	sFINSeq frame.Num

	known    bool
	hintOK   bool
	unaOK    bool
	coverOK  bool
	pSYN     bool // the primary sent a SYN in this epoch
	sSYN     bool // the secondary did
	synOK    bool // the SYN was released
	issKnown bool
	pFIN     bool
	sFIN     bool
	rstOpen  bool // the secondary reset and the primary did not
	logOK    bool
	relOK    bool
	// winOwed says that a window update of the primary was released lowered or not at all.
	winOwed bool
	// crst says that the client has reset the connection: what the guests say in it is of no use to anyone, unless
	// the client goes on after all.
	crst    bool
	scale   uint8
	scaleOK bool
	hasTS   bool
	relTSOK bool

	relAck frame.Num
	relWin uint32    // released right edge minus relAck
	log    frame.Num // all of the client's before it is in the input log of the secondary's node; valid with logOK
	pTS    frame.Num
	pEcr   uint32
	relTS  frame.Num
	markTS frame.Num // relTS of the last watermark

	syn    *Frame         // the held SYN
	rst    *Frame         // the held reset
	held   queue[*Frame]  // waitData, by start
	again  queue[*Frame]  // waitAgain, by arrival
	pieces queue[piece]   // of the secondary, by seq, beyond v
	p, s   ackState       // what each guest has acknowledged
	tmpl   frame.Template // for acknowledgements that are made here

	covered   frame.Num // all before it needs no comparison: a checkpoint holds it; valid with coverOK
	iss       frame.Num
	synHasAck bool
	synAck    frame.Num // acknowledgement of the SYN+ACK: names the connection
	announced uint64    // number of its Announce
	pOpt      synOptions
	sOpt      synOptions
	ask       span // the open question at v, none when empty
	sRST      [4]rstMark
	nRST      int
}

// ackState is what one guest has said about the client's bytes.
type ackState struct {
	ok   bool
	ack  frame.Num
	win  uint16    // newest raw window
	edge frame.Num // newest ack plus scaled window
	same bool      // the newest segment repeated ack and win
	sack sackSet
}

// span is the range [seq, seq+n) of a stream.
type span struct {
	seq frame.Num
	n   uint32
}

// piece is a range that the secondary described.
type piece struct {
	span
	flow   uint32
	pos    uint64 // stream position for the nonce; the place in twin
	digest [DigestLen]byte
	twin   *Frame // the bytes themselves, nil: digest stands for them
}

func (p *piece) end() frame.Num { return p.seq.Add(p.n) }

// synOptions is what two SYNs must have in common.
type synOptions struct {
	mss      uint16
	wscale   int8
	sackPerm bool
	hasTS    bool
}

// rstMark is a reset that the secondary sent.
type rstMark struct {
	seq, ack frame.Num
}

// dgramState is the state of a flow of datagrams.
type dgramState struct {
	held queue[*Frame]
	said queue[said] // the secondary's that wait for a twin
	// Watermark: all of the secondary's below next are released, and next+1+i where bit i of mask is set; told says that
	// the other side knows. Of those further ahead, far+i where bit i of farMask is set; these are told once.
	next, mask   uint64
	told         bool
	far, farMask uint64
}

// said is a datagram of the secondary.
type said struct {
	index  uint64
	meta   uint64
	n      uint32
	flow   uint32
	digest [DigestLen]byte
}

// timer is an entry in a timerList.
type timer struct {
	prev, next *flow
	since      int64 // when the wait began
	place      int64 // since, when the entry got its place in the list
	in         bool  // in the list
	off        bool  // in the list, but not waiting
}

// waiting says that the flow waits for something.
func (t *timer) waiting() bool { return t.in && !t.off }

// timerList is a list of flows that wait equally long, in the order in which their waits began. A wait that ends
// and begins again with nearly every frame only flips a flag (rest); its entry is put in order when it gets to the
// head, so it may be found due late, by one wait at most.
type timerList struct {
	head, tail *flow
	of         func(*flow) *timer
}

// arm begins a wait unless there is one.
func (l *timerList) arm(fl *flow, now int64) {
	t := l.of(fl)
	if t.in {
		if t.off {
			t.off, t.since = false, now
		}
		return
	}
	t.in, t.off, t.since, t.place, t.prev, t.next = true, false, now, now, l.tail, nil
	if l.tail != nil {
		l.of(l.tail).next = fl
	} else {
		l.head = fl
	}
	l.tail = fl
}

// rest ends a wait and leaves the entry in its place.
func (l *timerList) rest(fl *flow) { l.of(fl).off = true }

// disarm ends a wait and takes the entry out.
func (l *timerList) disarm(fl *flow) {
	t := l.of(fl)
	if !t.in {
		return
	}
	if t.prev != nil {
		l.of(t.prev).next = t.next
	} else {
		l.head = t.next
	}
	if t.next != nil {
		l.of(t.next).prev = t.prev
	} else {
		l.tail = t.prev
	}
	*t = timer{}
}

// deadline is when the head may be due, 0 for an empty list.
func (l *timerList) deadline(budget int64) int64 {
	if l.head == nil {
		return 0
	}
	return l.of(l.head).place + budget
}

// due is a flow that has waited for budget, nil when there is none.
func (l *timerList) due(now, budget int64) *flow {
	for fl := l.head; fl != nil && l.of(fl).place+budget <= now; fl = l.head {
		t := *l.of(fl)
		if t.waiting() && t.since == t.place {
			return fl
		}
		l.disarm(fl)
		if t.waiting() {
			l.arm(fl, t.since)
		}
	}
	return nil
}

func (l *timerList) clear() {
	for l.head != nil {
		l.disarm(l.head)
	}
}

// idle says that nothing of fl is pending, so that forgetting it costs no more than a checkpoint later.
func (fl *flow) idle() bool {
	return fl.held == 0 && !fl.owed.in && !fl.swait.waiting() && fl.next == nil && fl.t.pieces.len() == 0 && !fl.dirty
}
