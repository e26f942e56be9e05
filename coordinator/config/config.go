// Package config reads colod's configuration file.
//
// The file is strict YAML: an unknown key, a key given twice or a value of
// the wrong kind is an error, and every error names file, line, column and
// key, and says what to write instead. All problems are reported at once.
// The package never changes the system and reads no file but the one it is
// given; whether files named in it exist is for the daemon to find out.
package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Config is one node's configuration.
//
// The tags are the reference: doc is the sentence shown in the example, the
// schema and the manual, default is the value of an absent key.
type Config struct {
	Node      string    `yaml:"node" required:"true" example:"a" doc:"Name of this node. It stands in the node's certificate and in the pairs' node lists."`
	Listen    string    `yaml:"listen" required:"true" example:"198.51.100.1:7420" doc:"Address and port on which the other node reaches this one."`
	TLS       TLS       `yaml:"tls" required:"true" doc:"Certificates of the links between nodes (made by colod cert). Relative paths start at the directory of this file."`
	StateDir  string    `yaml:"state_dir" default:"/var/lib/colod" doc:"Directory of what must survive a reboot."`
	RunDir    string    `yaml:"run_dir" default:"/run/colod" doc:"Directory of sockets and of the registry of running VMs; must survive a restart of colod, not a reboot."`
	API       API       `yaml:"api" doc:"Control socket, web page and metrics."`
	Log       Log       `yaml:"log" doc:"Logging, to standard error."`
	Heartbeat Heartbeat `yaml:"heartbeat" doc:"Detection of a lost node."`
	Arbiter   Arbiter   `yaml:"arbiter" required:"true" doc:"Where the record of who speaks is kept. All nodes of a pair must use the same one."`
	Domain    string    `yaml:"domain" default:"" doc:"Failure domain of this node, such as its rack or power feed: of two nodes that fit, one of another domain than the speaker's is taken as the secondary's."`
	Spare     Spare     `yaml:"spare" doc:"Lets this node run the secondary of pairs that do not list it. Needs the arbiter etcd, which holds the pairs' descriptions."`
	Fencing   Fencing   `yaml:"fencing" doc:"A command that makes sure that a node that is considered lost is off, such as with IPMI. It is run after the record was won and before the guest speaks here. Safety does not need it; a guest whose disk both nodes can write does."`
	Reports   Reports   `yaml:"reports" doc:"Reports of divergences between the two guests."`
	Pairs     []Pair    `yaml:"pairs" required:"true" doc:"The protected guests in which this node takes part. May be [] on a spare node."`

	// File is the path the configuration was read from.
	File string `yaml:"-"`
}

// TLS names the files of the node's identity.
type TLS struct {
	CA   string `yaml:"ca" required:"true" example:"ca.pem" doc:"Certificate of the authority that signed both nodes' certificates."`
	Cert string `yaml:"cert" required:"true" example:"a.pem" doc:"Certificate of this node; its DNS name is the node's name."`
	Key  string `yaml:"key" required:"true" example:"a.key" doc:"Private key of this node."`
}

// Log configures logging.
type Log struct {
	Level  string `yaml:"level" default:"info" enum:"trace,debug,info,warn,error" doc:"Least level that is written."`
	Format string `yaml:"format" default:"auto" enum:"auto,console,json" doc:"With auto it is console on a terminal, else json."`
}

// Heartbeat configures the detection of a lost node.
type Heartbeat struct {
	Interval Duration `yaml:"interval" default:"50ms" doc:"Time between two heartbeats."`
	Timeout  Duration `yaml:"timeout" default:"250ms" doc:"Silence after which the other node is considered lost. Safety does not depend on it: a wrong suspicion costs a synchronisation, never a byte."`
}

// Arbiter says where the pairs' records are. Exactly one kind is given.
type Arbiter struct {
	File *FileArbiter `yaml:"file" doc:"A directory on one host: for the lab and for development. Not for two hosts."`
	Etcd *EtcdArbiter `yaml:"etcd" other:"true" doc:"Instead of file: an etcd cluster, for nodes on several hosts. Three members on three hosts, one of them neither node of the pair, so that the loss of a host leaves a majority."`
}

