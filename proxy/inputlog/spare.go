package inputlog

import "slices"

// spareSizes are the capacities of buffers (bytes): those of common frames, and the longest.
var spareSizes = [...]int{128, 256, 512, 1024, 1664, 4096, 16384, 69632}

// maxSpare bounds the buffers that wait for their next use (bytes).
const maxSpare = 4 << 20

// spare keeps the buffers of entries that have gone, so that a frame that is logged leaves no garbage.
type spare struct {
	free  [len(spareSizes)][][]byte
	bytes int
}

// copyOf is a copy of buf, in a buffer that was in use before if there is one.
func (s *spare) copyOf(buf []byte) []byte {
	i := slices.IndexFunc(spareSizes[:], func(size int) bool { return len(buf) <= size })
	if i < 0 {
		return slices.Clone(buf)
	}
	if n := len(s.free[i]); n > 0 {
		b := s.free[i][n-1]
		s.free[i][n-1] = nil
		s.free[i] = s.free[i][:n-1]
		s.bytes -= cap(b)
		return append(b, buf...)
	}
	return append(make([]byte, 0, spareSizes[i]), buf...)
}

// put takes a buffer that nobody looks at any more.
func (s *spare) put(buf []byte) {
	if i := slices.Index(spareSizes[:], cap(buf)); i >= 0 && s.bytes+cap(buf) <= maxSpare {
		s.free[i] = append(s.free[i], buf[:0])
		s.bytes += cap(buf)
	}
}
