package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// EncodePair writes the description of a pair as JSON with the keys of the
// file, so that another node can read it with DecodePair.
func EncodePair(p *Pair) ([]byte, error) {
	return json.Marshal(plain(reflect.ValueOf(*p)))
}

// plain turns a value into what encoding/json writes with the file's keys.
func plain(v reflect.Value) any {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := m.MarshalText(); err == nil {
			return string(b)
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for _, f := range fieldsOf(v.Type()) {
			fv := v.Field(f.index)
			if k := fv.Kind(); (k == reflect.Pointer || k == reflect.Slice || k == reflect.Map) && fv.IsNil() {
				continue
			}
			out[f.name] = plain(fv)
		}
		return out
	case reflect.Slice:
		out := make([]any, 0, v.Len())
		for i := range v.Len() {
			out = append(out, plain(v.Index(i)))
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for _, k := range v.MapKeys() {
			out[k.String()] = plain(v.MapIndex(k))
		}
		return out
	}
	return v.Interface()
}

// DecodePair reads what EncodePair wrote on another node, and checks it as
// strictly as a file, for use on a node that need not be in its list. name is
// shown in problems in the place of a file's. The devices that belong to the
// other node are replaced by bridge and tap.
func DecodePair(name string, data []byte, bridge, tap string) (*Pair, error) {
	p := &Pair{}
	d := decode(name, data, p)
	if !d.broken {
		p.Network.Bridge, p.Network.Tap, p.Network.Uplink = bridge, tap, tap+"up"
		c := &Config{Pairs: []Pair{*p}}
		ck := checker{shifted(d)}
		ck.pairs(c)
		d.problems = ck.d.problems
	}
	if len(d.problems) > 0 {
		return nil, d.sorted()
	}
	if strings.TrimSpace(p.Name) == "" {
		return nil, fmt.Errorf("%s: the pair has no name", name)
	}
	return p, nil
}

// shifted is the decoder of one pair in the place of a list of one.
func shifted(d *decoder) *decoder {
	s := &decoder{file: d.file, problems: d.problems, pos: map[string]place{"pairs": {}}}
	for key, at := range d.pos {
		if key == "" {
			s.pos["pairs[0]"] = at
		} else {
			s.pos["pairs[0]."+key] = at
		}
	}
	return s
}
