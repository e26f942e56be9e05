package qmp

import (
	"context"
	"errors"
	"fmt"
)

// Yank breaks QEMU's state stream out of band, which works even while the main loop hangs reading
// from a peer that froze. It goes over the second monitor, or, where that is gone or was never there,
// over the main one. No stream to break is no error.
func (v *VM) Yank(ctx context.Context) error {
	args := map[string]any{"instances": []any{map[string]string{"type": "migration"}}}
	var errs []error
	for _, m := range []*Monitor{v.emergency(ctx), v.mon} {
		if m == nil {
			continue
		}
		err := m.RunOOB(ctx, "yank", args, nil)
		if err == nil || errClass(err) == "DeviceNotFound" {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("yank state stream: %w", errors.Join(errs...))
}

// emergency returns the second monitor, connected again if need be; nil when there is none.
func (v *VM) emergency(ctx context.Context) *Monitor {
	v.oobMu.Lock()
	defer v.oobMu.Unlock()
	if v.reg.OOB == "" {
		return nil
	}
	if v.oob != nil && v.oob.Err() == nil {
		return v.oob
	}
	ctx, cancel := context.WithTimeout(ctx, hangAfter)
	defer cancel()
	m, err := Dial(ctx, v.reg.OOB, nil)
	if err != nil {
		return nil
	}
	v.oob = m
	return m
}

func errClass(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ""
}
