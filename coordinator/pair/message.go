package pair

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"colod/coordinator/arbiter"
)

// Message is what the machines of the two nodes say to each other. A
// message that is lost is repeated or made needless by the record; none of
// them gives anybody the right to speak.
type Message interface {
	// Kind is the message's name on the wire.
	Kind() string
	check() error
}

// Messages.
type (
	// Status tells where the sender stands. Sent at every change and at
	// every connection.
	Status struct {
		Boot       uint64 `json:"boot"` // run of colod
		State      State  `json:"state"`
		Role       Role   `json:"role"`
		Generation uint64 `json:"generation"` // of the record the sender knows
		HasVM      bool   `json:"has_vm"`
		Ready      bool   `json:"ready"`            // would prepare a secondary
		Paused     bool   `json:"paused,omitempty"` // the guest stands still by its operator's wish
		Session    string `json:"session,omitempty"`
		Reason     string `json:"reason,omitempty"`
		// Maintenance as the sender knows it; the one with the higher
		// revision counts. 0: never heard of.
		MaintenanceRev uint64 `json:"maintenance_rev,omitempty"`
		Maintenance    bool   `json:"maintenance,omitempty"`
		MaintenanceWhy string `json:"maintenance_why,omitempty"`
	}
	// Prepare asks a standby for a secondary. Guest is a fingerprint of what
	// the guest sees; Secret is the session's, made by the speaker's driver.
	Prepare struct {
		Session    string `json:"session"`
		Generation uint64 `json:"generation"`
		Guest      string `json:"guest"`
		Secret     string `json:"secret,omitempty"`
	}
	// Prepared says that the secondary waits for the state.
	Prepared struct {
		Session string `json:"session"`
	}
	// Refused says why there is no secondary.
	Refused struct {
		Session string `json:"session"`
		Reason  string `json:"reason"`
	}
	// Armed says that the record names the receiver as standby.
	Armed struct {
		Session string         `json:"session"`
		Record  arbiter.Record `json:"record"`
	}
	// Abort ends a session.
	Abort struct {
		Session string `json:"session"`
		Reason  string `json:"reason"`
	}
	// PeerVMDied says that the sender's VM is no more, not on purpose.
	PeerVMDied struct {
		Session    string `json:"session"`
		Generation uint64 `json:"generation"`
		Reason     string `json:"reason"`
	}
	// HandOver asks the secondary to take over, as planned: the sender's
	// guest stands still, or is ended, and says nothing more. With Check it
	// only asks whether the secondary could: it answers Prepared or Refused.
	HandOver struct {
		Check      bool   `json:"check,omitempty"`
		Session    string `json:"session"`
		Generation uint64 `json:"generation"`
		Reason     string `json:"reason"`
	}
	// PeerEnded says that the guest was ended on purpose.
	PeerEnded struct {
		Generation uint64 `json:"generation"`
		Reason     string `json:"reason"`
	}
	// COLOBroken says that the secondary is no longer fed, although its node is well.
	COLOBroken struct {
		Session string `json:"session"`
		Reason  string `json:"reason"`
	}
	// Reply says what became of a Request. Err is "" when it is fulfilled.
	Reply struct {
		Op  Op     `json:"op"`
		Err string `json:"err,omitempty"`
	}
	// Request passes an operator's wish on to the speaker.
	Request struct {
		Op Op `json:"op"`
		// GraceMS is for OpStop and OpDelete, in milliseconds.
		GraceMS int64  `json:"grace_ms,omitempty"`
		Target  string `json:"target,omitempty"` // for OpMigrate
		Role    Role   `json:"role,omitempty"`   // for OpMigrate
		On      bool   `json:"on,omitempty"`     // see Ask
	}
)

// Kinds on the wire.
func (Status) Kind() string     { return "status" }
func (Prepare) Kind() string    { return "prepare" }
func (Prepared) Kind() string   { return "prepared" }
func (Refused) Kind() string    { return "refused" }
func (Armed) Kind() string      { return "armed" }
func (Abort) Kind() string      { return "abort" }
func (PeerVMDied) Kind() string { return "vm-died" }
func (HandOver) Kind() string   { return "hand-over" }
func (PeerEnded) Kind() string  { return "ended" }
func (COLOBroken) Kind() string { return "colo-broken" }
func (Reply) Kind() string      { return "reply" }
func (Request) Kind() string    { return "request" }

// Bounds of what a peer may say.
const (
	maxSession = 64
	maxReason  = 1024
	maxGuest   = 128
	maxToken   = 128
	maxNode    = 253
)

