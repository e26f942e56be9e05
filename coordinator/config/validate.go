package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of what one colod serves.
const (
	maxNodes = 16 // of a pair
	maxPaths = 7  // of a node, beside its address
)

var (
	pairName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$`)
	nodeName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	ifName   = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
)

// maxVMDir is the longest directory of a VM, run_dir/vm/PAIR, in which the
// paths of sockets still fit in the 107 bytes of sockaddr_un (unix(7)); as in
// package qmp.
const maxVMDir = 90

// checker adds problems at the place of a key.
type checker struct {
	d *decoder
}

func (c checker) bad(key, what, cure string) {
	p, ok := c.d.pos[key]
	for k := key; !ok && k != ""; {
		i := strings.LastIndexAny(k, ".[")
		if i < 0 {
			k = ""
		} else {
			k = k[:i]
		}
		p, ok = c.d.pos[k]
	}
	c.d.add(p, key, what, cure)
}

// has reports whether the key stands in the file without a problem of its own.
func (c checker) has(key string) bool {
	if _, ok := c.d.pos[key]; !ok {
		return false
	}
	for _, p := range c.d.problems {
		if p.Key == key {
			return false
		}
	}
	return true
}

// validate checks what the types alone cannot: ranges, names, references
// between keys. Keys that already have a problem are left alone.
func validate(c *Config, d *decoder) {
	ck := checker{d}
	ck.node("node", c.Node)
	ck.address("listen", c.Listen)
	for _, p := range []struct{ key, path string }{{"state_dir", c.StateDir}, {"run_dir", c.RunDir}} {
		if !filepath.IsAbs(p.path) {
			ck.bad(p.key, fmt.Sprintf("%q is not an absolute path", p.path), "write the path from / on")
		}
	}
	for i := range c.Pairs {
		if over := len(c.RunDir) + len("/vm/") + len(c.Pairs[i].Name) - maxVMDir; over > 0 {
			ck.bad("run_dir", fmt.Sprintf("the path has %d characters, too long for the unix sockets of pair %q in it", len(c.RunDir), c.Pairs[i].Name), fmt.Sprintf("use one of at most %d", len(c.RunDir)-over))
			break
		}
	}
	ck.api(&c.API)
	for _, f := range []struct{ key, path string }{{"tls.ca", c.TLS.CA}, {"tls.cert", c.TLS.Cert}, {"tls.key", c.TLS.Key}} {
		if ck.has(f.key) && f.path == "" {
			ck.bad(f.key, "the path is empty", "colod cert makes the files")
		}
	}
	ck.heartbeat(c.Heartbeat)
	ck.reports(c.Reports)
	ck.arbiter(c.Arbiter)
	if len(c.Domain) > 64 || strings.ContainsAny(c.Domain, "\n\t\x00") {
		ck.bad("domain", fmt.Sprintf("%q is not the name of a failure domain", c.Domain), "use a word such as rack1, at most 64 characters")
	}
	ck.spare(c)
	ck.fencing(&c.Fencing, "fencing")
	ck.pairs(c)
}

// ValidNodeName reports whether a node can have this name.
func ValidNodeName(name string) bool { return len(name) <= 253 && nodeName.MatchString(name) }

func (ck checker) node(key, name string) {
	if ck.has(key) && !ValidNodeName(name) {
		ck.bad(key, fmt.Sprintf("%q is not a node name", name), "use a DNS name such as a or host1.example.org: it stands in the node's certificate")
	}
}

func (ck checker) address(key, addr string) {
	if !ck.has(key) {
		return
	}
	host, port, err := net.SplitHostPort(addr)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 1 || n > 65535 {
		ck.bad(key, fmt.Sprintf("%q is not an address with a port", addr), "write for example 198.51.100.1:7420 or [2001:db8::1]:7420")
		return
	}
	if strings.ContainsAny(host, " /") {
		ck.bad(key, fmt.Sprintf("%q is not a host", host), "write an IP address or a host name")
	}
}

func (ck checker) heartbeat(h Heartbeat) {
	if h.Interval.D() < time.Millisecond || h.Interval.D() > 10*time.Second {
		ck.bad("heartbeat.interval", fmt.Sprintf("%s is out of range", h.Interval), "use 1ms to 10s")
		return
	}
	if h.Timeout < 3*h.Interval {
		ck.bad("heartbeat.timeout", fmt.Sprintf("%s is less than three heartbeats of %s", h.Timeout, h.Interval), fmt.Sprintf("use at least %s, or a shorter interval", 3*h.Interval))
	}
	if h.Timeout.D() > time.Minute {
		ck.bad("heartbeat.timeout", fmt.Sprintf("%s is out of range", h.Timeout), "use at most 1m")
	}
}

func (ck checker) arbiter(a Arbiter) {
	if !ck.has("arbiter") {
		return
	}
	switch {
	case a.File == nil && a.Etcd == nil:
		ck.bad("arbiter", "no kind of arbiter is given", "add file: {path: /var/lib/colod/arbiter} or etcd: {endpoints: [\"https://198.51.100.11:2379\"]}")
		return
	case a.File != nil && a.Etcd != nil:
		ck.bad("arbiter", "two arbiters are given, file and etcd", "keep one of them, the same on all nodes")
	}
	if a.File != nil && ck.has("arbiter.file.path") && !filepath.IsAbs(a.File.Path) {
		ck.bad("arbiter.file.path", fmt.Sprintf("%q is not an absolute path", a.File.Path), "write the path from / on")
	}
	if a.Etcd != nil {
		ck.etcd(a.Etcd)
	}
}

var prefixForm = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+/?$`)

