package qmp

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors that a caller decides on. All are wrapped with what was being done.
var (
	// ErrNoReply: QEMU did not answer in time. Whether the command took effect is not known. On a
	// side of COLO it usually means that the main loop waits for a frozen peer: cut the relay.
	ErrNoReply = errors.New("no reply in time, state unknown")
	// ErrClosed: the monitor's connection is gone, normally because QEMU ended.
	ErrClosed = errors.New("monitor connection closed")
	// ErrOverflow: a subscriber did not read its events, and some were lost to it.
	ErrOverflow = errors.New("event queue overflow")
	// ErrColoBroken: this QEMU ends a COLO migration as an ordinary one. The guest was continued.
	ErrColoBroken = errors.New("COLO is broken in this QEMU")
	// ErrColoExit: QEMU left COLO by itself (event COLO_EXIT); the other side or the stream is lost.
	ErrColoExit = errors.New("QEMU left COLO")
	// ErrVMRunning: the run directory belongs to a VM that is alive.
	ErrVMRunning = errors.New("VM is already running")
	// ErrNoVM: there is no live VM behind the run directory or socket.
	ErrNoVM = errors.New("no running VM")
	// ErrVMDied: the QEMU process ended.
	ErrVMDied = errors.New("QEMU ended")
)

// Error is the failure of one QMP command.
type Error struct {
	Command string        // QMP command name
	Class   string        // QEMU's error class, such as GenericError; empty when QEMU did not answer
	Desc    string        // QEMU's own sentence; empty when QEMU did not answer
	Elapsed time.Duration // from the call to the failure
	Cause   error         // ErrNoReply, ErrClosed, a context's error...; nil when QEMU answered
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s: ", e.Command)
	if e.Cause != nil {
		b.WriteString(e.Cause.Error())
	} else {
		b.WriteString(e.Desc)
		if e.Class != "" && e.Class != "GenericError" {
			fmt.Fprintf(&b, " (%s)", e.Class)
		}
	}
	if e.Elapsed >= 100*time.Millisecond {
		fmt.Fprintf(&b, " after %v", e.Elapsed.Round(time.Millisecond))
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Cause }

// refused reports whether QEMU answered err's command with an error whose text contains part.
func refused(err error, part string) bool {
	var e *Error
	return errors.As(err, &e) && e.Cause == nil && strings.Contains(e.Desc, part)
}

// ColoBrokenError says how a QEMU was found to be unable to run COLO. It wraps [ErrColoBroken].
type ColoBrokenError struct {
	Version Version
	Seen    string // what was seen of it
}

func (e *ColoBrokenError) Error() string {
	return fmt.Sprintf("start COLO: QEMU %s cannot run COLO (%s); its guest runs on unprotected: "+
		"use QEMU 7.2, 10.0.13 or 11.1 on both nodes", e.Version, e.Seen)
}

func (e *ColoBrokenError) Unwrap() error { return ErrColoBroken }

// MigrationError is a state migration that failed before COLO began. The guest runs on.
type MigrationError struct {
	Status string // failed, cancelled...
	Desc   string // QEMU's error-desc, may be empty
}

func (e *MigrationError) Error() string {
	if e.Desc == "" {
		return "start COLO: migration " + e.Status
	}
	return fmt.Sprintf("start COLO: migration %s: %s", e.Status, e.Desc)
}
