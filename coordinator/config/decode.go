package config

import (
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	yaml "github.com/goccy/go-yaml"
)

// maxFile bounds the configuration file.
const maxFile = 1 << 20

// decoder walks a YAML tree beside the configuration's types. It is used
// instead of the library's own decoding because that stops at the first
// error and has no position for values that a type's own method refuses.
type decoder struct {
	file     string
	problems Problems
	pos      map[string]place // key path -> where it stands, for checks that follow
	broken   bool             // the tree could not be read at all
}

type place struct{ line, column int }

var (
	durationType = reflect.TypeFor[Duration]()
	sizeType     = reflect.TypeFor[Size]()
)

// decode fills out (with defaults first) and collects all problems.
func decode(file string, data []byte, out any) *decoder {
	d := &decoder{file: file, pos: map[string]place{}}
	v := reflect.ValueOf(out).Elem()
	setDefaults(v)
	body := d.parse(data)
	if body == nil {
		return d
	}
	d.value(body, v, "", reflect.StructField{})
	return d
}

// parse reads the text into a tree. The library is kept at arm's length: a
// panic in it becomes a problem of the file.
func (d *decoder) parse(data []byte) (body ast.Node) {
	d.broken = true
	defer func() {
		if r := recover(); r != nil {
			body = nil
			d.broken = true
			d.add(place{}, "", fmt.Sprintf("the YAML reader gave up: %v", r), "simplify the file: plain mappings, lists and scalars are enough")
		}
	}()
	if len(data) > maxFile {
		d.add(place{}, "", fmt.Sprintf("the file has %d bytes, more than %d", len(data), maxFile), "is this the right file?")
		return nil
	}
	f, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var se *yaml.SyntaxError
		if errors.As(err, &se) {
			p := place{}
			if se.Token != nil && se.Token.Position != nil {
				p = place{se.Token.Position.Line, se.Token.Position.Column}
			}
			d.add(p, "", "this is not YAML: "+firstLine(se.Message), "check indentation and quotes of this line and the one above")
			return nil
		}
		d.add(place{}, "", "this is not YAML: "+firstLine(err.Error()), "check indentation and quotes")
		return nil
	}
	var bodies []ast.Node
	for _, doc := range f.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.NullType && doc.Body.Type() != ast.CommentType {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		d.add(place{}, "", "the file is empty", "colod config example prints one to start from")
		return nil
	case 1:
		d.broken = false
		return bodies[0]
	}
	d.add(at(bodies[1]), "", "the file has more than one document", "remove what follows the line ---")
	return nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

func at(n ast.Node) place {
	if n == nil {
		return place{}
	}
	// A mapping's own token is its first colon; its place is its first key.
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return at(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return at(m.Key)
	}
	return tokenPlace(n.GetToken())
}

func tokenPlace(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{}
	}
	return place{t.Position.Line, t.Position.Column}
}

func (d *decoder) add(p place, key, what, cure string) {
	d.problems = append(d.problems, Problem{File: d.file, Line: p.line, Column: p.column, Key: key, What: what, Cure: cure})
}

// value reads node into v, whose key path is key and whose description is sf.
func (d *decoder) value(n ast.Node, v reflect.Value, key string, sf reflect.StructField) {
	if _, seen := d.pos[key]; !seen {
		d.pos[key] = at(n)
	}
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		d.add(at(n), key, "anchors, aliases and merge keys are not used here", "write the value out")
		return
	case *ast.TagNode:
		d.add(at(n), key, "tags are not used here", "write the plain value")
		return
	}
	if v.Type() == durationType || v.Type() == sizeType {
		d.scalar(n, v, key, sf)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
			setDefaults(v.Elem())
		}
		d.value(n, v.Elem(), key, sf)
	case reflect.Struct:
		d.mapping(n, v, key)
	case reflect.Slice:
		d.sequence(n, v, key)
	case reflect.Map:
		d.stringMap(n, v, key)
	default:
		d.scalar(n, v, key, sf)
	}
}