// EtcdArbiter keeps records in an etcd cluster.
type EtcdArbiter struct {
	Endpoints  []string `yaml:"endpoints" required:"true" example:"['https://198.51.100.11:2379', 'https://198.51.100.12:2379', 'https://198.51.100.13:2379']" doc:"Client URLs of the members of one cluster, in quotes."`
	CA         string   `yaml:"ca" default:"" doc:"Certificate of the authority that signed the members' certificates; empty means tls.ca."`
	Cert       string   `yaml:"cert" default:"" doc:"Certificate by which etcd knows this node; empty means tls.cert."`
	Key        string   `yaml:"key" default:"" doc:"Its private key; empty means tls.key."`
	ServerName string   `yaml:"server_name" default:"" doc:"Name that the members' certificates must hold; empty means the host of each endpoint."`
	Prefix     string   `yaml:"prefix" default:"/colod/" doc:"Beginning of all keys. Pairs of one cluster must have different names under one prefix."`
	Timeout    Duration `yaml:"timeout" default:"3s" doc:"How long an answer is waited for. A change whose answer does not come is of unknown outcome, and the record is read before anything else."`
}

// Spare makes a node available to pairs that do not list it.
type Spare struct {
	Bridge string `yaml:"bridge" default:"" doc:"Bridge that those pairs' guests are to be on here; empty means that this node is no spare."`
	Tap    string `yaml:"tap" default:"colod" doc:"Beginning of the names of their tap devices, which a number follows; at most 6 characters."`
}

// Fencing configures the command that makes sure that a lost node is off.
type Fencing struct {
	Command  []string `yaml:"command" doc:"Program and arguments; {node} stands for the lost node and {pair} for the pair. Exit status 0 means that the node is off. Empty means none."`
	Timeout  Duration `yaml:"timeout" default:"30s" doc:"A command that takes longer has failed."`
	Required bool     `yaml:"required" default:"false" doc:"If true, the guest does not speak here until the command has succeeded; else a failure is a warning."`
}

// Used reports whether there is a command.
func (f *Fencing) Used() bool { return len(f.Command) > 0 }

// FileArbiter keeps records in files of one directory.
type FileArbiter struct {
	Path string `yaml:"path" required:"true" example:"/var/lib/colod/arbiter" doc:"Directory of the records; made if it is absent."`
}

// Pair is one protected guest.
type Pair struct {
	Name        string      `yaml:"name" required:"true" example:"guest1" doc:"Name of the pair: letters, digits, dot, dash and underscore, at most 48."`
	Nodes       []PairNode  `yaml:"nodes" required:"true" doc:"The nodes that may run the guest, two or more, in the order of preference. The first is the speaker of a new pair; at any time two of them run it, the others wait."`
	Network     Network     `yaml:"network" required:"true" doc:"How the guest reaches the network on this node."`
	VM          VM          `yaml:"vm" required:"true" doc:"The virtual machine. What the guest sees must be the same on both nodes."`
	Disks       []Disk      `yaml:"disks" other:"true" doc:"The guest's disks, in the order in which it sees them as virtio block devices. Layout and sizes must be the same on all nodes; paths may differ."`
	Mode        string      `yaml:"mode" default:"lockstep" enum:"lockstep,epoch,adaptive" doc:"In lockstep, output is released when both guests agree, and divergence causes a checkpoint. In epoch, it waits for the next periodic checkpoint. With adaptive, the pair is in the one that costs less at present, in checkpoints and in how long output waits."`
	Epoch       Epoch       `yaml:"epoch" doc:"Periodic checkpoints, in the modes epoch and adaptive."`
	Hold        Hold        `yaml:"hold" doc:"How long a frame may wait for agreement before a checkpoint is taken. Between the bounds it follows the measured cost of a checkpoint."`
	Checkpoint  Checkpoint  `yaml:"checkpoint" doc:"Checkpoints."`
	State       State       `yaml:"state" doc:"The stream of the guest's memory and devices between the nodes."`
	Tolerances  []Tolerance `yaml:"tolerances" other:"true" doc:"Differences between the guests that are no divergences. Lengths must be equal, clients get the primary's bytes, each use is counted. The same on all nodes."`
	AutoProtect bool        `yaml:"auto_protect" default:"true" doc:"Protect the guest again by itself once another node is ready for it."`
	Fencing     Fencing     `yaml:"fencing" doc:"As fencing above, for this pair; without a command, that one counts."`
}

