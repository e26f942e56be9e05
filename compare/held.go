package compare

// heldLink is what the package keeps in a lent frame.
type heldLink struct {
	prev, next *Frame
}