// maxEndpoints is as in package arbiter/etcd.
const maxEndpoints = 16

func (ck checker) etcd(e *EtcdArbiter) {
	const key = "arbiter.etcd"
	if ck.has(key+".endpoints") && (len(e.Endpoints) == 0 || len(e.Endpoints) > maxEndpoints) {
		ck.bad(key+".endpoints", fmt.Sprintf("%d endpoints are listed", len(e.Endpoints)), fmt.Sprintf("list 1 to %d client URLs of the members, such as https://198.51.100.11:2379", maxEndpoints))
	}
	for i, text := range e.Endpoints {
		k := fmt.Sprintf("%s.endpoints[%d]", key, i)
		if !ck.has(k) {
			continue
		}
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Port() == "" ||
			(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil:
			ck.bad(k, fmt.Sprintf("%q is not an endpoint", text), "write https://host:port and nothing else")
		case u.Scheme == "http":
			ck.bad(k, fmt.Sprintf("%q is without TLS: anybody on the network could decide who speaks", text), "write https, and give the members certificates (etcd --cert-file, --key-file, --trusted-ca-file, --client-cert-auth)")
		case indexOf(e.Endpoints[:i], text) >= 0:
			ck.bad(k, fmt.Sprintf("%q is listed twice", text), "list each member once")
		}
	}
	if (e.Cert == "") != (e.Key == "") {
		ck.bad(key, "cert and key go together, and only one of them is given", "give both, or neither to use those of tls")
	}
	if ck.has(key+".prefix") && !prefixForm.MatchString(e.Prefix) {
		ck.bad(key+".prefix", fmt.Sprintf("%q is not a prefix of keys", e.Prefix), "write for example /colod/")
	}
	if e.Timeout.D() < 100*time.Millisecond || e.Timeout.D() > time.Minute {
		ck.bad(key+".timeout", fmt.Sprintf("%s is out of range", e.Timeout), "use 100ms to 1m")
	}
}

