package qmp

import (
	"context"
	"time"
)

// PrepareSecondaryAt is [VM.PrepareSecondary] for any of QEMU's migration channels, such as tcp:198.51.100.2:4444. There is no
// relay on it: nothing counts, encrypts or can be cut. For comparisons.
func (v *VM) PrepareSecondaryAt(ctx context.Context, uri string) error {
	return v.prepareSecondary(ctx, uri)
}

// StartColoAt is [VM.StartColo] for any of QEMU's migration channels; see [VM.PrepareSecondaryAt].
func (v *VM) StartColoAt(ctx context.Context, uri string) (resumed time.Time, err error) {
	return v.startColo(ctx, uri)
}
