package coordinator

import "sync"

// lane carries out jobs one after the other on a goroutine of its own.
type lane struct {
	mu     sync.Mutex
	jobs   []func()
	wake   chan struct{}
	closed bool
	done   chan struct{}
}

func newLane() *lane {
	l := &lane{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go l.run()
	return l
}

// do queues a job. After close nothing is taken any more.
func (l *lane) do(job func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.jobs = append(l.jobs, job)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// close drops the jobs that have not begun, and waits for the one that has.
func (l *lane) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		l.jobs = nil
		close(l.wake)
	}
	l.mu.Unlock()
	<-l.done
}

func (l *lane) run() {
	defer close(l.done)
	for range l.wake {
		for {
			l.mu.Lock()
			if len(l.jobs) == 0 {
				l.mu.Unlock()
				break
			}
			job := l.jobs[0]
			l.jobs = l.jobs[1:]
			l.mu.Unlock()
			job()
		}
	}
}

// mailbox holds what the driver's loop has to look at. Posting never blocks,
// as some posters must not wait for the driver.
type mailbox struct {
	mu    sync.Mutex
	items []any
	wake  chan struct{}
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

func (b *mailbox) post(item any) {
	b.mu.Lock()
	b.items = append(b.items, item)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take returns all items; spare becomes the new, empty store.
func (b *mailbox) take(spare []any) []any {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	b.items = spare[:0]
	return items
}
