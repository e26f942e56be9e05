package coordinator

import "sync"

// hub keeps the last events and passes new ones to whoever listens.
type hub struct {
	mu     sync.Mutex
	recent []Event
	last   uint64      // ID given last
	keep   func(Event) // keeps events on disk; may be nil
	subs   map[chan Event]struct{}
}

const (
	hubRecent = 256 // events kept for those who come later
	hubQueue  = 256 // events a slow listener may lag behind before it is cut off
)

func newHub() *hub { return &hub{subs: map[chan Event]struct{}{}} }

// publish passes an event on. Routine ones, of which there are many, are not
// kept for those who come later.
func (h *hub) publish(e Event, routine bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	e.ID, e.Routine = h.last, routine
	if !routine {
		if h.keep != nil {
			h.keep(e)
		}
		if len(h.recent) == hubRecent {
			h.recent = append(h.recent[:0], h.recent[1:]...)
		}
		h.recent = append(h.recent, e)
	}
	for ch := range h.subs {
		select {
		case ch <- e:
		default:
			delete(h.subs, ch)
			close(ch)
		}
	}
}

// listen returns the recent events and a channel of those to come, which is
// closed for a listener that is too slow.
func (h *hub) listen() ([]Event, chan Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch := make(chan Event, hubQueue)
	h.subs[ch] = struct{}{}
	return append([]Event(nil), h.recent...), ch
}

func (h *hub) leave(ch chan Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.subs[ch]; ok {
		delete(h.subs, ch)
		close(ch)
	}
}