func (ck checker) spare(c *Config) {
	if c.Spare.Bridge == "" {
		if len(c.Pairs) == 0 && ck.has("pairs") {
			ck.bad("pairs", "the list is empty", "describe at least one pair, or make this node a spare (spare: {bridge: br0})")
		}
		return
	}
	ck.ifname("spare.bridge", c.Spare.Bridge, "", 15)
	// The tap's name is followed by a number of two digits, the uplink's by "up" and its port's by "br".
	ck.ifname("spare.tap", c.Spare.Tap, "", 6)
	if c.Arbiter.Etcd == nil && c.Arbiter.File != nil {
		ck.bad("spare", "a spare node needs the arbiter etcd, which holds the pairs' descriptions", "use arbiter: {etcd: ...}, or remove the key and list the node in the pairs")
	}
}

func (ck checker) fencing(f *Fencing, key string) {
	for i, a := range f.Command {
		if i == 0 && a == "" {
			ck.bad(fmt.Sprintf("%s.command[0]", key), "the program's name is empty", "write its path")
		}
		for _, m := range placeholder.FindAllString(a, -1) {
			if m != "{node}" && m != "{pair}" {
				ck.bad(fmt.Sprintf("%s.command[%d]", key, i), fmt.Sprintf("%q is not known", m), "use {node} or {pair}")
			}
		}
	}
	if f.Timeout.D() < 100*time.Millisecond || f.Timeout.D() > 10*time.Minute {
		ck.bad(key+".timeout", fmt.Sprintf("%s is out of range", f.Timeout), "use 100ms to 10m")
	}
	if f.Required && !f.Used() {
		ck.bad(key+".required", "it is required, but there is no command", "add the command, or remove the key")
	}
}

var placeholder = regexp.MustCompile(`\{[a-z]*\}`)

func (ck checker) pairs(c *Config) {
	names := map[string]int{}
	devices := map[string]string{}
	macs := map[string]string{}
	images := map[string]string{}
	for i := range c.Pairs {
		p := &c.Pairs[i]
		key := fmt.Sprintf("pairs[%d]", i)
		if ck.has(key + ".name") {
			if !pairName.MatchString(p.Name) {
				ck.bad(key+".name", fmt.Sprintf("%q is not a pair name", p.Name), "use letters, digits, dot, dash and underscore, at most 48 of them")
			}
			if first, dup := names[p.Name]; dup {
				ck.bad(key+".name", fmt.Sprintf("%q is also the name of pairs[%d]", p.Name, first), "give each pair its own name")
			}
			names[p.Name] = i
		}
		ck.pairNodes(c, p, key)
		ck.network(p, key, devices, macs)
		ck.vm(p, key)
		ck.disks(p, key+".disks", images)
		ck.tolerances(p.Tolerances, key+".tolerances")
		ck.timing(p, key)
		ck.fencing(&p.Fencing, key+".fencing")
	}
	ck.sameNodes(c)
}

// sameNodes: a node has the same addresses wherever it is listed.
func (ck checker) sameNodes(c *Config) {
	type first struct {
		key  string
		node PairNode
	}
	seen := map[string]first{}
	for i := range c.Pairs {
		for j, n := range c.Pairs[i].Nodes {
			key := fmt.Sprintf("pairs[%d].nodes[%d]", i, j)
			f, again := seen[n.Name]
			switch {
			case n.Name == "":
			case !again:
				seen[n.Name] = first{key, n}
			case f.node.Address != n.Address:
				ck.bad(key+".address", fmt.Sprintf("%q is not what %s.address says of node %q: %q", n.Address, f.key, n.Name, f.node.Address), "write the same address in both places")
			case !slices.Equal(f.node.Paths, n.Paths):
				ck.bad(key+".paths", fmt.Sprintf("%q are not what %s.paths says of node %q: %q", n.Paths, f.key, n.Name, f.node.Paths), "write the same list in both places")
			}
		}
	}
}

