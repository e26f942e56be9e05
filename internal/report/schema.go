package report

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// Schema is the JSON Schema (draft 2020-12) of a Report; docs/report-schema.json is its copy.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Report](), "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "colod divergence report"
	s["description"] = "One divergence between the two copies of a guest, version 1. colod report list --json and export --format json write one such object a line. Fields may be added within a version."
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // made of maps and strings only
	}
	return append(out, '\n')
}

// docs are the sentences of the schema, by path.
var docs = map[string]string{
	"version":              "Version of this schema.",
	"number":               "Grows by one with each report of a pair on a node.",
	"time":                 "When the divergence was found.",
	"node":                 "The node that spoke and wrote the report.",
	"pair":                 "The pair.",
	"generation":           "Generation of the arbiter's record.",
	"epoch":                "Checkpoints completed in this protection before the divergence.",
	"reason":               "What the comparison saw: payload, length, flags, options, silence-secondary, silence-primary, protocol, queue, lost, manual, unparsable or timer.",
	"detail":               "A sentence of the comparison.",
	"cause":                "What differs, in words.",
	"cause.kind":           "Word for programs.",
	"cause.title":          "A short phrase.",
	"cause.field":          "What differs within the protocol, such as a header's name. It comes from the payload.",
	"cause.advice":         "What can be done about it.",
	"cause.sure":           "True when the bytes prove it; else it is the likeliest explanation.",
	"flow":                 "The connection, from the guest's side.",
	"flow.kind":            "tcp, udp, icmp, nd, arp, group, fragment, ip or other; empty when no connection is concerned.",
	"flow.guest":           "The guest's address.",
	"flow.guest_port":      "The guest's port.",
	"flow.peer":            "The other end's address.",
	"flow.peer_port":       "The other end's port.",
	"flow.ether":           "Ethernet type.",
	"flow.protocol":        "IP protocol.",
	"flow.vlan":            "4096 plus the inner tag's number, and the same of the outer tag times 65536.",
	"flow.service":         "Name of the well-known port.",
	"flow.outgoing":        "True when the guest is the client of the connection.",
	"flow.text":            "All of it in one line.",
	"position":             "Where the first difference is.",
	"position.exact":       "True when stream, frame and offset are known: the secondary's bytes were there in time.",
	"position.absolute":    "True when stream counts from the first byte of the connection, else from the first byte compared since the last checkpoint.",
	"position.stream":      "Position of the first difference in the stream; for datagrams in the compared part.",
	"position.frame":       "Its offset in the primary's Ethernet frame.",
	"position.seq":         "TCP sequence number at which the differing range begins.",
	"position.length":      "Length of that range, bytes.",
	"position.offset":      "Offset of the first difference within it.",
	"bytes":                "Both sides' bytes around the first difference.",
	"bytes.payload":        "full, redact or none: what the configuration lets be written.",
	"bytes.at":             "Offset of the first difference in the bytes below.",
	"bytes.primary":        "Hexadecimal.",
	"bytes.secondary":      "Hexadecimal.",
	"bytes.different":      "Ranges [from, to) that differ, found before anything was redacted.",
	"timing":               "When the two sides spoke.",
	"timing.primary":       "Kernel's time of the primary's frame that waited longest, by its host's clock.",
	"timing.secondary":     "Kernel's time at which the secondary last spoke in this connection, by its host's clock.",
	"timing.held_us":       "How long the primary's frame had waited, microseconds.",
	"checkpoint":           "The checkpoint that healed the divergence.",
	"checkpoint.number":    "Its number.",
	"checkpoint.stop_ms":   "How long the guest stood still, milliseconds.",
	"checkpoint.cost_ms":   "From the request to the release of what it covers, milliseconds.",
	"checkpoint.bytes":     "State sent, bytes.",
	"checkpoint.delay_ms":  "From the divergence to the request, milliseconds.",
	"checkpoint.reasons":   "All that asked for it.",
	"checkpoint.shared_by": "Divergences that it healed; they share its cost.",
	"rule":                 "The tolerance that had hidden a difference in the same connection since the last checkpoint.",
	"left_out":             "Divergences since the report before of which there is none, by the reason: rate, queue, disk.",
}

func schemaOf(t reflect.Type, path string) map[string]any {
	s := map[string]any{}
	if d := docs[path]; d != "" {
		s["description"] = d
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		s["type"], s["format"] = "string", "date-time"
	case t == reflect.TypeFor[hexBytes]():
		s["type"], s["pattern"] = "string", "^([0-9a-f]{2})*$"
	case t.Kind() == reflect.Struct:
		s["type"] = "object"
		props, required := map[string]any{}, []string{}
		for i := range t.NumField() {
			name, opts, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			props[name] = schemaOf(t.Field(i).Type, strings.TrimPrefix(path+"."+name, "."))
			if opts != "omitempty" {
				required = append(required, name)
			}
		}
		s["properties"], s["required"] = props, required
	case t.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", schemaOf(t.Elem(), "-")
	case t.Kind() == reflect.Slice:
		s["type"], s["items"] = "array", schemaOf(t.Elem(), "-")
	case t.Kind() == reflect.Array:
		s["type"], s["items"], s["minItems"], s["maxItems"] = "array", schemaOf(t.Elem(), "-"), t.Len(), t.Len()
	case t.Kind() == reflect.Bool:
		s["type"] = "boolean"
	case t.Kind() == reflect.String:
		s["type"] = "string"
	case t.Kind() == reflect.Float64:
		s["type"] = "number"
	default:
		s["type"] = "integer"
	}
	if path == "cause.kind" {
		s["enum"] = Kinds()
	}
	if path == "version" {
		s["const"] = Version
	}
	return s
}
