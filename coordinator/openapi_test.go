package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"colod/internal/report"
)

var update = flag.Bool("update", false, "write the schemas of docs/openapi.yaml anew")

const (
	openAPIFile = "../docs/openapi.yaml"
	// schemasFollow is the line behind which the file is made from the code.
	schemasFollow = "  schemas:\n"
)

// apiTypes are what requests and answers are made of, by name; those that
// they contain come along.
var apiTypes = map[string]any{
	"NodeStatus": NodeStatus{}, "PairStatus": PairStatus{}, "Cluster": Cluster{}, "Event": Event{}, "AuditEntry": AuditEntry{},
	"SeriesAnswer": SeriesAnswer{}, "CheckpointRecord": CheckpointRecord{}, "OpRequest": OpRequest{}, "AdoptRequest": AdoptRequest{}, "AdoptAnswer": AdoptAnswer{}, "ReleaseRequest": ReleaseRequest{}, "Error": apiError{}, "Report": report.Report{}, "ReportStats": ReportStats{},
	"StopRequest": struct {
		WithGuests bool `json:"with_guests"`
	}{},
	"RecordRequest": struct {
		For string `json:"for"`
	}{},
	"Session": struct {
		Name string `json:"name"`
		Role string `json:"role"`
	}{},
	"SignIn": struct {
		Token string `json:"token"`
	}{},
}

// schemas makes JSON Schemas of Go types.
type schemas struct {
	names map[reflect.Type]string
	done  map[string]string // YAML by name
	docs  map[string]string // sentences by package, type and field
}

func newSchemas(t *testing.T) *schemas {
	t.Helper()
	s := &schemas{names: map[reflect.Type]string{}, done: map[string]string{}, docs: map[string]string{}}
	for _, dir := range []string{".", "metrics", "registry", "placement", "watchdog", "heartbeat", "../internal/report"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f, "_test.go") {
				s.readDocs(t, f)
			}
		}
	}
	return s
}

// readDocs takes the comments of types and fields.
func (s *schemas) readDocs(t *testing.T, file string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	text := func(groups ...*ast.CommentGroup) string {
		for _, g := range groups {
			if g != nil {
				return strings.Join(strings.Fields(g.Text()), " ")
			}
		}
		return ""
	}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range g.Specs {
			ts, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			key := f.Name.Name + "." + ts.Name.Name
			s.docs[key] = text(ts.Doc, g.Doc)
			if st, ok := ts.Type.(*ast.StructType); ok {
				for _, field := range st.Fields.List {
					for _, n := range field.Names {
						s.docs[key+"."+n.Name] = text(field.Comment, field.Doc)
					}
				}
			}
		}
	}
}

func quoteYAML(s string) string {
	b, _ := json.Marshal(s) // a string always can be; JSON's strings are YAML's
	return string(b)
}

// of is the schema of a type, in YAML's flow style.
func (s *schemas) of(t reflect.Type, absent bool) string {
	null := func(kind string) string {
		if absent {
			return kind
		}
		return "[" + kind + `, "null"]`
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "type: string, format: date-time"
	case t.Kind() != reflect.Pointer && (t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]())):
		return "type: string"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem(), absent)
	case reflect.Bool:
		return "type: boolean"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "type: integer"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "type: integer, minimum: 0"
	case reflect.Float32, reflect.Float64:
		return "type: number"
	case reflect.String:
		return "type: string"
	case reflect.Interface:
		return ""
	case reflect.Slice:
		return fmt.Sprintf("type: %s, items: {%s}", null("array"), s.of(t.Elem(), true))
	case reflect.Array:
		return fmt.Sprintf("type: array, minItems: %d, maxItems: %d, items: {%s}", t.Len(), t.Len(), s.of(t.Elem(), true))
	case reflect.Map:
		return fmt.Sprintf("type: %s, additionalProperties: {%s}", null("object"), s.of(t.Elem(), true))
	case reflect.Struct:
		return `$ref: "#/components/schemas/` + s.add(t, "") + `"`
	}
	panic("no schema for " + t.String())
}

