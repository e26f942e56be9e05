package qmp

import "context"

// Status is QEMU's run state.
type Status struct {
	Status  string `json:"status"` // running, paused, colo, inmigrate, postmigrate, shutdown...
	Running bool   `json:"running"`
}

// ColoStatus is the answer to query-colo-status. Its reason stays "none" after an error exit until
// the failover is done: rely on events for that.
type ColoStatus struct {
	Mode     string `json:"mode"` // none, primary, secondary
	LastMode string `json:"last-mode"`
	Reason   string `json:"reason"` // none, request, error, processing
}

// MigrationStatus is the part of query-migrate that stays filled in during COLO.
type MigrationStatus struct {
	Status    string `json:"status"` // "" before any migration; active, device, colo, completed, failed...
	ErrorDesc string `json:"error-desc"`
}

// QueryStatus returns the run state.
func (v *VM) QueryStatus(ctx context.Context) (Status, error) {
	var s Status
	err := v.mon.Run(ctx, "query-status", nil, &s)
	return s, err
}

// CPUThreads are the threads of the virtual CPUs, by their number on the host.
func (v *VM) CPUThreads(ctx context.Context) ([]int, error) {
	var cpus []struct {
		Thread int `json:"thread-id"`
	}
	if err := v.mon.Run(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return nil, err
	}
	tids := make([]int, len(cpus))
	for i, c := range cpus {
		tids[i] = c.Thread
	}
	return tids, nil
}

// QueryColo returns the COLO mode.
func (v *VM) QueryColo(ctx context.Context) (ColoStatus, error) {
	var s ColoStatus
	err := v.mon.Run(ctx, "query-colo-status", nil, &s)
	return s, err
}

// QueryMigrate returns the state of the last or present migration.
func (v *VM) QueryMigrate(ctx context.Context) (MigrationStatus, error) {
	var s MigrationStatus
	err := v.mon.Run(ctx, "query-migrate", nil, &s)
	return s, err
}

// Stop pauses the vCPUs. In COLO the next checkpoint silently undoes it.
func (v *VM) Stop(ctx context.Context) error { return v.mon.Run(ctx, "stop", nil, nil) }

// Cont starts the vCPUs again.
func (v *VM) Cont(ctx context.Context) error { return v.mon.Run(ctx, "cont", nil, nil) }

// Quit ends QEMU at once, with a SHUTDOWN event of reason host-qmp-quit: a planned end.
func (v *VM) Quit(ctx context.Context) error { return v.mon.Run(ctx, "quit", nil, nil) }

// SystemPowerdown presses the guest's power button; the guest decides.
func (v *VM) SystemPowerdown(ctx context.Context) error {
	return v.mon.Run(ctx, "system_powerdown", nil, nil)
}

// SystemReset presses the guest's reset button.
func (v *VM) SystemReset(ctx context.Context) error { return v.mon.Run(ctx, "system_reset", nil, nil) }
