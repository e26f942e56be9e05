package web

import (
	"embed"
	"net/http"
)

//go:embed assets
var assets embed.FS

// files are the page's parts by path.
var files = map[string]struct{ name, kind string }{
	"/":          {"index.html", "text/html; charset=utf-8"},
	"/app.js":    {"app.js", "text/javascript; charset=utf-8"},
	"/chart.js":  {"chart.js", "text/javascript; charset=utf-8"},
	"/style.css": {"style.css", "text/css; charset=utf-8"},
	"/icon.svg":  {"icon.svg", "image/svg+xml"},
}

// Routes tells where the page's parts are; register is called for each.
func Routes(register func(pattern string, h func(http.ResponseWriter, *http.Request))) {
	for path, f := range files {
		body, err := assets.ReadFile("assets/" + f.name)
		if err != nil {
			panic("web: " + err.Error()) // the binary was built without its parts
		}
		pattern := "GET " + path
		if path == "/" {
			pattern += "{$}"
		}
		register(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", f.kind)
			w.Header().Set("Cache-Control", "no-cache") // a new colod has a new page
			_, _ = w.Write(body)                        // a client that went away needs no answer
		})
	}
}
