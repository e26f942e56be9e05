package qmp

import "encoding/json"

// ResetReason returns the cause of a RESET event, such as guest-reset or host-qmp-system-reset; "" for any other event.
func (e Event) ResetReason() string {
	if e.Name != EventReset {
		return ""
	}
	var d struct{ Reason string }
	_ = json.Unmarshal(e.Data, &d) // an unreadable one is no reason
	return d.Reason
}

// MigrationStatus returns the status of a MIGRATION event, such as setup, active, completed or failed; "" for any other
// event.
func (e Event) MigrationStatus() string {
	if e.Name != EventMigration {
		return ""
	}
	var d struct{ Status string }
	_ = json.Unmarshal(e.Data, &d) // an unreadable one is no status
	return d.Status
}
