package netfilter

import "fmt"

// Mode says who carries the frames of a guest between its tap and the bridge.
type Mode uint8

const (
	// Pass lets the kernel carry both directions; nobody else is needed.
	Pass Mode = iota + 1
	// Steal lets the kernel carry frames to the guest, and drops frames from the guest after the packet sockets on the
	// tap have seen them: they leave only if somebody sends them out of the uplink.
	Steal
	// StealBoth drops both directions after the packet sockets on tap and uplink have seen them; somebody else carries
	// both.
	StealBoth
	// Mute is for a guest that must neither speak nor hear. In the kernel it is the same as StealBoth.
	Mute
)

func (m Mode) String() string {
	switch m {
	case Pass:
		return "pass"
	case Steal:
		return "steal"
	case StealBoth:
		return "steal-both"
	case Mute:
		return "mute"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// open says which directions the kernel carries in a mode.
func (m Mode) open() (fromGuest, toGuest bool) { return m == Pass, m == Pass || m == Steal }
