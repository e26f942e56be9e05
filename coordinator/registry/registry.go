// Package registry says what is known of all nodes and pairs of one arbiter, for the operator's view of the whole and
// for the choice of a node.
//
// It is a notice board: every node writes what it knows of itself, again and again, and nobody's right to speak depends
// on it. An entry stays until it is forgotten, as a node that is silent is what an operator looks for; Updated tells how
// old it is by the writer's clock.
package registry

import (
	"context"
	"encoding/json"
	"time"

	"colod/coordinator/arbiter"
)

// Node is what a node says of itself.
type Node struct {
	Name    string    `json:"name"`
	Address string    `json:"address"`         // where other nodes reach it, host:port
	Paths   []string  `json:"paths,omitempty"` // its addresses on further networks
	Boot    uint64    `json:"boot"`            // run of colod
	Updated time.Time `json:"updated"`

	Colod    string   `json:"colod,omitempty"`  // version
	Domain   string   `json:"domain,omitempty"` // failure domain: nodes with the same one may fail together
	QEMU     string   `json:"qemu,omitempty"`   // version
	Accel    []string `json:"accel,omitempty"`  // kvm, tcg
	CPU      string   `json:"cpu,omitempty"`    // model name of the host
	CPUs     int      `json:"cpus,omitempty"`
	CPUFlags []string `json:"cpu_flags,omitempty"` // as in /proc/cpuinfo
	Machines []string `json:"machines,omitempty"`  // QEMU machine types
	Models   []string `json:"models,omitempty"`    // QEMU CPU models
	MemTotal uint64   `json:"mem_total,omitempty"` // bytes
	MemFree  uint64   `json:"mem_free,omitempty"`  // bytes available for guests
	Pairs    []string `json:"pairs,omitempty"`     // in which it takes part
	Running  int      `json:"running,omitempty"`   // VMs there
	Spare    bool     `json:"spare,omitempty"`     // takes secondaries of pairs that do not list it
	// Maintenance is why the node wants no guests at present; "" = it does.
	Maintenance string `json:"maintenance,omitempty"`
}

// View is what one node sees of one pair.
type View struct {
	Pair       string    `json:"pair"`
	Node       string    `json:"node"`
	State      string    `json:"state"`
	Role       string    `json:"role"`
	Generation uint64    `json:"generation"` // of the record that the node knows
	Protected  bool      `json:"protected"`
	Reason     string    `json:"reason,omitempty"`
	Since      time.Time `json:"since"` // of State
	Updated    time.Time `json:"updated"`
}

// Pair is a pair's record together with what its nodes see.
type Pair struct {
	Name   string         `json:"name"`
	Record arbiter.Record `json:"record"`           // does not exist if there is none yet
	Broken string         `json:"broken,omitempty"` // why the record cannot be read
	Views  []View         `json:"views"`            // ordered by node
}

// Spec is the description of a pair, for nodes that have none in their
// configuration.
type Spec struct {
	Pair    string          `json:"pair"`
	Node    string          `json:"node"`   // whose description it is
	Config  json.RawMessage `json:"config"` // as in the configuration file (config.EncodePair)
	Updated time.Time       `json:"updated"`
}

// Registry keeps the entries. Implementations are safe for use by many goroutines.
type Registry interface {
	// RegisterNode writes a node's entry; call it again when it changes, and every now and then.
	RegisterNode(ctx context.Context, n Node) error
	// ForgetNode removes a node's entry and its views; no error if there are none.
	ForgetNode(ctx context.Context, name string) error
	// Nodes lists the nodes, ordered by name.
	Nodes(ctx context.Context) ([]Node, error)
	// Publish writes what a node sees of its pairs, in as few requests as it takes.
	Publish(ctx context.Context, views ...View) error
	// Forget removes a node's view of a pair.
	Forget(ctx context.Context, pair, node string) error
	// PutSpec writes the description of a pair; Spec reads it, with Pair "" if
	// there is none; ForgetPair removes it, and all nodes' views of the pair.
	PutSpec(ctx context.Context, s Spec) error
	Spec(ctx context.Context, pair string) (Spec, error)
	ForgetPair(ctx context.Context, pair string) error
	// Pairs lists the pairs that have a record or a view, ordered by name.
	Pairs(ctx context.Context) ([]Pair, error)
}
