package sim

// stream is one direction of a TCP connection: what is put in comes out in order, as long as it can.
type stream struct {
	w      *world
	q      []parcel
	last   int64
	active bool
	// passes says whether anything gets through now; a stream that is over lets all through, to nobody.
	passes func() bool
}

type parcel struct {
	at int64
	fn func()
}

// put lets fn happen at the other end after d ns, behind all that was put in before.
func (s *stream) put(d int64, fn func()) {
	s.last = max(s.last, s.w.now+d)
	s.q = append(s.q, parcel{s.last, fn})
	if !s.active {
		s.active = true
		s.w.after(s.last-s.w.now, s.pump)
	}
}

func (s *stream) pump() {
	for len(s.q) > 0 {
		switch head := s.q[0]; {
		case head.at > s.w.now:
			s.w.after(head.at-s.w.now, s.pump)
			return
		case !s.passes():
			s.w.after(40*ms, s.pump) // TCP repeats it
			return
		default:
			s.q[0] = parcel{}
			s.q = s.q[1:]
			head.fn()
		}
	}
	s.q, s.active = nil, false
}
