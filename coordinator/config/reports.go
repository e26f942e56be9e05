package config

import (
	"fmt"
	"regexp"
	"time"

	"colod/compare"
	"colod/internal/frame"
)

// Reports configures the reports of divergences.
type Reports struct {
	Payload      string   `yaml:"payload" default:"full" enum:"full,redact,none" doc:"What of the guests' payload is written: the bytes, their shape only (letters, digits and other bytes are replaced), or nothing."`
	MaxSize      Size     `yaml:"max_size" default:"64M" doc:"Space for the reports of one pair, in state_dir/reports; the oldest go first."`
	MaxAge       Duration `yaml:"max_age" default:"720h" doc:"Reports older than that are removed."`
	ContextBytes int      `yaml:"context_bytes" default:"256" min:"16" max:"4096" doc:"Bytes of each side that are kept before and behind the first difference."`
	Rate         int      `yaml:"rate" default:"20" min:"1" max:"1000" doc:"Reports written in a second at most, with bursts of ten times as many; what is above is counted only."`
}

// Tolerance declares a difference between the guests harmless. Exactly one of header, pattern and uncompared is given.
type Tolerance struct {
	Name       string `yaml:"name" required:"true" example:"date" doc:"Name of the rule, in counters and reports."`
	Protocol   string `yaml:"protocol" default:"tcp" enum:"tcp,udp" doc:"Transport."`
	Port       int    `yaml:"port" default:"0" example:"80" min:"0" max:"65535" doc:"The guest's port; 0 is any if peer_port is given."`
	PeerPort   int    `yaml:"peer_port" default:"0" min:"0" max:"65535" doc:"The other end's port, for connections that the guest opens."`
	Header     string `yaml:"header" default:"" example:"Date" doc:"Name of an HTTP/1 response header whose value may differ, such as Date. Two dates may be at most a minute apart."`
	Pattern    string `yaml:"pattern" default:"" doc:"Regular expression (Go syntax) that must match both sides at the same place with the same length; only what is in its one group (...) may differ."`
	Uncompared bool   `yaml:"uncompared" default:"false" doc:"If true, datagrams of this port are released without any comparison; for udp only."`
}

// compile makes the rule of the comparison, or says what is wrong with it.
func (t *Tolerance) compile() (compare.Tolerance, string) {
	c := compare.Tolerance{Name: t.Name, Kind: frame.KindTCP, Port: uint16(t.Port), PeerPort: uint16(t.PeerPort), Header: t.Header, Uncompared: t.Uncompared}
	if t.Protocol == "udp" {
		c.Kind = frame.KindUDP
	}
	if t.Pattern != "" {
		if len(t.Pattern) > maxPattern {
			return c, fmt.Sprintf("the pattern has %d characters, more than %d", len(t.Pattern), maxPattern)
		}
		re, err := regexp.Compile(t.Pattern)
		if err != nil {
			return c, fmt.Sprintf("the pattern cannot be read: %v", err)
		}
		c.Pattern = re
	}
	return c, c.Check()
}

// maxPattern bounds a pattern, and maxTolerances the rules of a pair.
const (
	maxPattern    = 512
	maxTolerances = 64
)

// Compared are the pair's tolerances for the comparison; the configuration has been checked.
func (p *Pair) Compared() []compare.Tolerance { return compileAll(p.Tolerances) }

func compileAll(all []Tolerance) []compare.Tolerance {
	var out []compare.Tolerance
	for i := range all {
		if c, why := all[i].compile(); why == "" {
			out = append(out, c)
		}
	}
	return out
}

// ParseTolerances reads a file that holds nothing but the key tolerances. The error is a Problems.
func ParseTolerances(path string, data []byte) ([]compare.Tolerance, error) {
	var f struct {
		Tolerances []Tolerance `yaml:"tolerances" required:"true" doc:"Differences that are no divergences."`
	}
	d := decode(path, data, &f)
	if !d.broken {
		checker{d}.tolerances(f.Tolerances, "tolerances")
	}
	if len(d.problems) > 0 {
		return nil, d.sorted()
	}
	return compileAll(f.Tolerances), nil
}

func (ck checker) tolerances(all []Tolerance, key string) {
	if len(all) > maxTolerances {
		ck.bad(key, fmt.Sprintf("%d rules are listed", len(all)), fmt.Sprintf("use at most %d", maxTolerances))
		return
	}
	names := map[string]bool{}
	for i := range all {
		t := &all[i]
		k := fmt.Sprintf("%s[%d]", key, i)
		if ck.has(k+".name") && (!pairName.MatchString(t.Name) || names[t.Name]) {
			ck.bad(k+".name", fmt.Sprintf("%q is no name for a rule, or is used twice", t.Name), "use letters, digits, dot, dash and underscore, at most 48 of them")
		}
		names[t.Name] = true
		if _, why := t.compile(); why != "" {
			ck.bad(k, "the rule is not safe: "+why, "see the manual on tolerances")
		}
	}
}

func (ck checker) reports(r Reports) {
	if r.MaxSize < 1<<20 || r.MaxSize > 1<<40 {
		ck.bad("reports.max_size", fmt.Sprintf("%s is out of range", r.MaxSize), "use 1M to 1T")
	}
	if r.MaxAge.D() < time.Minute || r.MaxAge.D() > 10*365*24*time.Hour {
		ck.bad("reports.max_age", fmt.Sprintf("%s is out of range", r.MaxAge), "use 1m to 87600h")
	}
}
