package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Example is a complete configuration file: every key with its sentence,
// required keys with an example value, the others commented out with their
// defaults.
func Example() string {
	var b strings.Builder
	b.WriteString("# Configuration of colod. Keys behind a # show their defaults, keys behind ## another choice.\n")
	writeExample(&b, reflect.TypeFor[Config](), 0, false, "# ")
	return b.String()
}

// writeExample writes the keys of a type. off stands before keys that may be
// left out; it is empty within a block that is commented out as a whole.
func writeExample(b *strings.Builder, t reflect.Type, depth int, item bool, off string) {
	for i, f := range fieldsOf(t) {
		pad := strings.Repeat("  ", depth)
		lead := pad
		if item && i == 0 {
			lead = strings.Repeat("  ", depth-1) + "- "
		}
		doc := f.sf.Tag.Get("doc")
		if enum := f.sf.Tag.Get("enum"); strings.Contains(enum, ",") {
			doc += " One of " + strings.ReplaceAll(enum, ",", ", ") + "."
		}
		ft := f.sf.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if !(item && i == 0) {
			if depth == 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(b, "%s# %s\n", pad, doc)
		}
		switch {
		case f.sf.Tag.Get("other") == "true":
			// The other of two: with two signs, so that taking one kind of sign off leaves a file that can be used.
			fmt.Fprintf(b, "%s## %s:\n", lead, f.name)
			var in strings.Builder
			if ft.Kind() == reflect.Slice {
				writeExample(&in, ft.Elem(), depth+2, true, "")
			} else {
				writeExample(&in, ft, depth+1, false, "")
			}
			for line := range strings.Lines(in.String()) {
				b.WriteString(pad + "## " + strings.TrimPrefix(line, pad))
			}
		case ft.Kind() == reflect.Struct:
			if f.sf.Tag.Get("required") != "true" && f.sf.Type.Kind() != reflect.Pointer {
				fmt.Fprintf(b, "%s# %s:\n", lead, f.name)
				var in strings.Builder
				writeExample(&in, ft, depth+1, false, "")
				for line := range strings.Lines(in.String()) {
					b.WriteString(pad + "# " + strings.TrimPrefix(line, pad))
				}
			} else {
				fmt.Fprintf(b, "%s%s:\n", lead, f.name)
				writeExample(b, ft, depth+1, false, off)
			}
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			fmt.Fprintf(b, "%s%s:\n", lead, f.name)
			writeExample(b, ft.Elem(), depth+2, true, off)
			if ft.Elem() == reflect.TypeFor[PairNode]() {
				p := strings.Repeat("  ", depth+1)
				fmt.Fprintf(b, "%s- name: b\n%s  address: 198.51.100.2:7420\n", p, p)
			}
		case ft.Kind() == reflect.Slice && f.sf.Tag.Get("required") == "true":
			fmt.Fprintf(b, "%s%s: %s\n", lead, f.name, f.sf.Tag.Get("example"))
		case ft.Kind() == reflect.Slice:
			fmt.Fprintf(b, "%s%s%s: []\n", lead, off, f.name)
		case ft.Kind() == reflect.Map:
			fmt.Fprintf(b, "%s%s%s: {}\n", lead, off, f.name)
		case f.sf.Tag.Get("required") == "true":
			fmt.Fprintf(b, "%s%s: %s\n", lead, f.name, quote(f.sf.Tag.Get("example")))
		case off == "" && f.sf.Tag.Get("example") != "": // in a block that is commented out as a whole
			fmt.Fprintf(b, "%s%s: %s\n", lead, f.name, quote(f.sf.Tag.Get("example")))
		default:
			fmt.Fprintf(b, "%s%s%s: %s\n", lead, off, f.name, quote(f.sf.Tag.Get("default")))
		}
	}
}

// quote writes a scalar so that YAML reads it as the same text.
func quote(s string) string {
	if s == "" || strings.Contains(s, ": ") || (strings.Count(s, ":") > 1) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// Schema is the JSON Schema (draft 2020-12) of the file, for editors.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Config](), reflect.StructField{})
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "colod configuration"
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // the tree is made of maps and strings only
	}
	return append(out, '\n')
}

func schemaOf(t reflect.Type, sf reflect.StructField) map[string]any {
	s := map[string]any{}
	if doc := sf.Tag.Get("doc"); doc != "" {
		s["description"] = doc
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == durationType:
		s["type"] = "string"
		s["pattern"] = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`
	case t == sizeType:
		s["type"] = "string"
		s["pattern"] = `^[0-9]+ ?[KMGTkmgt]([iI]?[bB])?$`
	case t.Kind() == reflect.Struct:
		s["type"] = "object"
		s["additionalProperties"] = false
		props := map[string]any{}
		var required []string
		for _, f := range fieldsOf(t) {
			props[f.name] = schemaOf(f.sf.Type, f.sf)
			if f.sf.Tag.Get("required") == "true" {
				required = append(required, f.name)
			}
		}
		s["properties"] = props
		if len(required) > 0 {
			s["required"] = required
		}
	case t.Kind() == reflect.Slice:
		s["type"] = "array"
		s["items"] = schemaOf(t.Elem(), reflect.StructField{})
	case t.Kind() == reflect.Map:
		s["type"] = "object"
		s["additionalProperties"] = map[string]any{"type": []string{"string", "number", "boolean"}}
	case t.Kind() == reflect.Bool:
		s["type"] = "boolean"
	case t.Kind() == reflect.Int:
		s["type"] = "integer"
		if lo, hi, ok := bounds(sf); ok {
			s["minimum"], s["maximum"] = lo, hi
		}
	default:
		s["type"] = "string"
	}
	if enum := sf.Tag.Get("enum"); enum != "" {
		s["enum"] = strings.Split(enum, ",")
	}
	if def := sf.Tag.Get("default"); def != "" {
		switch t.Kind() {
		case reflect.Bool:
			s["default"] = def == "true"
		case reflect.Int:
			if t != durationType {
				s["default"] = json.Number(def)
			}
		default:
			s["default"] = def
		}
		if t == durationType || t == sizeType {
			s["default"] = def
		}
	}
	return s
}
