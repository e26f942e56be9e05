package compare

import "colod/internal/frame"

// wait says what a held frame waits for.
type wait uint8

const (
	waitNone     wait = iota
	waitData          // the stream range [start, end) has to be agreed on
	waitAgain         // a repetition of agreed bytes has to be compared with the secondary's
	waitSYN           // the connection has to be agreed on and announced
	waitRST           // the secondary has to reset too
	waitDatagram      // a datagram has to be matched
	waitQueue         // the end of a checkpoint
)

// heldLink is what the package keeps in a lent frame.
type heldLink struct {
	prev, next *Frame
	fl         *flow
	start, end frame.Num // range of the stream, FIN counted, that is still to be released
	arrived    int64
	index      uint64 // of a datagram
	wait       wait
	agreed     bool // a datagram that is matched but not first in its flow
}

// frameList is a list of lent frames in order of arrival. A frame is in one list at most.
type frameList struct {
	head, tail *Frame
	n          int
	bytes      int64
}

func (l *frameList) push(f *Frame) {
	f.link.prev, f.link.next = l.tail, nil
	if l.tail != nil {
		l.tail.link.next = f
	} else {
		l.head = f
	}
	l.tail = f
	l.n++
	l.bytes += int64(len(f.Buf))
}

func (l *frameList) remove(f *Frame) {
	if f.link.prev != nil {
		f.link.prev.link.next = f.link.next
	} else {
		l.head = f.link.next
	}
	if f.link.next != nil {
		f.link.next.link.prev = f.link.prev
	} else {
		l.tail = f.link.prev
	}
	f.link.prev, f.link.next = nil, nil
	l.n--
	l.bytes -= int64(len(f.Buf))
}

func (l *frameList) pop() *Frame {
	f := l.head
	if f != nil {
		l.remove(f)
	}
	return f
}

// queue is a sequence that is used at both ends and keeps its memory.
type queue[T any] struct {
	s    []T
	head int
}

func (q *queue[T]) len() int    { return len(q.s) - q.head }
func (q *queue[T]) at(i int) *T { return &q.s[q.head+i] }
func (q *queue[T]) reset()      { clear(q.s); q.s, q.head = q.s[:0], 0 }

func (q *queue[T]) push(v T) {
	if len(q.s) == cap(q.s) && q.head > 0 {
		n := copy(q.s, q.s[q.head:])
		clear(q.s[n:])
		q.s, q.head = q.s[:n], 0
	}
	q.s = append(q.s, v)
}

// drop removes the first n.
func (q *queue[T]) drop(n int) {
	clear(q.s[q.head : q.head+n])
	q.head += n
	if q.head == len(q.s) {
		q.s, q.head = q.s[:0], 0
	}
}

func (q *queue[T]) insert(i int, v T) {
	q.push(v)
	if n := q.len(); i < n-1 {
		s := q.s[q.head:]
		copy(s[i+1:], s[i:n-1])
		s[i] = v
	}
}

func (q *queue[T]) remove(i int) {
	if i == 0 {
		q.drop(1)
		return
	}
	s := q.s[q.head:]
	copy(s[i:], s[i+1:])
	clear(q.s[len(q.s)-1:])
	q.s = q.s[:len(q.s)-1]
}