func checkSession(s string) error {
	if s == "" || len(s) > maxSession {
		return fmt.Errorf("session of %d bytes, 1 to %d allowed", len(s), maxSession)
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("session %q has characters other than a-z, 0-9 and dash", s)
		}
	}
	return nil
}

func checkReason(s string) error {
	if len(s) > maxReason {
		return fmt.Errorf("reason of %d bytes, at most %d allowed", len(s), maxReason)
	}
	return nil
}

func (m Status) check() error {
	if _, ok := stateNames[m.State]; !ok {
		return fmt.Errorf("state %d is not known", m.State)
	}
	if m.Role > Secondary {
		return fmt.Errorf("role %d is not known", m.Role)
	}
	if m.Session != "" {
		if err := checkSession(m.Session); err != nil {
			return err
		}
	}
	return errors.Join(checkReason(m.Reason), checkReason(m.MaintenanceWhy))
}

func (m Prepare) check() error {
	if len(m.Guest) > maxGuest || len(m.Secret) > maxToken {
		return fmt.Errorf("guest or secret of %d and %d bytes is too long", len(m.Guest), len(m.Secret))
	}
	if m.Generation == 0 {
		return errors.New("generation 0")
	}
	return checkSession(m.Session)
}

func (m Prepared) check() error { return checkSession(m.Session) }

func (m Refused) check() error { return errors.Join(checkSession(m.Session), checkReason(m.Reason)) }

func (m Armed) check() error {
	return errors.Join(checkSession(m.Session), m.Record.Check(m.Record.Pair))
}

func (m Abort) check() error { return errors.Join(checkSession(m.Session), checkReason(m.Reason)) }

func (m PeerVMDied) check() error {
	return errors.Join(checkSession(m.Session), checkReason(m.Reason))
}

func (m HandOver) check() error {
	return errors.Join(checkSession(m.Session), checkReason(m.Reason))
}

func (m PeerEnded) check() error { return checkReason(m.Reason) }

func (m COLOBroken) check() error {
	return errors.Join(checkSession(m.Session), checkReason(m.Reason))
}

func (m Reply) check() error {
	if !slices.Contains(Ops, m.Op) {
		return fmt.Errorf("operation %q is not known", m.Op)
	}
	return checkReason(m.Err)
}

func (m Request) check() error {
	if !slices.Contains(Ops, m.Op) {
		return fmt.Errorf("operation %q is not known", m.Op)
	}
	if m.Role > Secondary || len(m.Target) > maxNode {
		return fmt.Errorf("role %d or target of %d bytes is out of range", m.Role, len(m.Target))
	}
	if m.GraceMS < 0 || m.GraceMS > 3600_000 {
		return fmt.Errorf("grace of %d ms is out of range", m.GraceMS)
	}
	return nil
}

// DecodeMessage reads a message of a kind; body is at most what the caller's
// framing allows. The error names what is wrong.
func DecodeMessage(kind string, body []byte) (Message, error) {
	switch kind {
	case "status":
		return decodeAs[Status](body)
	case "prepare":
		return decodeAs[Prepare](body)
	case "prepared":
		return decodeAs[Prepared](body)
	case "refused":
		return decodeAs[Refused](body)
	case "armed":
		return decodeAs[Armed](body)
	case "abort":
		return decodeAs[Abort](body)
	case "vm-died":
		return decodeAs[PeerVMDied](body)
	case "hand-over":
		return decodeAs[HandOver](body)
	case "reply":
		return decodeAs[Reply](body)
	case "ended":
		return decodeAs[PeerEnded](body)
	case "colo-broken":
		return decodeAs[COLOBroken](body)
	case "request":
		return decodeAs[Request](body)
	}
	return nil, fmt.Errorf("message kind %q is not known", kind)
}

func decodeAs[M Message](body []byte) (Message, error) {
	var m M
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("decode %s: %w", m.Kind(), err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("decode %s: something follows the message", m.Kind())
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("check %s: %w", m.Kind(), err)
	}
	return m, nil
}

// MarshalText writes the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a state's name.
func (s *State) UnmarshalText(b []byte) error {
	for k, n := range stateNames {
		if n == string(b) {
			*s = k
			return nil
		}
	}
	return fmt.Errorf("state %q is not known", b)
}

// MarshalText writes the role's name.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a role's name.
func (r *Role) UnmarshalText(b []byte) error {
	for _, k := range []Role{NoRole, Speaker, Secondary} {
		if k.String() == string(b) {
			*r = k
			return nil
		}
	}
	return fmt.Errorf("role %q is not known", b)
}
