package frame

// Num is a number of a 32-bit space that wraps around: a TCP sequence number or timestamp (RFC 9293
// section 3.4, RFC 7323 section 5). Two numbers compare by their signed distance, so the order is
// meaningful within 2^31 only. Never compare raw values.
type Num uint32

// Add is n + d modulo 2^32.
func (n Num) Add(d uint32) Num { return n + Num(d) }

// Diff is the signed distance n - m.
func (n Num) Diff(m Num) int32 { return int32(n - m) }

// Before says that n comes before m.
func (n Num) Before(m Num) bool { return int32(n-m) < 0 }

// After says that n comes after m.
func (n Num) After(m Num) bool { return int32(n-m) > 0 }

// AtLeast says that n is m or after it.
func (n Num) AtLeast(m Num) bool { return int32(n-m) >= 0 }

// AtMost says that n is m or before it.
func (n Num) AtMost(m Num) bool { return int32(n-m) <= 0 }

// In says that n lies in [from, to).
func (n Num) In(from, to Num) bool { return uint32(n-from) < uint32(to-from) }

// Min is the earlier of the two.
func (n Num) Min(m Num) Num {
	if n.Before(m) {
		return n
	}
	return m
}

// Max is the later of the two.
func (n Num) Max(m Num) Num {
	if n.After(m) {
		return n
	}
	return m
}
