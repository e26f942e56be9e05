package report

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func itoa(n uint16) string { return strconv.Itoa(int(n)) }

// Suggestion is a tolerance that reports speak for.
type Suggestion struct {
	// Rule is the entry for the list tolerances of the configuration, as YAML.
	Rule string `json:"rule"`
	Name string `json:"name"`
	// Saves is what the divergences cost that it would have hidden.
	Saves   Cost     `json:"saves"`
	Reports []uint64 `json:"reports"` // their numbers, at most ten
	// Warning says what is risked, "" when nothing is known to be.
	Warning string `json:"warning,omitempty"`
}

// Suggest proposes tolerances from reports. Only differences of equal length within one line are proposed, and none
// whose bytes are not known.
func Suggest(all []*Report) []Suggestion {
	type group struct {
		s   Suggestion
		all []*Report
	}
	groups := map[string]*group{}
	var order []string
	for _, r := range all {
		name, rule, warning := propose(r)
		if rule == "" {
			continue
		}
		g := groups[rule]
		if g == nil {
			g = &group{s: Suggestion{Rule: rule, Name: name, Warning: warning, Reports: []uint64{}}}
			groups[rule] = g
			order = append(order, rule)
		}
		g.all = append(g.all, r)
		g.s.Saves.add(r)
		if len(g.s.Reports) < 10 {
			g.s.Reports = append(g.s.Reports, r.Number)
		}
	}
	if len(all) == 0 {
		return []Suggestion{}
	}
	hours := max(all[len(all)-1].Time.Sub(all[0].Time).Hours(), leastHours)
	out := []Suggestion{}
	for _, k := range order {
		g := groups[k]
		g.s.Saves.rate(hours)
		out = append(out, g.s)
	}
	slices.SortStableFunc(out, func(a, b Suggestion) int {
		return cmp.Or(cmp.Compare(b.Saves.StopMS, a.Saves.StopMS), b.Saves.Count-a.Saves.Count)
	})
	return out
}

// propose is the rule that would have hidden r, if one can.
func propose(r *Report) (name, rule, warning string) {
	f := &r.Flow
	if f.Kind != "tcp" && f.Kind != "udp" {
		return "", "", ""
	}
	where := fmt.Sprintf("protocol: %s, port: %d", f.Kind, f.GuestPort)
	if f.Outgoing {
		where = fmt.Sprintf("protocol: %s, peer_port: %d", f.Kind, f.PeerPort)
	}
	port := f.GuestPort
	if f.Outgoing {
		port = f.PeerPort
	}
	switch k := r.Cause.Kind; {
	case f.Kind == "udp" && !f.Outgoing && slices.Contains([]string{"ssdp", "mdns"}, f.Service):
		return fmt.Sprintf("%s-%d", f.Service, port), fmt.Sprintf("- {name: %s-%d, %s, uncompared: true}", f.Service, port, where),
			"these datagrams are not compared at all any more"
	case k == KindHTTPDate:
		return fmt.Sprintf("date-%d", port), fmt.Sprintf("- {name: date-%d, %s, header: Date}", port, where), ""
	case k == KindHTTPHeader && simpleName(r.Cause.Field):
		n := fmt.Sprintf("%s-%d", strings.ToLower(r.Cause.Field), port)
		return n, fmt.Sprintf("- {name: %s, %s, header: %s}", n, where, r.Cause.Field), "make sure that no client acts on this header"
	case k == KindHTTPCookie:
		n := fmt.Sprintf("set-cookie-%d", port)
		return n, fmt.Sprintf("- {name: %s, %s, header: Set-Cookie}", n, where),
			"the secondary does not know the primary's session: the next request with this cookie diverges, and after a takeover the session is lost"
	case k == KindJSONField && simpleName(r.Cause.Field) && r.Bytes != nil:
		class := classOf(r.Bytes)
		if class == "" {
			return "", "", ""
		}
		n := fmt.Sprintf("json-%s-%d", strings.ToLower(r.Cause.Field), port)
		pattern := fmt.Sprintf(`"%s"\s*:\s*"?(%s)`, regexp.QuoteMeta(r.Cause.Field), class)
		return n, fmt.Sprintf("- {name: %s, %s, pattern: '%s'}", n, where, pattern), "make sure that no client acts on this value"
	}
	return "", "", ""
}

// simpleName says whether s can stand in YAML and in a pattern without quoting.
func simpleName(s string) bool {
	if s == "" || len(s) > 40 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letter(c) && !digit(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// classOf is a pattern for the characters of the word in which the first difference lies.
func classOf(b *Bytes) string {
	in := func(c byte) bool { return digit(c) || letter(c) || strings.IndexByte("-_+/=.:", c) >= 0 }
	digits, hex, word := true, true, true
	for _, side := range [2][]byte{b.Primary, b.Secondary} {
		if b.At >= len(side) || !in(side[b.At]) {
			return ""
		}
		from, to := b.At, b.At
		for from > 0 && side[from-1] != ':' && in(side[from-1]) {
			from--
		}
		for to < len(side) && in(side[to]) {
			to++
		}
		for _, c := range side[from:to] {
			digits = digits && digit(c)
			hex = hex && (digit(c) || c >= 'a' && c <= 'f')
			word = word && in(c)
		}
	}
	switch {
	case digits:
		return `[0-9]+`
	case hex:
		return `[0-9a-f]+`
	case word:
		return `[-0-9A-Za-z_+/=.:]+`
	}
	return ""
}