// PairNode is one node of a pair.
type PairNode struct {
	Name    string   `yaml:"name" required:"true" example:"a" doc:"Name of the node."`
	Address string   `yaml:"address" required:"true" example:"198.51.100.1:7420" doc:"Where the other nodes reach it."`
	Paths   []string `yaml:"paths" doc:"Its addresses with port on further networks, on which colod listens too. Heartbeats go over all of them, and connections over the next one when a network is lost."`
}

// Network describes the guest's way to the network.
type Network struct {
	Bridge string `yaml:"bridge" required:"true" example:"br0" doc:"Existing bridge that the guest is to be on."`
	Tap    string `yaml:"tap" required:"true" example:"vm0" doc:"Name of the tap device that colod makes for the guest."`
	Uplink string `yaml:"uplink" default:"" doc:"Name of the veth that joins tap and bridge; empty means the tap's name with 'up' behind it. Its peer, the bridge port, has the uplink's name with 'br' behind it."`
	MAC    string `yaml:"mac" required:"true" example:"52:54:00:12:34:56" doc:"The guest's MAC address."`
	MTU    int    `yaml:"mtu" default:"1500" min:"576" max:"65535" doc:"MTU of tap and uplink."`
}

// VM describes the virtual machine.
type VM struct {
	QEMU    string            `yaml:"qemu" default:"qemu-system-x86_64" doc:"QEMU binary; a bare name is searched in PATH."`
	Accel   string            `yaml:"accel" default:"auto" enum:"auto,kvm,tcg" doc:"Accelerator; auto takes KVM where it works."`
	Machine string            `yaml:"machine" default:"pc" doc:"QEMU machine type; a versioned one lets nodes with different QEMU builds form a pair."`
	CPU     string            `yaml:"cpu" default:"qemu64" doc:"QEMU CPU model; must exist on both hosts, so not 'host' unless they are alike."`
	SMP     int               `yaml:"smp" default:"1" min:"1" max:"255" doc:"Number of virtual CPUs."`
	Memory  Size              `yaml:"memory" required:"true" example:"256M" doc:"The guest's memory. The node of the secondary needs about twice as much."`
	Kernel  string            `yaml:"kernel" default:"" doc:"Kernel to boot directly; empty means that args name something to boot from."`
	Initrd  string            `yaml:"initrd" default:"" doc:"Initial RAM disk of the kernel."`
	Append  string            `yaml:"append" default:"" doc:"Kernel command line."`
	Args    []string          `yaml:"args" doc:"Further QEMU arguments, one a list item. Not: -qmp, -incoming, -netdev, -daemonize, -S."`
	Env     map[string]string `yaml:"env" doc:"Environment variables added for QEMU."`
	Adopt   bool              `yaml:"adopt" default:"false" doc:"Somebody else starts the guest's VM, such as libvirt: colod launches none by itself to speak with, and waits for colod adopt. Secondaries are launched all the same."`
	Agent   string            `yaml:"agent" default:"" doc:"Unix socket of the QEMU guest agent, for which args make the device; that it answers is watched, and told. Empty means none."`
	Grace   Duration          `yaml:"grace" default:"20s" doc:"How long colod stop waits for the guest to shut itself down before it is ended."`
}

// Disk is one disk of the guest.
type Disk struct {
	Path   string `yaml:"path" required:"true" example:"/var/lib/colod/guest1.qcow2" doc:"Image file or block device on this node. Of a replicated disk each node has its own; that of a node that has none yet is made."`
	Format string `yaml:"format" default:"qcow2" enum:"raw,qcow2" doc:"Format of the image."`
	Size   Size   `yaml:"size" required:"true" example:"8G" doc:"Virtual size; the image must have it."`
	Kind   string `yaml:"kind" default:"replicated" enum:"replicated,shared" refused:"shared-writable=a disk that both nodes see and the guest writes is not offered: both copies of the guest would write it, and what the lost one wrote since the last checkpoint could not be taken back; use kind replicated with an image on each node, or let the guest itself mount a network file system" doc:"replicated: the speaker's writes go to the image of the secondary's node too. shared: all nodes see one image, which the guest may only read."`
}

// Hold bounds the wait for agreement.
type Hold struct {
	Min Duration `yaml:"min" default:"5ms" doc:"Lower bound of the hold budget."`
	Max Duration `yaml:"max" default:"200ms" doc:"Upper bound of the hold budget."`
}