// add makes the schema of a struct and returns its name.
func (s *schemas) add(t reflect.Type, name string) string {
	if n := s.names[t]; n != "" {
		return n
	}
	if name == "" {
		if name = t.Name(); s.done[name] != "" || apiTypes[name] != nil && reflect.TypeOf(apiTypes[name]) != t {
			pkg := path.Base(t.PkgPath())
			name = strings.ToUpper(pkg[:1]) + pkg[1:] + name
		}
	}
	s.names[t], s.done[name] = name, "-" // it may contain itself
	var b strings.Builder
	fmt.Fprintf(&b, "    %s:\n      type: object\n", name)
	if doc := s.docs[path.Base(t.PkgPath())+"."+t.Name()]; t.Name() != "" && doc != "" {
		fmt.Fprintf(&b, "      description: %s\n", quoteYAML(doc))
	}
	var required []string
	var props strings.Builder
	s.fields(t, &props, &required)
	if len(required) > 0 && !strings.HasSuffix(name, "Request") {
		fmt.Fprintf(&b, "      required: [%s]\n", strings.Join(required, ", "))
	}
	fmt.Fprintf(&b, "      properties:\n%s", props.String())
	s.done[name] = b.String()
	return name
}

func (s *schemas) fields(t reflect.Type, b *strings.Builder, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" {
			s.fields(f.Type, b, required)
			continue
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		optional := strings.Contains(opts, "omit")
		if !optional {
			*required = append(*required, tag)
		}
		schema := s.of(f.Type, optional)
		if doc := s.docs[path.Base(t.PkgPath())+"."+t.Name()+"."+f.Name]; t.Name() != "" && doc != "" {
			if schema != "" {
				schema += ", "
			}
			schema += "description: " + quoteYAML(doc)
		}
		fmt.Fprintf(b, "        %s: {%s}\n", tag, schema)
	}
}

func (s *schemas) yaml() string {
	for _, name := range slices.Sorted(maps.Keys(apiTypes)) {
		s.add(reflect.TypeOf(apiTypes[name]), name)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.done)) {
		b.WriteString(s.done[name])
	}
	return b.String()
}