// entries are the key-value nodes of a mapping, or nil and a problem.
func (d *decoder) entries(n ast.Node, key, want string) ([]*ast.MappingValueNode, bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	d.add(at(n), key, "a mapping is expected here, not "+describe(n), want)
	return nil, false
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, key string) {
	fields := fieldsOf(v.Type())
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		names = append(names, f.name)
	}
	entries, ok := d.entries(n, key, "with the keys "+strings.Join(names, ", "))
	if !ok {
		return
	}
	seen := map[string]place{}
	for _, e := range entries {
		name, kp, ok := d.key(e, key)
		if !ok {
			continue
		}
		path := join(key, name)
		if first, dup := seen[name]; dup {
			d.add(kp, path, fmt.Sprintf("the key is given twice, first in line %d", first.line), "remove one of them")
			continue
		}
		seen[name] = kp
		i := indexOf(names, name)
		if i < 0 {
			cure := "the keys here are " + strings.Join(names, ", ")
			if near := nearest(name, names); near != "" {
				cure = "did you mean " + near + "?"
			}
			d.add(kp, path, "unknown key", cure)
			continue
		}
		d.pos[path] = kp
		f := fields[i]
		if e.Value == nil || e.Value.Type() == ast.NullType {
			d.add(kp, path, "the key has no value", "give one or remove the key")
			continue
		}
		d.value(e.Value, v.Field(f.index), path, f.sf)
	}
	for _, f := range fields {
		if f.sf.Tag.Get("required") == "true" {
			if _, ok := seen[f.name]; !ok {
				cure := "add it"
				if ex := f.sf.Tag.Get("example"); ex != "" {
					cure = fmt.Sprintf("add it, for example %s: %s", f.name, ex)
				}
				p := d.pos[key]
				if key == "" {
					p = place{1, 1}
				}
				d.add(p, join(key, f.name), "the key is missing", cure)
			}
		}
	}
}

// key is the name of an entry.
func (d *decoder) key(e *ast.MappingValueNode, parent string) (string, place, bool) {
	p := at(e.Key)
	switch k := e.Key.(type) {
	case *ast.MergeKeyNode, *ast.MappingKeyNode:
		d.add(p, parent, "merge keys and complex keys are not used here", "write the keys out")
		return "", p, false
	case ast.ScalarNode:
		return k.GetToken().Value, p, true
	}
	d.add(p, parent, "the key is not a plain word", "write a plain key")
	return "", p, false
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, key string) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(at(n), key, "a list is expected here, not "+describe(n), "begin each item with a dash")
		return
	}
	for i, item := range s.Values {
		path := fmt.Sprintf("%s[%d]", key, i)
		e := reflect.New(v.Type().Elem()).Elem()
		setDefaults(e)
		if item == nil || item.Type() == ast.NullType {
			d.add(tokenPlace(s.Start), path, "the item has no value", "give one or remove the dash")
		} else {
			d.value(item, e, path, reflect.StructField{})
		}
		v.Set(reflect.Append(v, e))
	}
}

