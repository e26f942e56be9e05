package sim

// task is something that happens at a time.
type task struct {
	at  int64
	seq uint64
	fn  func()
}

// queue is a binary heap of tasks: the earliest first, and in the order of entry among equals.
type queue struct {
	t   []task
	seq uint64
}

func (q *queue) less(i, j int) bool {
	a, b := &q.t[i], &q.t[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *queue) push(at int64, fn func()) {
	q.seq++
	q.t = append(q.t, task{at, q.seq, fn})
	for i := len(q.t) - 1; i > 0; {
		p := (i - 1) / 2
		if !q.less(i, p) {
			break
		}
		q.t[i], q.t[p] = q.t[p], q.t[i]
		i = p
	}
}

func (q *queue) pop() task {
	top := q.t[0]
	n := len(q.t) - 1
	q.t[0] = q.t[n]
	q.t[n] = task{}
	q.t = q.t[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && q.less(c+1, c) {
			c++
		}
		if !q.less(c, i) {
			break
		}
		q.t[i], q.t[c] = q.t[c], q.t[i]
		i = c
	}
	return top
}

// arena gives out memory that lives as long as one story.
type arena struct {
	slabs [][]byte
	slab  int
	used  int
}

const slabSize = 1 << 20

func (a *arena) get(n int) []byte {
	if len(a.slabs) == 0 || a.used+n > slabSize {
		if len(a.slabs) > 0 {
			a.slab++
		}
		if a.slab == len(a.slabs) {
			a.slabs = append(a.slabs, make([]byte, slabSize))
		}
		a.used = 0
	}
	b := a.slabs[a.slab][a.used : a.used+n : a.used+n]
	a.used += n
	return b
}

func (a *arena) copy(b []byte) []byte {
	c := a.get(len(b))
	copy(c, b)
	return c
}
