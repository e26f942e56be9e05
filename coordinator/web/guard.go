package web

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// refuse answers as the API does.
func refuse(w http.ResponseWriter, code int, sentence string) {
	answer(w, code, map[string]string{"error": sentence})
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // a client that went away needs no answer
}

// Local guards the unix socket: its file mode has decided who may call. A
// browser gets there too, through a tunnel such as ssh -L 8080:/run/colod/api.sock.
// So that no other site's page can make that browser operate colod, requests
// of foreign origin and for foreign hosts are refused.
func Local(h http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return secured(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !localHost(r.Host) {
			refuse(w, http.StatusForbidden, fmt.Sprintf("host %q is not served here; call it localhost", r.Host))
			return
		}
		if err := cross.Check(r); err != nil {
			refuse(w, http.StatusForbidden, "the request comes from another site's page")
			return
		}
		id := Identity{Name: "local", Role: Operate}
		if r.URL.Path == sessionPath {
			showSession(w, r, id)
			return
		}
		h.ServeHTTP(w, withCaller(r, id))
	}))
}

// localHost reports whether a Host header names this machine as a tunnel's
// user does, or the API's clients.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	switch strings.ToLower(host) {
	case "", "colod", "localhost", "unix":
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.IsLoopback()
}

// secured sets what keeps a browser from doing more than the page needs.
func secured(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hd := w.Header()
		hd.Set("Content-Security-Policy", policy)
		hd.Set("X-Content-Type-Options", "nosniff")
		hd.Set("X-Frame-Options", "DENY")
		hd.Set("Referrer-Policy", "no-referrer")
		hd.Set("Cross-Origin-Opener-Policy", "same-origin")
		hd.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.ServeHTTP(w, r)
	})
}

// policy lets the page use its own script, style and API, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Remote guards the API over TLS.
type Remote struct {
	tokens *Tokens
	now    func() time.Time
	cross  *http.CrossOriginProtection

	mu       sync.Mutex
	sessions map[[sha256.Size]byte]session
}

// session is a browser that has shown a token.
type session struct {
	token [sha256.Size]byte
	until time.Time
}

const (
	sessionPath  = "/v1/session"
	cookieName   = "__Host-colod"
	sessionLasts = 12 * time.Hour
	maxSessions  = 1000
	maxBody      = 4 << 10
)

// NewRemote makes a guard that knows these tokens, and client certificates
// that TLS has verified.
func NewRemote(tokens *Tokens) *Remote {
	return &Remote{tokens: tokens, now: time.Now, cross: http.NewCrossOriginProtection(), sessions: map[[sha256.Size]byte]session{}}
}

// Guard lets through who may. Everybody may fetch the page, which shows
// nothing by itself, and the session.
func (g *Remote) Guard(h http.Handler) http.Handler {
	return secured(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		if err := g.cross.Check(r); err != nil {
			refuse(w, http.StatusForbidden, "the request comes from another site's page")
			return
		}
		if r.URL.Path == sessionPath {
			g.session(w, r)
			return
		}
		id := g.identify(r)
		if public(r) {
			h.ServeHTTP(w, withCaller(r, id))
			return
		}
		need := needs(r)
		switch {
		case id.Role == NoRole:
			w.Header().Set("WWW-Authenticate", `Bearer realm="colod"`)
			sentence := "show a token (Authorization: Bearer ...) or a client certificate with a role"
			if err := g.tokens.Err(); err != nil {
				sentence = "no token counts: the server's file of tokens cannot be read; its log says why"
			}
			refuse(w, http.StatusUnauthorized, sentence)
		case id.Role < need:
			refuse(w, http.StatusForbidden, fmt.Sprintf("%s may %s; this needs the role %s", id.Name, id.Role, need))
		default:
			h.ServeHTTP(w, withCaller(r, id))
		}
	}))
}

// public are the files of the page.
func public(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	_, ok := files[r.URL.Path]
	return ok
}

// identify finds who calls: what is shown first counts, certificate, token, session.
func (g *Remote) identify(r *http.Request) Identity {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if id := certificateIdentity(r.TLS.VerifiedChains[0][0]); id.Role != NoRole {
			return id
		}
	}
	if kind, text, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(kind, "Bearer") {
		_, id, _ := g.tokens.check(strings.TrimSpace(text))
		return id
	}
	c, err := r.Cookie(cookieName)
	if err != nil {
		return Identity{}
	}
	key := sha256.Sum256([]byte(c.Value))
	g.mu.Lock()
	s, ok := g.sessions[key]
	if ok && g.now().After(s.until) {
		delete(g.sessions, key)
		ok = false
	}
	g.mu.Unlock()
	if !ok {
		return Identity{}
	}
	id, _ := g.tokens.lookup(s.token) // ends with its token
	return id
}

// session serves /v1/session: GET tells who one is, POST begins a session
// with a token, DELETE ends it.
func (g *Remote) session(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		g.login(w, r)
	case http.MethodDelete:
		if c, err := r.Cookie(cookieName); err == nil {
			g.mu.Lock()
			delete(g.sessions, sha256.Sum256([]byte(c.Value)))
			g.mu.Unlock()
		}
		setCookie(w, "", -1)
		answer(w, http.StatusOK, sessionInfo{Role: NoRole.String()})
	default:
		showSession(w, r, g.identify(r))
	}
}

type sessionInfo struct {
	Name string `json:"name"`
	Role string `json:"role"`
}

func showSession(w http.ResponseWriter, r *http.Request, id Identity) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "the local socket needs no session")
		return
	}
	answer(w, http.StatusOK, sessionInfo{id.Name, id.Role.String()})
}

func (g *Remote) login(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Token string `json:"token"`
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(b, &req)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, `body is not {"token":"..."}`)
		return
	}
	hash, id, ok := g.tokens.check(strings.TrimSpace(req.Token))
	if !ok {
		refuse(w, http.StatusUnauthorized, "this token is not known here")
		return
	}
	value, err := g.begin(hash)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	setCookie(w, value, int(sessionLasts/time.Second))
	answer(w, http.StatusOK, sessionInfo{id.Name, id.Role.String()})
}

func (g *Remote) begin(token [sha256.Size]byte) (string, error) {
	value := rand.Text()
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.sessions) >= maxSessions {
		for k, s := range g.sessions {
			if now.After(s.until) {
				delete(g.sessions, k)
			}
		}
		if len(g.sessions) >= maxSessions {
			return "", errors.New("too many sessions; try again later")
		}
	}
	g.sessions[sha256.Sum256([]byte(value))] = session{token: token, until: now.Add(sessionLasts)}
	return value, nil
}

// setCookie: the prefix __Host- binds the cookie to this host, TLS and the path /.
func setCookie(w http.ResponseWriter, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}