func (d *decoder) stringMap(n ast.Node, v reflect.Value, key string) {
	entries, ok := d.entries(n, key, "with one NAME: value a line")
	if !ok {
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, e := range entries {
		name, kp, ok := d.key(e, key)
		if !ok {
			continue
		}
		path := join(key, name)
		d.pos[path] = kp
		if out.MapIndex(reflect.ValueOf(name)).IsValid() {
			d.add(kp, path, "the key is given twice", "remove one of them")
			continue
		}
		val := reflect.New(v.Type().Elem()).Elem()
		d.value(e.Value, val, path, reflect.StructField{})
		out.SetMapIndex(reflect.ValueOf(name), val)
	}
	v.Set(out)
}

func (d *decoder) scalar(n ast.Node, v reflect.Value, key string, sf reflect.StructField) {
	text, ok := scalarText(n)
	if !ok {
		d.add(at(n), key, "a single value is expected here, not "+describe(n), "write it on the same line as the key")
		return
	}
	if err := setText(v, text); err != nil {
		what, cure, _ := strings.Cut(err.Error(), "; ")
		d.add(at(n), key, what, cure)
		return
	}
	if word, why, ok := strings.Cut(sf.Tag.Get("refused"), "="); ok && text == word { // known, and not offered
		what, cure, _ := strings.Cut(why, "; ")
		d.add(at(n), key, what, cure)
		return
	}
	if enum := sf.Tag.Get("enum"); enum != "" {
		words := strings.Split(enum, ",")
		if indexOf(words, text) < 0 {
			cure := "write one of " + strings.Join(words, ", ")
			if len(words) == 1 {
				cure = "write " + words[0]
			}
			d.add(at(n), key, fmt.Sprintf("%q is not known", text), cure)
		}
	}
	if v.Kind() == reflect.Int {
		if lo, hi, ok := bounds(sf); ok && (v.Int() < lo || v.Int() > hi) {
			d.add(at(n), key, fmt.Sprintf("%d is out of range", v.Int()), fmt.Sprintf("write a number from %d to %d", lo, hi))
		}
	}
}

func bounds(sf reflect.StructField) (lo, hi int64, ok bool) {
	lo, err1 := strconv.ParseInt(sf.Tag.Get("min"), 10, 64)
	hi, err2 := strconv.ParseInt(sf.Tag.Get("max"), 10, 64)
	return lo, hi, err1 == nil && err2 == nil
}

// scalarText is the text of a scalar as it was written, without quotes.
func scalarText(n ast.Node) (string, bool) {
	switch s := n.(type) {
	case *ast.LiteralNode:
		if s.Value == nil {
			return "", true
		}
		return s.Value.Value, true
	case *ast.StringNode:
		return s.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// setText sets v from text; the error has the form "what; cure".
func setText(v reflect.Value, text string) error {
	switch v.Type() {
	case durationType:
		x, err := ParseDuration(text)
		if err != nil {
			return err
		}
		v.SetInt(int64(x))
		return nil
	case sizeType:
		x, err := ParseSize(text)
		if err != nil {
			return err
		}
		v.SetUint(uint64(x))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch text {
		case "true":
			v.SetBool(true)
		case "false":
			v.SetBool(false)
		default:
			return fmt.Errorf("%q is not a yes or no; write true or false", text)
		}
	case reflect.Int:
		x, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number; write digits only", text)
		}
		v.SetInt(int64(x))
	default:
		return fmt.Errorf("values of type %s are not supported; report this", v.Type())
	}
	return nil
}

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	if t, ok := scalarText(n); ok {
		if len(t) > 40 {
			t = t[:40] + "..."
		}
		return fmt.Sprintf("the value %q", t)
	}
	return "this"
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

func indexOf(list []string, s string) int {
	for i, x := range list {
		if x == s {
			return i
		}
	}
	return -1
}

// sorted is the problems in the order of the file.
func (d *decoder) sorted() Problems {
	sort.SliceStable(d.problems, func(i, j int) bool {
		a, b := d.problems[i], d.problems[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	return d.problems
}

// field is one key of a mapping.
type field struct {
	name  string
	index int
	sf    reflect.StructField
}

// fieldsOf lists the keys that a struct type stands for, in its order.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name := sf.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		out = append(out, field{name, i, sf})
	}
	return out
}

// setDefaults fills v with the values of its default tags. A default that
// does not parse is a mistake in this package, which TestDefaults finds.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for _, f := range fieldsOf(v.Type()) {
		fv := v.Field(f.index)
		if def, ok := f.sf.Tag.Lookup("default"); ok {
			if err := setText(fv, def); err != nil {
				panic(fmt.Sprintf("default of %s: %v", f.name, err))
			}
		} else if fv.Kind() == reflect.Struct {
			setDefaults(fv)
		}
	}
}

// nearest is the name at most two edits away from s, or "".
func nearest(s string, names []string) string {
	best, bestD := "", 3
	for _, n := range names {
		if dist := editDistance(s, n); dist < bestD && dist < len(n) {
			best, bestD = n, dist
		}
	}
	return best
}

// editDistance is the Levenshtein distance of two short words.
func editDistance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev = cur
	}
	return prev[len(b)]
}
