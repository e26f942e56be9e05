package failover

import (
	"context"
	"fmt"

	"colod/bench/rig"
	"colod/bench/vmlab"
	"colod/internal/lab"
)

// protectedPair is colod's system: one lab for all runs, protected again after each.
type protectedPair struct{ lab *lab.Lab }

func startColod(t *rig.TB, program string) (*protectedPair, error) {
	l, err := vmlab.Up(t, lab.Options{Program: program, Memory: memoryText, Timeout: beatTimeout})
	if err != nil {
		return nil, err
	}
	return &protectedPair{l}, nil
}

// lose loses the speaker's machine or node under the eyes of clients, and returns when the pair is protected again.
func (c *protectedPair) lose(ctx context.Context, loss string, p *pauses) error {
	if err := c.lab.AwaitState(ctx, "protected"); err != nil {
		return err
	}
	kind := lab.KillVM
	if loss == lossNode {
		kind = lab.KillNode
	}
	st, err := c.lab.Status(ctx)
	if err != nil {
		return err
	}
	err = p.watch(ctx, c.lab, func() error {
		_, err := c.lab.Fault(ctx, kind, st.Speaker)
		return err
	})
	if err != nil {
		return err
	}
	if loss == lossNode {
		if _, err := c.lab.Fault(ctx, lab.Heal, ""); err != nil {
			return err
		}
	}
	if err := c.lab.AwaitState(ctx, "protected"); err != nil {
		return fmt.Errorf("protect again: %w", err)
	}
	return nil
}
