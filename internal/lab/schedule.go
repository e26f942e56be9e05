package lab

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// Roles that a step's victim is found by when it is carried out.
const (
	roleSpeaker   = "speaker"
	roleSecondary = "secondary"
	roleSpare     = "spare"
)

// Planned operations, carried out with the operator's own commands.
const (
	opFailover   = "failover"
	opSwitchover = "switchover"
	opCheckpoint = "checkpoint"
	opPause      = "pause" // vm stop, vm cont
	opMigrate    = "migrate"
)

// Step is one round of a torture: what is done to a protected pair. It follows
// from the seed, the step's number and what the lab has, and from nothing else.
type Step struct {
	N     int           `json:"n"`
	Wait  time.Duration `json:"wait"`           // from protection to the fault
	What  string        `json:"what"`           // a kind of fault or an operation
	On    string        `json:"on,omitempty"`   // role of its victim; one-way: of the node that is not heard
	Path  int           `json:"path,omitempty"` // of blip and cut-path; -1 all
	For   time.Duration `json:"for,omitempty"`  // until it is mended
	Also  string        `json:"also,omitempty"` // a second fault while the pair is not protected, once a survivor speaks
	After time.Duration `json:"after,omitempty"`
	// Away says that the arbiter is away from before the fault: all members, "one" of several, or cut off.
	Away string        `json:"away,omitempty"`
	Load []client.Load `json:"-"` // transfers of this step, beside the connections that live through all steps
}

func (s Step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", s.What)
	if s.On != "" {
		fmt.Fprintf(&b, " of %s", s.On)
	}
	if s.What == Blip || s.What == CutPath {
		if s.Path == AllPaths {
			b.WriteString(", all paths")
		} else {
			fmt.Fprintf(&b, ", path %d", s.Path)
		}
	}
	if s.For > 0 {
		fmt.Fprintf(&b, " for %s", s.For)
	}
	if s.Away != "" {
		fmt.Fprintf(&b, ", arbiter away (%s)", s.Away)
	}
	if s.Also != "" {
		fmt.Fprintf(&b, ", then %s after %s", s.Also, s.After)
	}
	return b.String()
}

// choice is one kind of step with its weight.
type choice struct {
	what   string
	roles  []string
	weight int
	length [2]time.Duration // of what is mended by itself
}

// terms are what a schedule depends on beside the seed.
type terms struct {
	nodes, paths, members int
	ops                   map[string]bool // planned operations that this colod has
	only                  []string        // kinds to choose from; nil = all
}

// choices are all kinds of steps for a lab. Their order and weights belong to
// the meaning of a seed.
func choices(t terms) []choice {
	both := []string{roleSpeaker, roleSecondary}
	sec := time.Second
	all := []choice{
		{KillVM, both, 6, [2]time.Duration{}},
		{KillNode, both, 4, [2]time.Duration{0, 5 * sec}},
		{KillColod, both, 4, [2]time.Duration{}},
		{RestartColod, both, 3, [2]time.Duration{}},
		{FreezeVM, both, 3, [2]time.Duration{sec / 2, 15 * sec}},
		{FreezeColod, both, 3, [2]time.Duration{sec / 5, 6 * sec}},
		{Partition, nil, 4, [2]time.Duration{sec / 2, 6 * sec}},
		{oneWay, both, 4, [2]time.Duration{sec / 2, 6 * sec}},
		{Isolate, both, 4, [2]time.Duration{sec / 2, 8 * sec}},
		{Blip, nil, 5, [2]time.Duration{}},
		{CutLAN, both, 1, [2]time.Duration{sec / 2, 3 * sec}},
		{opFailover, nil, 3, [2]time.Duration{}},
		{opCheckpoint, nil, 1, [2]time.Duration{}},
		{opSwitchover, nil, 3, [2]time.Duration{}},
		{opPause, nil, 1, [2]time.Duration{sec / 2, 4 * sec}},
	}
	if t.paths > 1 {
		all = append(all, choice{CutPath, nil, 3, [2]time.Duration{sec, 6 * sec}})
	}
	if t.members > 0 {
		all = append(all, choice{StopArbiter, nil, 3, [2]time.Duration{sec, 10 * sec}}, choice{CutArbiter, nil, 2, [2]time.Duration{sec, 10 * sec}})
	}
	if t.nodes > 2 {
		all = append(all, choice{KillNode, []string{roleSpare}, 1, [2]time.Duration{0, 5 * sec}}, choice{opMigrate, nil, 2, [2]time.Duration{}})
	}
	var allowed []choice
	for _, c := range all {
		planned := c.what == opFailover || c.what == opCheckpoint || c.what == opSwitchover || c.what == opPause || c.what == opMigrate
		if planned && !t.ops[c.what] || len(t.only) > 0 && !contains(t.only, c.what) {
			continue
		}
		allowed = append(allowed, c)
	}
	return allowed
}

