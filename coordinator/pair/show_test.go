package pair

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"colod/coordinator/arbiter"
)

// show is an event, action or message as one readable line: its name and its
// fields that are not zero.
func show(v any) string {
	rv := reflect.ValueOf(v)
	t := rv.Type()
	if t.Kind() != reflect.Struct {
		return fmt.Sprint(v)
	}
	var parts []string
	for i := range t.NumField() {
		f := rv.Field(i)
		if !t.Field(i).IsExported() || f.IsZero() {
			continue
		}
		x := f.Interface()
		switch x := x.(type) {
		case time.Time:
			parts = append(parts, fmt.Sprintf("%s=%s", t.Field(i).Name, x.Format("05.000")))
		case arbiter.Record:
			parts = append(parts, fmt.Sprintf("%s={%s}", t.Field(i).Name, x))
		case Message:
			parts = append(parts, show(x))
		case string:
			parts = append(parts, fmt.Sprintf("%s=%q", t.Field(i).Name, x))
		default:
			parts = append(parts, fmt.Sprintf("%s=%v", t.Field(i).Name, x))
		}
	}
	return strings.TrimSpace(t.Name() + " " + strings.Join(parts, " "))
}