func (ck checker) pairNodes(c *Config, p *Pair, key string) {
	nk := key + ".nodes"
	if !ck.has(nk) {
		return
	}
	if len(p.Nodes) < 2 || len(p.Nodes) > maxNodes {
		ck.bad(nk, fmt.Sprintf("%d nodes are listed", len(p.Nodes)), fmt.Sprintf("list the nodes of the pair, 2 to %d", maxNodes))
	}
	seen := map[string]bool{}
	for j, n := range p.Nodes {
		k := fmt.Sprintf("%s[%d]", nk, j)
		ck.node(k+".name", n.Name)
		ck.address(k+".address", n.Address)
		for l, path := range n.Paths {
			pk := fmt.Sprintf("%s.paths[%d]", k, l)
			ck.address(pk, path)
			if path == n.Address || indexOf(n.Paths[:l], path) >= 0 {
				ck.bad(pk, fmt.Sprintf("%q is listed twice", path), "name each network's address once; address is the first path by itself")
			}
		}
		if len(n.Paths) > maxPaths {
			ck.bad(k+".paths", fmt.Sprintf("%d paths are listed", len(n.Paths)), fmt.Sprintf("list at most %d", maxPaths))
		}
		if n.Name != "" && seen[n.Name] {
			ck.bad(k+".name", fmt.Sprintf("node %q is listed twice", n.Name), "a pair needs two different nodes")
		}
		seen[n.Name] = true
	}
	if c.Node != "" && len(p.Nodes) > 0 && !seen[c.Node] {
		ck.bad(nk, fmt.Sprintf("this node, %q, is not in the list", c.Node), "add it, or correct the key node")
	}
}

func (ck checker) network(p *Pair, key string, devices, macs map[string]string) {
	k := key + ".network"
	uplink := p.Network.Uplink
	derived := uplink == ""
	if derived && p.Network.Tap != "" {
		uplink = p.Network.Tap + "up"
	}
	own := []struct{ key, name, note string }{
		{k + ".tap", p.Network.Tap, ""},
		{k + ".uplink", uplink, ""},
		{k + ".uplink", uplink + "br", " (the bridge port of the uplink)"},
	}
	if ck.has(k + ".bridge") {
		ck.ifname(k+".bridge", p.Network.Bridge, "", 15)
	}
	for _, o := range own {
		if o.name == "" || o.name == "br" || (!derived && !ck.has(o.key)) {
			continue
		}
		if !ck.ifname(o.key, o.name, o.note, 15) {
			break
		}
		if other, dup := devices[o.name]; dup {
			ck.bad(o.key, fmt.Sprintf("device %q%s is also used by %s", o.name, o.note, other), "give each device its own name")
			break
		}
		devices[o.name] = o.key
	}
	if ck.has(k + ".mac") {
		mac, err := net.ParseMAC(p.Network.MAC)
		switch {
		case err != nil || len(mac) != 6:
			ck.bad(k+".mac", fmt.Sprintf("%q is not a MAC address", p.Network.MAC), `write for example "52:54:00:12:34:56"`)
		case mac[0]&1 != 0:
			ck.bad(k+".mac", fmt.Sprintf("%q is a group address", p.Network.MAC), "the first byte must be even, for example 52")
		case macs[mac.String()] != "":
			ck.bad(k+".mac", fmt.Sprintf("%q is also used by %s", p.Network.MAC, macs[mac.String()]), "give each guest its own address")
		default:
			macs[mac.String()] = k + ".mac"
		}
	}
}

// ifname checks the name of a network device (net/core/dev.c dev_valid_name:
// 1 to 15 bytes, no slash, colon or space).
func (ck checker) ifname(key, name, note string, limit int) bool {
	if len(name) == 0 || len(name) > limit || !ifName.MatchString(name) || name == "." || name == ".." {
		ck.bad(key, fmt.Sprintf("%q%s is not a network device name", name, note), fmt.Sprintf("use 1 to %d letters, digits, dots, dashes and underscores", limit))
		return false
	}
	return true
}

// reservedArgs are QEMU options that colod sets itself.
var reservedArgs = []string{"-qmp", "-incoming", "-netdev", "-nic", "-net", "-daemonize", "-S", "-pidfile", "-accel", "-enable-kvm", "-m", "-smp", "-cpu", "-machine", "-M", "-kernel", "-initrd", "-append", "-chroot", "-runas"}

