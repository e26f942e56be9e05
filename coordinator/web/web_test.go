package web

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"colod/internal/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with who calls.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	id := Caller(r.Context())
	fmt.Fprintf(w, "%s %s", id.Name, id.Role)
})

func makeToken(t *testing.T, name string, role Role) (token, line string) {
	t.Helper()
	token, line, err := NewToken(name, role)
	if err != nil {
		t.Fatal(err)
	}
	return token, line
}

func tokensFile(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func request(method, target string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestLocal(t *testing.T) {
	h := Local(echo)
	for _, tt := range []struct {
		what string
		r    *http.Request
		code int
	}{
		{"the command line", request("POST", "http://colod/v1/stop"), 200},
		{"curl", request("GET", "http://localhost/v1/status"), 200},
		{"a tunnel", request("GET", "http://localhost:8080/v1/status"), 200},
		{"a tunnel over IPv6", request("GET", "http://[::1]:8080/v1/status"), 200},
		{"the page itself", request("POST", "http://127.0.0.1:8080/v1/stop", "Origin", "http://127.0.0.1:8080", "Sec-Fetch-Site", "same-origin"), 200},
		{"another site", request("POST", "http://localhost:8080/v1/stop", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"), 403},
		{"another site, old browser", request("POST", "http://localhost:8080/v1/stop", "Origin", "https://evil.example"), 403},
		{"a name that was bound to this host", request("GET", "http://evil.example:8080/v1/status"), 403},
		{"another host's address", request("GET", "http://192.0.2.1/v1/status"), 403},
	} {
		w := serve(h, tt.r)
		if w.Code != tt.code {
			t.Errorf("%s: %d %s, want %d", tt.what, w.Code, w.Body, tt.code)
		}
		if w.Code == 200 && w.Body.String() != "local operate" {
			t.Errorf("%s: the caller is %s", tt.what, w.Body)
		}
		if p := w.Header().Get("Content-Security-Policy"); !strings.Contains(p, "default-src 'none'") || strings.Contains(p, "unsafe") {
			t.Errorf("%s: policy %q", tt.what, p)
		}
	}
	if w := serve(h, request("GET", "http://colod/v1/session")); w.Body.String() != `{"name":"local","role":"operate"}`+"\n" {
		t.Errorf("session: %s", w.Body)
	}
	if w := serve(h, request("POST", "http://colod/v1/session")); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("sign in: %d", w.Code)
	}
}

func TestRemoteByToken(t *testing.T) {
	look, lookLine := makeToken(t, "grafana", Read)
	operate, operateLine := makeToken(t, "alice", Operate)
	path := tokensFile(t, "# a comment", "", lookLine, operateLine)
	tokens, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	h := NewRemote(tokens).Guard(echo)
	try := func(method, path, token string) (int, string) {
		t.Helper()
		r := request(method, "https://a:7443"+path)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := serve(h, r)
		return w.Code, w.Body.String()
	}
	for _, tt := range []struct {
		method, path, token string
		code                int
		body                string
	}{
		{"GET", "/v1/status", "", 401, "show a token"},
		{"GET", "/metrics", "", 401, "show a token"},
		{"GET", "/v1/status", look + "x", 401, ""},
		{"GET", "/v1/status", look, 200, "grafana read"},
		{"HEAD", "/v1/status", look, 200, ""},
		{"POST", "/v1/stop", look, 403, "grafana may read; this needs the role operate"},
		{"DELETE", "/v1/nodes/b", look, 403, ""},
		{"POST", "/v1/stop", operate, 200, "alice operate"},
		{"GET", "/", "", 200, " none"},
		{"GET", "/app.js", "", 200, " none"},
		{"POST", "/", "", 401, ""},
		{"GET", "/v1/../metrics", "", 401, ""},
	} {
		code, body := try(tt.method, tt.path, tt.token)
		if code != tt.code || !strings.Contains(body, tt.body) {
			t.Errorf("%s %s: %d %s, want %d %s", tt.method, tt.path, code, body, tt.code, tt.body)
		}
	}
	// Another site's page cannot use what a browser adds by itself.
	r := request("POST", "https://a:7443/v1/stop", "Authorization", "Bearer "+operate, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")
	if w := serve(h, r); w.Code != 403 {
		t.Errorf("cross-site: %d", w.Code)
	}
	// A token ends with its line; a file with a mistake lets nobody in.
	rewrite := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Duration(len(text)) * time.Second)
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(operateLine + "\n")
	if code, _ := try("GET", "/v1/status", look); code != 401 {
		t.Errorf("a token that was taken out: %d", code)
	}
	if code, _ := try("GET", "/v1/status", operate); code != 200 {
		t.Errorf("a token that stayed: %d", code)
	}
	rewrite(operateLine + "\nnonsense\n")
	if code, body := try("GET", "/v1/status", operate); code != 401 || !strings.Contains(body, "cannot be read") {
		t.Errorf("with a mistake in the file: %d %s", code, body)
	}
	rewrite(operateLine + "\n" + lookLine + "\n")
	if code, _ := try("GET", "/v1/status", look); code != 200 {
		t.Errorf("after it was mended: %d", code)
	}
}

func TestSession(t *testing.T) {
	token, line := makeToken(t, "alice", Operate)
	path := tokensFile(t, line)
	tokens, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	g := NewRemote(tokens)
	now := time.Now()
	g.now = func() time.Time { return now }
	h := g.Guard(echo)
	signIn := func(body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "https://a/v1/session", strings.NewReader(body))
		return serve(h, r)
	}
	for _, bad := range []string{"", "{}", `{"token":"x"}`, "[]", strings.Repeat("x", 10000)} {
		if w := signIn(bad); w.Code != 400 && w.Code != 401 || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%.20q: %d %s", bad, w.Code, w.Body)
		}
	}
	w := signIn(`{"token":"` + token + `"}`)
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"role":"operate"`) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	c := w.Result().Cookies()[0]
	if !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || strings.Contains(c.Value, token) {
		t.Errorf("cookie %+v", c)
	}
	with := func(method, path string) *httptest.ResponseRecorder {
		r := request(method, "https://a"+path)
		r.AddCookie(c)
		return serve(h, r)
	}
	if w := with("POST", "/v1/stop"); w.Code != 200 || w.Body.String() != "alice operate" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	now = now.Add(sessionLasts + time.Second)
	if w := with("GET", "/v1/status"); w.Code != 401 {
		t.Errorf("after its time: %d", w.Code)
	}
	c = signIn(`{"token":"` + token + `"}`).Result().Cookies()[0]
	if w := with("DELETE", "/v1/session"); w.Code != 200 {
		t.Errorf("sign out: %d", w.Code)
	}
	if w := with("GET", "/v1/status"); w.Code != 401 {
		t.Errorf("after signing out: %d", w.Code)
	}
	c = signIn(`{"token":"` + token + `"}`).Result().Cookies()[0]
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if w := with("GET", "/v1/status"); w.Code != 401 {
		t.Errorf("after the token was taken out: %d", w.Code)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	token, line := makeToken(t, "alice", Read)
	tokens, err := OpenTokens(tokensFile(t, line))
	if err != nil {
		t.Fatal(err)
	}
	g := NewRemote(tokens)
	now := time.Now()
	g.now = func() time.Time { return now }
	hash, _, _ := tokens.check(token)
	for range maxSessions {
		if _, err := g.begin(hash); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.begin(hash); err == nil {
		t.Error("one too many was begun")
	}
	now = now.Add(sessionLasts + time.Second)
	if _, err := g.begin(hash); err != nil || len(g.sessions) != 1 {
		t.Errorf("after their time: %v, %d sessions", err, len(g.sessions))
	}
}

func TestTokenFile(t *testing.T) {
	_, line := makeToken(t, "alice", Read)
	for _, tt := range []struct{ text, want string }{
		{"alice read", ":1: 2 words, want NAME ROLE HASH"},
		{line + "\nbob write " + strings.Repeat("0", 64), `:2: role "write" is not known`},
		{"bob none " + strings.Repeat("0", 64), `role "none" is not known`},
		{"b\x1bob read " + strings.Repeat("0", 64), `cannot be a token's name`},
		{"bob read 1234", "the hash is not 64 hexadecimal digits"},
		{strings.Repeat(line+"\n", maxTokens+1), "more than 1000 tokens"},
	} {
		if _, err := OpenTokens(tokensFile(t, tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40q: %v, want %s", tt.text, err, tt.want)
		}
	}
	if _, err := OpenTokens(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent file was read")
	}
	open := tokensFile(t, line)
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokens(open); err == nil || !strings.Contains(err.Error(), "chmod 640") {
		t.Errorf("a file that all can write: %v", err)
	}
	for _, name := range []string{"", "a b", "a\n", strings.Repeat("x", 65), "é"} {
		if _, _, err := NewToken(name, Read); err == nil {
			t.Errorf("a token named %q was made", name)
		}
	}
	if _, _, err := NewToken("a", NoRole); err == nil {
		t.Error("a token without a role was made")
	}
}

// TestServer: over real TLS, with client certificates.
func TestServer(t *testing.T) {
	dir := t.TempDir()
	ca, err := certs.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	save := func(n *certs.Node, err error, name string) {
		t.Helper()
		if err == nil {
			err = n.Save(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := ca.Save(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	node, err := ca.Issue("a", time.Hour)
	save(node, err, "a")
	reader, err := ca.IssueClient("grafana", RoleURI(Read), time.Hour)
	save(reader, err, "grafana")
	operator, err := ca.IssueClient("alice", RoleURI(Operate), time.Hour)
	save(operator, err, "alice")
	other, err := certs.NewAuthority("other", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.IssueClient("mallory", RoleURI(Operate), time.Hour)
	save(foreign, err, "mallory")
	var log bytes.Buffer
	s, err := Listen(Options{
		Listen: "127.0.0.1:0", Cert: filepath.Join(dir, "a.pem"), Key: filepath.Join(dir, "a.key"), ClientCA: filepath.Join(dir, "ca.pem"),
		Handler: echo, Log: zerolog.New(zerolog.SyncWriter(&log)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Serve()
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	call := func(method, name string) (int, string, error) {
		conf := &tls.Config{RootCAs: pool, ServerName: "a"}
		if name != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
			if err != nil {
				t.Fatal(err)
			}
			// Shown also to a server that would not take it.
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
		r, err := http.NewRequest(method, "https://"+s.Addr().String()+"/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	for _, tt := range []struct {
		method, cert string
		code         int
		body         string
	}{
		{"GET", "", 401, "show a token"},
		{"GET", "grafana", 200, "grafana read"},
		{"POST", "grafana", 403, "grafana may read"},
		{"POST", "alice", 200, "alice operate"},
		{"GET", "a", 401, ""}, // a node is no caller
	} {
		code, body, err := call(tt.method, tt.cert)
		if err != nil || code != tt.code || !strings.Contains(body, tt.body) {
			t.Errorf("%s as %q: %d %s %v, want %d %s", tt.method, tt.cert, code, body, err, tt.code, tt.body)
		}
	}
	if code, body, err := call("GET", "mallory"); err == nil {
		t.Errorf("a certificate of another authority: %d %s", code, body)
	}
	// Without TLS there is nothing.
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
	answer, _ := io.ReadAll(conn) // a reset is as good as an end
	if bytes.Contains(answer, []byte("200 OK")) {
		t.Errorf("in plain text: %s", answer)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	good := Options{Listen: "127.0.0.1:0", Cert: filepath.Join(dir, "c"), Key: filepath.Join(dir, "k"), ClientCA: filepath.Join(dir, "ca"), Handler: echo}
	if _, err := Listen(good); err == nil || !strings.Contains(err.Error(), "authority of clients") {
		t.Errorf("without files: %v", err)
	}
	if err := os.WriteFile(good.ClientCA, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(good); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("with an empty authority: %v", err)
	}
	good.Tokens = filepath.Join(dir, "absent")
	if _, err := Listen(good); err == nil || !strings.Contains(err.Error(), "read tokens") {
		t.Errorf("without tokens: %v", err)
	}
}

// TestPageNeedsNothingElse: no part of the page names another host, carries
// script or style in its markup, or makes markup of text.
func TestPageNeedsNothingElse(t *testing.T) {
	mux := http.NewServeMux()
	Routes(mux.HandleFunc)
	foreign := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	for path, f := range files {
		w := serve(mux, request("GET", "http://colod"+path))
		if w.Code != 200 || w.Header().Get("Content-Type") != f.kind || w.Body.Len() == 0 {
			t.Fatalf("%s: %d, %s, %d bytes", path, w.Code, w.Header().Get("Content-Type"), w.Body.Len())
		}
		text := strings.ReplaceAll(w.Body.String(), "http://www.w3.org/2000/svg", "")
		if m := foreign.FindString(text); m != "" {
			t.Errorf("%s names %s", path, m)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "javascript:"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s holds %s", path, bad)
			}
		}
		if f.name == "index.html" {
			if m := regexp.MustCompile(`<style|\sstyle=|\son[a-z]+=|<script[^>]*>[^<]`).FindString(text); m != "" {
				t.Errorf("the page holds %q, which its policy forbids", m)
			}
		}
	}
	if w := serve(mux, request("GET", "http://colod/other")); w.Code != 404 {
		t.Errorf("another path: %d", w.Code)
	}
}