// oneWay is a partition of one direction.
const oneWay = "partition-one-way"

func contains(all []string, s string) bool {
	for _, a := range all {
		if a == s {
			return true
		}
	}
	return false
}

// step is the n-th step of the schedule with this seed, n from 1.
func step(seed uint64, n int, t terms) Step {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	s := Step{N: n, Wait: time.Duration(rng.IntN(3000)) * time.Millisecond, Path: AllPaths}
	all := choices(t)
	total := 0
	for _, c := range all {
		total += c.weight
	}
	pick := rng.IntN(total)
	var c choice
	for _, c = range all {
		if pick -= c.weight; pick < 0 {
			break
		}
	}
	s.What = c.what
	if len(c.roles) > 0 {
		s.On = c.roles[rng.IntN(len(c.roles))]
	}
	if c.length[1] > 0 {
		s.For = (c.length[0] + time.Duration(rng.Int64N(int64(c.length[1]-c.length[0])))).Round(time.Millisecond)
	}
	path := rng.IntN(t.paths + 1)
	switch s.What {
	case Blip:
		s.For = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second}[rng.IntN(3)]
		s.Path = path - 1
	case CutPath:
		s.Path = path % t.paths
	}
	second, after := rng.IntN(10), time.Duration(rng.IntN(4000))*time.Millisecond
	also := []string{KillColod + " of speaker", KillColod + " of secondary", KillVM + " of secondary", Blip, Partition}[rng.IntN(5)]
	if second < 2 && (s.What == KillVM || s.What == KillNode || s.What == opFailover || s.What == Isolate) && s.On != roleSpare {
		s.Also, s.After = also, after
	}
	away := rng.IntN(10)
	if t.members > 0 && s.What != StopArbiter && s.What != CutArbiter && away < 3 {
		s.Away = []string{"stopped", "cut off", "one"}[away]
		if s.Away == "one" && t.members < 3 {
			s.Away = "stopped"
		}
	}
	for range rng.IntN(3) {
		l := transfers[rng.IntN(len(transfers))]
		l.Name = fmt.Sprintf("%s-%d-%d", l.Kind, n, len(s.Load))
		s.Load = append(s.Load, l)
	}
	return s
}

// transfers are what clients begin anew in a step, and finish.
var transfers = []client.Load{
	{Kind: client.Download, Size: 2 << 20, Rate: 500 << 10, Count: 1},
	{Kind: client.Download, Size: 1 << 20, Rate: 500 << 10, Count: 1, Host: image.GuestIPv6},
	{Kind: client.Upload, Size: 1 << 20, Rate: 300 << 10, Count: 1},
	{Kind: client.Upload, Size: 1 << 20, Rate: 300 << 10, Count: 1, Host: image.GuestIPv6},
	{Kind: client.HTTPS, Size: 16 << 10, Rate: 5, Count: 10},
	{Kind: client.Random, Rate: 5, Count: 20},
	{Kind: client.Fetch, Size: 128 << 10, Rate: 64 << 10, Count: 2},
	{Kind: client.Echo, Rate: 100 << 10},
}

// lasting are the connections that live through a whole torture.
var lasting = []client.Load{
	{Kind: client.Echo, Name: "echo", Rate: 40 << 10},
	{Kind: client.Echo, Name: "echo over IPv6", Host: image.GuestIPv6, Rate: 40 << 10},
	{Kind: client.Counter, Name: "http counter", Rate: 5},
	{Kind: client.Redis, Name: "redis", Rate: 10},
	{Kind: client.SSH, Name: "ssh session"},
	{Kind: client.UDPEcho, Name: "udp echo", Rate: 20},
}