// openAPI reads the description.
func openAPI(t *testing.T) (text string, doc map[string]any) {
	t.Helper()
	data, err := os.ReadFile(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	return string(data), doc
}

// described matches the sentences of a schema.
var described = regexp.MustCompile(`(?m)(?:, )?description: "(?:[^"\\]|\\.)*"|^ *description: "(?:[^"\\]|\\.)*"\n`)

// TestOpenAPISchemas: the schemas in the description are those of the code.
func TestOpenAPISchemas(t *testing.T) {
	text, _ := openAPI(t)
	head, old, ok := strings.Cut(text, schemasFollow)
	if !ok {
		t.Fatalf("no line %q in %s", strings.TrimSpace(schemasFollow), openAPIFile)
	}
	made := newSchemas(t).yaml()
	if !*update {
		if described.ReplaceAllString(old, "") == described.ReplaceAllString(made, "") {
			return // sentences may lag behind
		}
		t.Fatalf("the schemas in %s are not those of the code; make them anew with: go test ./coordinator -run TestOpenAPISchemas -update", openAPIFile)
	}
	if err := os.WriteFile(openAPIFile, []byte(head+schemasFollow+made), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestOpenAPIRoutes: every route is described, and what is described exists.
func TestOpenAPIRoutes(t *testing.T) {
	p := newTestPair(t)
	n, err := NewNode(Options{Config: p.config("a"), Version: "test", Platform: newFakePlatform(p.config("a"), p.hosts)})
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	// The session is served by the guards.
	for _, m := range []string{"get", "post", "delete"} {
		served[m+" /v1/session"] = true
	}
	n.surface = &surface{n: n}
	for _, pattern := range (&apiServer{n: n}).routes().patterns {
		method, path, ok := strings.Cut(pattern, " ")
		if !ok {
			continue // what answers that there is no such route
		}
		served[strings.ToLower(method)+" "+strings.TrimSuffix(path, "{$}")] = true
	}
	_, doc := openAPI(t)
	described := map[string]bool{}
	ids := map[string]string{}
	for path, item := range doc["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			route := method + " " + path
			described[route] = true
			id, _ := op.(map[string]any)["operationId"].(string)
			if id == "" || ids[id] != "" {
				t.Errorf("%s: operationId %q is missing, or that of %s", route, id, ids[id])
			}
			ids[id] = route
			if !served[route] {
				t.Errorf("%s is described in %s and not served", route, openAPIFile)
			}
		}
	}
	for route := range served {
		if !described[route] {
			t.Errorf("%s is served and not described; add it under paths in %s, like its neighbours", route, openAPIFile)
		}
	}
}

// validator checks answers against the description. Properties that are not
// described are an error here, though clients must pass over them.
type validator struct {
	t   *testing.T
	doc map[string]any
}

func newValidator(t *testing.T) *validator {
	t.Helper()
	_, doc := openAPI(t)
	for _, s := range doc["components"].(map[string]any)["schemas"].(map[string]any) {
		if s := s.(map[string]any); s["properties"] != nil {
			s["additionalProperties"] = false
		}
	}
	return &validator{t, doc}
}

// content is the schema of an answer with its kind.
func (v *validator) content(route string, code int) (map[string]any, string) {
	v.t.Helper()
	method, path, _ := strings.Cut(route, " ")
	item, _ := v.doc["paths"].(map[string]any)[path].(map[string]any)
	op, _ := item[strings.ToLower(method)].(map[string]any)
	responses, _ := op["responses"].(map[string]any)
	r, ok := responses[fmt.Sprint(code)].(map[string]any)
	if !ok {
		v.t.Errorf("%s: the answer %d is not described", route, code)
		return nil, ""
	}
	content, _ := r["content"].(map[string]any)
	for kind, c := range content {
		schema, _ := c.(map[string]any)["schema"].(map[string]any)
		return schema, kind
	}
	return nil, ""
}

func (v *validator) check(route string, code int, kind string, body []byte) {
	v.t.Helper()
	schema, want := v.content(route, code)
	if schema == nil {
		return
	}
	if got, _, _ := strings.Cut(kind, ";"); got != want {
		v.t.Errorf("%s: the answer %d is %s, described as %s", route, code, kind, want)
		return
	}
	docs := [][]byte{body}
	switch want {
	case "application/json":
	case "application/x-ndjson":
		docs = bytes.SplitAfter(body, []byte("\n"))
	default:
		return
	}
	c := jsonschema.NewCompiler()
	// JSON in between, so that all numbers are of the kind that the compiler knows.
	root := map[string]any{"$schema": "https://json-schema.org/draft/2020-12/schema", "components": v.doc["components"], "allOf": []any{schema}}
	b, err := json.Marshal(root)
	if err != nil {
		v.t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err == nil {
		err = c.AddResource("mem:///openapi.json", parsed)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	sch, err := c.Compile("mem:///openapi.json")
	if err != nil {
		v.t.Fatalf("%s: %v", route, err)
	}
	for _, d := range docs {
		if len(bytes.TrimSpace(d)) == 0 {
			continue
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(d))
		if err == nil {
			err = sch.Validate(value)
		}
		if err != nil {
			v.t.Errorf("%s: the answer %d is not as described: %v\n%s", route, code, err, d)
		}
	}
}

// TestOpenAPIAnswers: what a node answers is as described.
func TestOpenAPIAnswers(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	v := newValidator(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", p.nodes["a"].cfg.API.Socket)
	}}}
	var call func(method, path, body, route string, want int)
	call = func(method, path, body, route string, want int) {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, method, "http://colod"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if resp.StatusCode == http.StatusConflict && want == http.StatusOK && ctx.Err() == nil {
			// A busy machine can cost the pair its protection for a moment.
			v.check(route, resp.StatusCode, resp.Header.Get("Content-Type"), b)
			time.Sleep(100 * time.Millisecond)
			call(method, path, body, route, want)
			return
		}
		if resp.StatusCode != want {
			t.Errorf("%s %s: answer %d, want %d: %s", method, path, resp.StatusCode, want, b)
		}
		v.check(route, resp.StatusCode, resp.Header.Get("Content-Type"), b)
	}
	get := func(path, route string, want int) { t.Helper(); call(http.MethodGet, path, "", "GET "+route, want) }
	get("/v1/status", "/v1/status", 200)
	get("/v1/pairs/g", "/v1/pairs/{name}", 200)
	get("/v1/pairs/nobody", "/v1/pairs/{name}", 404)
	for {
		a, err := p.nodes["a"].client.Series(ctx, "g", 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Points) > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	get("/v1/pairs/g/series", "/v1/pairs/{name}/series", 200)
	get("/v1/pairs/g/series?after=x", "/v1/pairs/{name}/series", 400)
	get("/v1/pairs/nobody/series", "/v1/pairs/{name}/series", 404)
	get("/v1/cluster", "/v1/cluster", 200)
	get("/v1/events?follow=false&since=all", "/v1/events", 200)
	get("/v1/events?follow=perhaps", "/v1/events", 400)
	get("/v1/events?since=yesterday", "/v1/events", 400)
	get("/metrics", "/metrics", 200)
	get("/v1/session", "/v1/session", 200)
	for _, f := range []string{"/", "/app.js", "/chart.js", "/style.css", "/icon.svg"} {
		get(f, f, 200)
	}
	post := func(path, body, route string, want int) {
		t.Helper()
		call(http.MethodPost, path, body, "POST "+route, want)
	}
	post("/v1/pairs/g/checkpoint", "", "/v1/pairs/{name}/checkpoint", 200)
	post("/v1/pairs/g/stop", `{"grace":"for ever"}`, "/v1/pairs/{name}/stop", 400)
	post("/v1/pairs/g/start", "{}", "/v1/pairs/{name}/start", 200)
	post("/v1/pairs/g/migrate", `{"target":"nobody"}`, "/v1/pairs/{name}/migrate", 409)
	post("/v1/pairs/nobody/protect", "{}", "/v1/pairs/{name}/protect", 404)
	post("/v1/pairs/g/maintenance", `{"on":true,"why":"test"}`, "/v1/pairs/{name}/maintenance", 200)
	get("/v1/status", "/v1/status", 200)
	post("/v1/maintenance", `{"on":false}`, "/v1/maintenance", 200)
	call(http.MethodDelete, "/v1/nodes/b", "", "DELETE /v1/nodes/{name}", 409)
	get("/v1/audit", "/v1/audit", 200)
	get("/v1/audit?limit=0", "/v1/audit", 400)
	get("/v1/pairs/g/reports", "/v1/pairs/{name}/reports", 200)
	get("/v1/pairs/g/reports?last=0", "/v1/pairs/{name}/reports", 400)
	get("/v1/pairs/nobody/reports", "/v1/pairs/{name}/reports", 404)
	get("/v1/pairs/g/reports/stats", "/v1/pairs/{name}/reports/stats", 200)
	get("/v1/pairs/nobody/reports/stats", "/v1/pairs/{name}/reports/stats", 404)
	post("/v1/pairs/g/record", `{"for":"never"}`, "/v1/pairs/{name}/record", 400)
	post("/v1/stop", `{"with":1}`, "/v1/stop", 400)
	post("/v1/stop", "{}", "/v1/stop", 202)
}
