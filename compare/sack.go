package compare

import "colod/internal/frame"

// sackSet is what one guest is known to have received beyond its acknowledgement: disjoint ranges of the
// client's space. When it is full it forgets the oldest, which only makes a released header say less.
type sackSet struct {
	n int
	b [8][2]frame.Num
}

func (s *sackSet) add(l, r frame.Num) {
	if !l.Before(r) {
		return
	}
	for i := 0; i < s.n; {
		b := s.b[i]
		if l.AtMost(b[1]) && b[0].AtMost(r) {
			l, r = l.Min(b[0]), r.Max(b[1])
			s.removeAt(i)
			continue
		}
		i++
	}
	if s.n == len(s.b) {
		s.removeAt(0)
	}
	s.b[s.n] = [2]frame.Num{l, r}
	s.n++
}

func (s *sackSet) removeAt(i int) {
	copy(s.b[i:s.n], s.b[i+1:s.n])
	s.n--
}

// prune forgets what ack covers.
func (s *sackSet) prune(ack frame.Num) {
	for i := 0; i < s.n; {
		if s.b[i][1].AtMost(ack) {
			s.removeAt(i)
			continue
		}
		i++
	}
}

// covers says whether [l, r) is known given all before ack.
func (s *sackSet) covers(ack, l, r frame.Num) bool {
	if r.AtMost(ack) {
		return true
	}
	if l.Before(ack) {
		l = ack
	}
	for i := range s.n {
		if s.b[i][0].AtMost(l) && r.AtMost(s.b[i][1]) {
			return true
		}
	}
	return false
}
