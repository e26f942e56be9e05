package compare

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unsafe"
)

// A snapshot is all that an Engine knows, so that another one goes on exactly as it would. It is made by walking
// over the types: a field that is added to the engine is in it by itself, and a snapshot of a build whose
// types differ is refused.

// ErrSnapshot says that a snapshot cannot be used.
var ErrSnapshot = errors.New("not a snapshot of this version's engine")

// notSaved are the fields of Engine that a new engine has by itself or that are empty between two calls.
var notSaved = map[string]bool{"cfg": true, "dig": true, "out": true}

var byteType = reflect.TypeFor[byte]()

// Snapshot appends the state of e to b. Out must be empty: it belongs after Out and its Reset.
func (e *Engine) Snapshot(b []byte) []byte {
	s := snapWriter{b: b, ids: map[unsafe.Pointer]uint64{}}
	s.uint(layout())
	root := reflect.ValueOf(e).Elem()
	for i := range root.NumField() {
		if !notSaved[root.Type().Field(i).Name] {
			s.value(root.Field(i))
		}
	}
	for len(s.todo) > 0 {
		v := s.todo[0]
		s.todo = s.todo[1:]
		s.value(v)
	}
	return s.b
}

// Restore brings e, a new engine with the configuration of the one that made the snapshot, into its state.
func (e *Engine) Restore(b []byte) error {
	s := snapReader{b: b}
	if s.uint() != layout() {
		return ErrSnapshot
	}
	root := reflect.ValueOf(e).Elem()
	for i := range root.NumField() {
		if !notSaved[root.Type().Field(i).Name] {
			s.value(root.Field(i))
		}
	}
	for i := 0; i < len(s.objects); i++ {
		s.value(s.objects[i])
	}
	if s.err == nil && len(s.b) > 0 {
		s.err = fmt.Errorf("%w: %d bytes are left", ErrSnapshot, len(s.b))
	}
	return s.err
}

// layout is a number for the types that a snapshot is made of.
func layout() uint64 {
	h := uint64(14695981039346656037)
	seen := map[reflect.Type]bool{}
	add := func(s string) {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		add(t.String() + "/" + t.Kind().String())
		if seen[t] {
			return
		}
		seen[t] = true
		switch t.Kind() {
		case reflect.Struct:
			for i := range t.NumField() {
				f := t.Field(i)
				if t == reflect.TypeFor[Engine]() && notSaved[f.Name] {
					continue
				}
				add(f.Name)
				walk(f.Type)
			}
		case reflect.Map:
			walk(t.Key())
			walk(t.Elem())
		case reflect.Array:
			add(fmt.Sprint(t.Len()))
			walk(t.Elem())
		case reflect.Pointer, reflect.Slice:
			walk(t.Elem())
		}
	}
	walk(reflect.TypeFor[Engine]())
	return h
}

// open is v without the protection of unexported fields; v must be addressable.
func open(v reflect.Value) reflect.Value {
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
}

type snapWriter struct {
	b    []byte
	ids  map[unsafe.Pointer]uint64
	next uint64
	todo []reflect.Value
}

func (s *snapWriter) uint(n uint64) { s.b = binary.AppendUvarint(s.b, n) }

func (s *snapWriter) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			s.b = append(s.b, 1)
		} else {
			s.b = append(s.b, 0)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		s.b = binary.AppendVarint(s.b, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		s.uint(v.Uint())
	case reflect.String:
		s.uint(uint64(v.Len()))
		s.b = append(s.b, v.String()...)
	case reflect.Struct:
		for i := range v.NumField() {
			s.value(v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			s.value(v.Index(i))
		}
	case reflect.Slice:
		s.uint(uint64(v.Len()))
		if v.Type().Elem() == byteType {
			s.b = append(s.b, v.Bytes()...)
			return
		}
		for i := range v.Len() {
			s.value(v.Index(i))
		}
	case reflect.Map:
		s.uint(uint64(v.Len()))
		s.entries(v)
	case reflect.Pointer:
		if v.IsNil() {
			s.uint(0)
			return
		}
		p := v.UnsafePointer()
		id := s.ids[p]
		if id == 0 {
			s.next++
			id = s.next
			s.ids[p] = id
			s.todo = append(s.todo, v.Elem())
		}
		s.uint(id)
	case reflect.Func:
	default:
		panic("compare: no snapshot of a " + v.Kind().String())
	}
}

// entries writes a map in the order of its keys, so that equal states make equal snapshots.
func (s *snapWriter) entries(v reflect.Value) {
	type entry struct {
		key   []byte
		value reflect.Value
	}
	all := make([]entry, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		k := snapWriter{}
		k.value(it.Key())
		all = append(all, entry{k.b, it.Value()})
	}
	slices.SortFunc(all, func(a, b entry) int { return bytes.Compare(a.key, b.key) })
	for _, x := range all {
		s.b = append(s.b, x.key...)
		s.value(x.value)
	}
}

type snapReader struct {
	b       []byte
	err     error
	objects []reflect.Value // by number, from 1
}

func (s *snapReader) uint() uint64 {
	n, k := binary.Uvarint(s.b)
	if k <= 0 {
		s.fail()
		return 0
	}
	s.b = s.b[k:]
	return n
}

func (s *snapReader) fail() {
	if s.err == nil {
		s.err = fmt.Errorf("%w: it is damaged", ErrSnapshot)
	}
	s.b = nil
}

// size is a number of things that take at least a byte each.
func (s *snapReader) size() int {
	n := s.uint()
	if n > uint64(len(s.b)) {
		s.fail()
		return 0
	}
	return int(n)
}

func (s *snapReader) value(v reflect.Value) {
	if s.err != nil {
		return
	}
	v = open(v)
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(s.uint() != 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, k := binary.Varint(s.b)
		if k <= 0 || v.OverflowInt(n) {
			s.fail()
			return
		}
		s.b = s.b[k:]
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n := s.uint()
		if v.OverflowUint(n) {
			s.fail()
			return
		}
		v.SetUint(n)
	case reflect.String:
		n := s.size()
		v.SetString(string(s.b[:n]))
		s.b = s.b[n:]
	case reflect.Struct:
		for i := range v.NumField() {
			s.value(v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			s.value(v.Index(i))
		}
	case reflect.Slice:
		s.slice(v)
	case reflect.Map:
		n := s.size()
		if n == 0 {
			if !v.IsNil() {
				v.Clear()
			}
			return
		}
		m := reflect.MakeMapWithSize(v.Type(), n)
		for range n {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			s.value(k)
			s.value(e)
			m.SetMapIndex(k, e)
		}
		v.Set(m)
	case reflect.Pointer:
		s.pointer(v)
	}
}

func (s *snapReader) slice(v reflect.Value) {
	n := s.size()
	if n == 0 {
		v.SetZero()
		return
	}
	sl := reflect.MakeSlice(v.Type(), n, n)
	v.Set(sl)
	if v.Type().Elem() == byteType {
		reflect.Copy(sl, reflect.ValueOf(s.b[:n]))
		s.b = s.b[n:]
		return
	}
	for i := range n {
		s.value(sl.Index(i))
	}
}

func (s *snapReader) pointer(v reflect.Value) {
	id := s.uint()
	switch {
	case id == 0:
		v.SetZero()
	case id <= uint64(len(s.objects)):
		o := s.objects[id-1]
		if o.Type() != v.Type().Elem() {
			s.fail()
			return
		}
		v.Set(o.Addr())
	case id == uint64(len(s.objects))+1:
		o := reflect.New(v.Type().Elem())
		s.objects = append(s.objects, o.Elem())
		v.Set(o)
	default:
		s.fail()
	}
}
