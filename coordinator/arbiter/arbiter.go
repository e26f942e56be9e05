// Package arbiter keeps the one record a pair that decides who may speak.
//
// A record changes only by compare-and-swap, and its generation grows with
// every change. Whoever wants a role swaps the record first and takes the
// role only after having won: that is the whole protection against two
// speakers. There are no leases and no clocks here.
package arbiter

import (
	"context"
	"errors"
	"fmt"
)

// Record says who speaks for a pair. The zero Record means that there is none yet.
type Record struct {
	Pair       string `json:"pair"`
	Generation uint64 `json:"generation"` // from 1, grows with every change
	Speaker    string `json:"speaker"`    // node that may speak
	Standby    string `json:"standby"`    // node that may take over; "" = none
	Ended      bool   `json:"ended"`      // the guest was ended on purpose: nobody speaks or takes over
	Reason     string `json:"reason"`     // the sentence that goes with the last change
}

// Exists reports whether there is a record at all.
func (r Record) Exists() bool { return r.Generation != 0 }

func (r Record) String() string {
	if !r.Exists() {
		return "no record"
	}
	s := fmt.Sprintf("generation %d, speaker %s", r.Generation, r.Speaker)
	if r.Standby != "" {
		s += ", standby " + r.Standby
	}
	if r.Ended {
		s += ", ended"
	}
	return s
}

// Check reports why r cannot be a record of pair.
func (r Record) Check(pair string) error {
	switch {
	case r.Pair != pair:
		return fmt.Errorf("record is of pair %q, not %q", r.Pair, pair)
	case r.Generation == 0:
		return errors.New("record has generation 0")
	case r.Speaker == "":
		return errors.New("record names no speaker")
	case r.Standby == r.Speaker:
		return fmt.Errorf("record names %q as both speaker and standby", r.Speaker)
	case r.Ended && r.Standby != "":
		return errors.New("record is ended but names a standby")
	}
	return nil
}

// Errors that a caller decides on.
var (
	// ErrLost says that the swap did not happen because the record is not
	// the expected one. The current record comes with it.
	ErrLost = errors.New("record was changed by another node")
	// ErrUnknown says that it is not known whether the swap happened: read
	// the record before anything else.
	ErrUnknown = errors.New("outcome of the swap is unknown")
)

// Unknown reports whether after this error of Swap nobody can tell if the record was changed: also the caller's own
// deadline may have passed in the middle.
func Unknown(err error) bool {
	return errors.Is(err, ErrUnknown) || errors.Is(err, context.DeadlineExceeded)
}

// Arbiter holds the records. Implementations are safe for use by many goroutines.
type Arbiter interface {
	// Get reads the record; a Record that does not exist and no error when
	// there is none.
	Get(ctx context.Context, pair string) (Record, error)
	// Swap replaces prev by next if prev is still the record, as a whole. It
	// returns the record that is current afterwards, with ErrLost if that is
	// not next, or ErrUnknown if nobody can tell. Any other error means that
	// nothing was changed. next.Generation must be prev.Generation+1.
	Swap(ctx context.Context, prev, next Record) (Record, error)
	// Close gives up what the arbiter holds.
	Close() error
}

// checkSwap refuses a swap that no correct caller asks for.
func checkSwap(prev, next Record) error {
	if err := next.Check(next.Pair); err != nil {
		return err
	}
	if next.Generation != prev.Generation+1 {
		return fmt.Errorf("generation %d does not follow %d", next.Generation, prev.Generation)
	}
	if prev.Exists() && prev.Pair != next.Pair {
		return fmt.Errorf("records of two pairs, %q and %q", prev.Pair, next.Pair)
	}
	return nil
}