// Epoch configures periodic checkpoints.
type Epoch struct {
	Interval     Duration `yaml:"interval" default:"25ms" doc:"How long the guest runs between two checkpoints, at least 5ms; with a latency_bound, at most."`
	LatencyBound Duration `yaml:"latency_bound" default:"0s" doc:"What the longest wait of output is to stay below: the interval follows from it and from how long checkpoints take. 0s means none."`
}

// Checkpoint configures checkpoints.
type Checkpoint struct {
	IdleInterval Duration `yaml:"idle_interval" default:"10s" doc:"Longest time without a checkpoint; 0s means no limit. A checkpoint proves that the secondary can still be reached."`
	DirtyLimit   Size     `yaml:"dirty_limit" default:"16M" doc:"In lock-step, how much changed memory may wait for a checkpoint: one is taken in the background before more is expected, but for that never for more than 1 % of the time, with what output then waits for a slow secondary. What waits is what the next divergence stops the guest for. 0M means any amount."`
	Timeout      Duration `yaml:"timeout" default:"10s" doc:"A checkpoint that takes longer means that the other side is lost."`
	Retrigger    Duration `yaml:"retrigger" default:"1s" doc:"If QEMU has not stopped the guest that long after it was asked for a checkpoint, it is asked again."`
	SyncTimeout  Duration `yaml:"sync_timeout" default:"10m" doc:"Limit of the first copy of the guest to the other node, its disks included."`
}

// State configures the state stream.
type State struct {
	Encryption string `yaml:"encryption" default:"tls" enum:"tls,plain" doc:"With plain, the guest's memory crosses the link unencrypted, for a dedicated link between the hosts."`
	Transport  string `yaml:"transport" default:"auto" enum:"auto,copy" doc:"How this node's relay moves the stream between QEMU and the link: auto lets the kernel splice it, without a copy to colod, where it can (encryption plain), and copies where it cannot; copy always copies."`
}

// Load reads, checks and completes the file. The error is a Problems when
// the file could be read.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse checks data as the content of the file path. The error is a
// Problems with every problem found.
func Parse(path string, data []byte) (*Config, error) {
	c := &Config{File: path}
	d := decode(path, data, c)
	if !d.broken {
		validate(c, d)
	}
	if len(d.problems) > 0 {
		return nil, d.sorted()
	}
	c.complete()
	return c, nil
}

// complete fills in what follows from other keys.
func (c *Config) complete() {
	dir := filepath.Dir(c.File)
	files := []*string{&c.TLS.CA, &c.TLS.Cert, &c.TLS.Key}
	if e := c.Arbiter.Etcd; e != nil {
		for i, p := range []*string{&e.CA, &e.Cert, &e.Key} {
			if *p == "" {
				*p = *files[i]
			}
			files = append(files, p)
		}
	}
	for _, p := range files {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	c.API.complete(c)
	for i := range c.Pairs {
		n := &c.Pairs[i].Network
		if n.Uplink == "" {
			n.Uplink = n.Tap + "up"
		}
		if !c.Pairs[i].Fencing.Used() {
			c.Pairs[i].Fencing = c.Fencing
		}
	}
}

// Peer is the first other node of the pair as seen from node.
func (p *Pair) Peer(node string) PairNode {
	for _, n := range p.Nodes {
		if n.Name != node {
			return n
		}
	}
	return PairNode{}
}

// Peers are the names of the other nodes of the pair as seen from node, in
// the order of the list.
func (p *Pair) Peers(node string) []string {
	var names []string
	for _, n := range p.Nodes {
		if n.Name != node {
			names = append(names, n.Name)
		}
	}
	return names
}

// NodeOf is the entry of the named node; its Name is "" if it is not listed.
func (p *Pair) NodeOf(name string) PairNode {
	for _, n := range p.Nodes {
		if n.Name == name {
			return n
		}
	}
	return PairNode{}
}

// Addresses are the TCP addresses at which the node can be reached, the first
// one preferred.
func (n PairNode) Addresses() []string {
	if n.Address == "" {
		return nil
	}
	return append([]string{n.Address}, n.Paths...)
}

// First reports whether node is the speaker of a new pair.
func (p *Pair) First(node string) bool { return len(p.Nodes) > 0 && p.Nodes[0].Name == node }

// HardwareAddr is the guest's MAC address; the configuration has been checked.
func (n *Network) HardwareAddr() net.HardwareAddr {
	a, _ := net.ParseMAC(n.MAC)
	return a
}