func (ck checker) vm(p *Pair, key string) {
	k := key + ".vm"
	vm := &p.VM
	if ck.has(k+".memory") && (vm.Memory < 16<<20 || vm.Memory > 64<<40) {
		ck.bad(k+".memory", fmt.Sprintf("%s is out of range", vm.Memory), "use 16M to 64T")
	}
	if vm.Kernel == "" && (vm.Initrd != "" || vm.Append != "") {
		ck.bad(k, "initrd and append need a kernel", "add the key kernel, or remove them")
	}
	if ck.has(k+".qemu") && vm.QEMU == "" {
		ck.bad(k+".qemu", "the name is empty", "write for example qemu-system-x86_64")
	}
	for i, a := range vm.Args {
		name := a
		if strings.HasPrefix(name, "--") {
			name = name[1:]
		}
		if indexOf(reservedArgs, name) >= 0 {
			ck.bad(fmt.Sprintf("%s.args[%d]", k, i), fmt.Sprintf("%s is set by colod", a), "remove it and use the key that stands for it")
		}
	}
	for name := range vm.Env {
		if name == "" || strings.ContainsAny(name, "=\x00 ") {
			ck.bad(join(k+".env", name), fmt.Sprintf("%q is not a variable's name", name), "write NAME: value")
		}
	}
	if vm.Grace < 0 || vm.Grace.D() > time.Hour {
		ck.bad(k+".grace", fmt.Sprintf("%s is out of range", vm.Grace), "use 0s to 1h")
	}
}

func (ck checker) timing(p *Pair, key string) {
	if p.Hold.Min.D() < 100*time.Microsecond || p.Hold.Min.D() > 5*time.Second {
		ck.bad(key+".hold.min", fmt.Sprintf("%s is out of range", p.Hold.Min), "use 100us to 5s")
	}
	if p.Hold.Max < p.Hold.Min {
		ck.bad(key+".hold.max", fmt.Sprintf("%s is less than hold.min, %s", p.Hold.Max, p.Hold.Min), "write a larger one")
	}
	if p.Hold.Max.D() > 10*time.Second {
		ck.bad(key+".hold.max", fmt.Sprintf("%s is out of range", p.Hold.Max), "use at most 10s")
	}
	if e := p.Epoch; e.Interval.D() < 5*time.Millisecond || e.Interval.D() > 10*time.Second {
		ck.bad(key+".epoch.interval", fmt.Sprintf("%s is out of range", e.Interval), "use 5ms to 10s")
	} else if e.LatencyBound != 0 && (e.LatencyBound.D() < 5*time.Millisecond || e.LatencyBound.D() > 10*time.Second) {
		ck.bad(key+".epoch.latency_bound", fmt.Sprintf("%s is out of range", e.LatencyBound), "use 5ms to 10s, or 0s for none")
	}
	c := p.Checkpoint
	if c.IdleInterval != 0 && (c.IdleInterval.D() < 50*time.Millisecond || c.IdleInterval.D() > time.Hour) {
		ck.bad(key+".checkpoint.idle_interval", fmt.Sprintf("%s is out of range", c.IdleInterval), "use 50ms to 1h, or 0s for none")
	}
	if c.Timeout.D() < 100*time.Millisecond || c.Timeout.D() > 10*time.Minute {
		ck.bad(key+".checkpoint.timeout", fmt.Sprintf("%s is out of range", c.Timeout), "use 100ms to 10m")
	}
	if c.Retrigger.D() < 10*time.Millisecond || c.Retrigger >= c.Timeout {
		ck.bad(key+".checkpoint.retrigger", fmt.Sprintf("%s is out of range", c.Retrigger), fmt.Sprintf("use at least 10ms and less than checkpoint.timeout, %s", c.Timeout))
	}
	if c.SyncTimeout.D() < time.Second || c.SyncTimeout.D() > 24*time.Hour {
		ck.bad(key+".checkpoint.sync_timeout", fmt.Sprintf("%s is out of range", c.SyncTimeout), "use 1s to 24h")
	}
}
