package report

import (
	"bytes"
	"fmt"
	"html/template"
	"io"
	"strings"
)

// HTML writes the report as one file that needs nothing else: style and plots are in it.
func HTML(w io.Writer, results []*Result) error {
	type caseView struct {
		Name    string
		Systems []string
		Rows    [][]string
	}
	type view struct {
		*Result
		Where string
		Plots []template.HTML
		Views []caseView
	}
	var all []view
	for _, r := range results {
		v := view{Result: r, Where: r.where()}
		plots, err := r.Plots()
		if err != nil {
			return err
		}
		for _, p := range plots {
			svg, err := inline(p.SVG)
			if err != nil {
				return fmt.Errorf("put %s into the report: %w", p.Name, err)
			}
			v.Plots = append(v.Plots, svg)
		}
		for _, c := range r.Cases {
			cv := caseView{Name: c.Name, Rows: c.rows()}
			for _, s := range c.Systems {
				cv.Systems = append(cv.Systems, s.Name)
			}
			v.Views = append(v.Views, cv)
		}
		all = append(all, v)
	}
	return page.Execute(w, struct {
		Intro string
		All   []view
	}{intro, all})
}

// inline is an SVG document as a part of a page: without what stands before its element.
func inline(svg []byte) (template.HTML, error) {
	i := bytes.Index(svg, []byte("<svg"))
	if i < 0 {
		return "", fmt.Errorf("no svg element in %d bytes", len(svg))
	}
	return template.HTML(svg[i:]), nil
}

// bold turns the Markdown that the tables and paragraphs use into HTML: **strong**, *emphasis* and `code`.
func bold(s string) template.HTML {
	s = template.HTMLEscapeString(s)
	for _, m := range []struct{ mark, tag string }{{"`", "code"}, {"**", "strong"}, {"*", "em"}} {
		parts := strings.Split(s, m.mark)
		if len(parts)%2 == 0 { // one is left over
			continue
		}
		var b strings.Builder
		for i, p := range parts {
			if i%2 == 1 {
				p = "<" + m.tag + ">" + p + "</" + m.tag + ">"
			}
			b.WriteString(p)
		}
		s = b.String()
	}
	return template.HTML(s)
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{"bold": bold, "number": number}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>Benchmarks of colod</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin: .5rem 0 1.2rem; font-size: 13px; display: block; overflow-x: auto; }
td, th { border: 1px solid #ccc; padding: .2rem .5rem; text-align: left; vertical-align: top; }
th { background: #f2f2f2; }
.reached { color: #00734f; } .missed { color: #b03a00; font-weight: bold; }
.quick { background: #fff3d6; padding: .4rem .7rem; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
nav li { margin: .1rem 0; } .where { color: #555; font-size: 13px; }
</style>
</head>
<body>
<h1>Benchmarks of colod</h1>
<p>{{bold .Intro}}</p>
<nav><ul>{{range .All}}<li><a href="#{{.Name}}">{{.Title}}</a></li>{{end}}</ul></nav>
<h2>Wanted and measured</h2>
<table><tr><th>benchmark</th><th>figure</th><th>wanted</th><th>measured</th><th></th></tr>
{{range $r := .All}}{{range .Goals}}<tr><td><a href="#{{$r.Name}}">{{$r.Name}}</a></td><td>{{.Text}}</td><td>{{.Bound}}</td><td>{{number .Got}} {{.Unit}}</td><td>{{if .Reached}}<span class="reached">reached</span>{{else}}<span class="missed">missed</span>{{end}}</td></tr>
{{end}}{{end}}</table>
{{range .All}}
<section id="{{.Name}}">
<h2>{{.Title}}</h2>
{{if .Quick}}<p class="quick">A quick run: it shows that the benchmark works and no more.</p>{{end}}
<p class="where">{{.Where}}</p>
{{range .How}}<p>{{bold .}}</p>{{end}}
{{range .Plots}}<figure>{{.}}</figure>{{end}}
{{range .Views}}<h3>{{.Name}}</h3>
<table><tr><th></th>{{range .Systems}}<th>{{.}}</th>{{end}}</tr>
{{range .Rows}}<tr>{{range .}}<td>{{bold .}}</td>{{end}}</tr>
{{end}}</table>
{{end}}
{{if .Limits}}<p>What the figures do not say:</p><ul>{{range .Limits}}<li>{{bold .}}</li>{{end}}</ul>{{end}}
</section>
{{end}}
</body>
</html>
`))
