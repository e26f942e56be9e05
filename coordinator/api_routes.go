package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"time"

	"colod/coordinator/config"
	"colod/coordinator/pair"
	"colod/coordinator/web"
)

// apiRoute is one route of the API.
type apiRoute struct {
	method, path string
	handle       http.HandlerFunc
	doc          string // what it does and answers
}

// apiOps are the operations on a pair that have a route of their own, POST
// /v1/pairs/{name}/OP, with what they do. Each is answered when it is done or
// refused; the body is an OpRequest and may be left out.
var apiOps = map[pair.Op]string{
	pair.OpProtect:     "protect the guest now",
	pair.OpCheckpoint:  "make the secondary a copy of the primary now",
	pair.OpFailover:    "make the other node the speaker, as if the speaker's VM had died",
	pair.OpSwitchover:  "make the other node the speaker, planned: the present one's VM ends after that",
	pair.OpMigrate:     "give the node target a role (role speaker or secondary)",
	pair.OpStop:        "shut the guest down, or end it after grace; nobody takes over",
	pair.OpStart:       "start an ended guest; on true also a deleted one, anew",
	pair.OpReboot:      "reset the guest",
	pair.OpPause:       "let the guest stand still",
	pair.OpCont:        "let it go on",
	pair.OpDelete:      "end the guest for good and forget its files",
	pair.OpMaintenance: "hold (on true, why) what happens by itself, or no longer",
	pair.OpForce:       "speak here without having won the record; risks two speakers",
}

// table is all routes of the API but those of the surface (see
// surface.routes), which are read only.
func (s *apiServer) table() []apiRoute {
	t := []apiRoute{
		{http.MethodGet, "/v1/status", s.status, "NodeStatus"},
		{http.MethodGet, "/v1/pairs/{name}", s.pair, "PairStatus"},
		{http.MethodGet, "/v1/cluster", s.cluster, "Cluster: all nodes and pairs"},
		{http.MethodGet, "/v1/audit", s.auditLog, "AuditEntry list; parameters limit (100) and pair"},
		{http.MethodPost, "/v1/maintenance", s.maintenance, "maintenance of all pairs of this node; body OpRequest; NodeStatus"},
		{http.MethodDelete, "/v1/nodes/{name}", s.forgetNode, "remove a node from the registry; Cluster"},
		{http.MethodPost, "/v1/stop", s.stop, `stop colod; body {"with_guests":false}`},
	}
	t = append(t, s.adoptRoutes()...)
	for _, op := range slices.Sorted(maps.Keys(apiOps)) {
		t = append(t, apiRoute{http.MethodPost, "/v1/pairs/{name}/" + string(op), func(w http.ResponseWriter, r *http.Request) { s.ask(w, r, op) }, apiOps[op]})
	}
	return t
}

// OpRequest is the body of an operation on a pair.
type OpRequest struct {
	Grace  string `json:"grace,omitempty"`  // stop, delete: how long the guest may take to shut itself down; default vm.grace
	Target string `json:"target,omitempty"` // migrate: the node
	Role   string `json:"role,omitempty"`   // migrate: speaker, secondary, or "" for what it is not yet
	On     bool   `json:"on,omitempty"`     // maintenance: on or off; start: a deleted guest too
	Force  bool   `json:"force,omitempty"`  // start: also a guest that was released on another node, where it may still run
	Why    string `json:"why,omitempty"`    // maintenance: a sentence for the status
}

// maxWhy bounds an operator's sentence.
const maxWhy = 500

// wish checks a request and makes the machine's event of it.
func (q *OpRequest) wish(op pair.Op, d *driver, who AuditWho) (pair.Ask, error) {
	a := pair.Ask{Op: op, Grace: d.cfg.VM.Grace.D(), Target: q.Target, On: q.On, Force: q.Force, Why: q.Why}
	if q.Grace != "" {
		g, err := config.ParseDuration(q.Grace)
		if err != nil || g < 0 || g.D() > time.Hour {
			return a, fmt.Errorf("grace %q is not a duration from 0s to 1h", q.Grace)
		}
		a.Grace = g.D()
	}
	if err := a.Role.UnmarshalText([]byte(q.Role)); q.Role != "" && (err != nil || a.Role == pair.NoRole) {
		return a, fmt.Errorf("role %q is neither speaker nor secondary", q.Role)
	}
	switch {
	case op == pair.OpMigrate && !config.ValidNodeName(q.Target):
		return a, fmt.Errorf("target %q is not the name of a node", q.Target)
	case len(q.Why) > maxWhy:
		return a, fmt.Errorf("why has %d bytes, at most %d allowed", len(q.Why), maxWhy)
	}
	if op == pair.OpMaintenance && a.On && a.Why == "" {
		a.Why = "by " + who.Name
	}
	return a, nil
}

// args are what an audit entry tells of the request.
func (q *OpRequest) args() map[string]any {
	m := map[string]any{}
	for k, v := range map[string]string{"grace": q.Grace, "target": q.Target, "role": q.Role, "why": q.Why} {
		if v != "" {
			m[k] = v
		}
	}
	if q.On {
		m["on"] = true
	}
	return m
}

// badRequest is an error of the request itself, not of the moment.
type badRequest struct{ error }

// onPair answers a request about one pair: it reads the body into req and gives do the pair and a context that ends with the
// request and with the API. What do returns is the answer.
func (s *apiServer) onPair(w http.ResponseWriter, r *http.Request, req any, do func(context.Context, *driver) (any, error)) {
	d := s.n.driverOf(r.PathValue("name"))
	if d == nil {
		s.noPair(w, r)
		return
	}
	if err := body(r, req); err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	answer, err := do(ctx, d)
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		reply(w, http.StatusBadRequest, apiError{err.Error()})
	case err != nil:
		reply(w, http.StatusConflict, apiError{err.Error()})
	default:
		reply(w, http.StatusOK, answer)
	}
}

// audited does what the entry tells and writes into the audit log what came of it. do may add to the entry.
func (s *apiServer) audited(e AuditEntry, do func(*AuditEntry) error) error {
	e.Outcome = "done"
	began := time.Now()
	err := do(&e)
	e.TookMS = time.Since(began).Milliseconds()
	if err != nil {
		e.Outcome, e.Error = "failed", err.Error()
	}
	s.n.audit.write(e)
	return err
}

func (s *apiServer) ask(w http.ResponseWriter, r *http.Request, op pair.Op) {
	var req OpRequest
	s.onPair(w, r, &req, func(ctx context.Context, d *driver) (any, error) {
		who := caller(r)
		a, err := req.wish(op, d, who)
		if err != nil {
			return nil, badRequest{err}
		}
		if err := s.carry(ctx, d, a, &req, who); err != nil {
			return nil, err
		}
		st, _ := s.n.pairStatus(d.cfg.Name)
		return st, nil
	})
}

// carry asks the driver and writes what came of it into the audit log.
func (s *apiServer) carry(ctx context.Context, d *driver, a pair.Ask, req *OpRequest, who AuditWho) error {
	e := AuditEntry{Pair: d.cfg.Name, What: string(a.Op), Who: who, Args: req.args()}
	if a.Op == pair.OpForce {
		begun := e // what is risked must be on record whatever becomes of this colod
		begun.Outcome = "begun"
		s.n.audit.write(begun)
	}
	return s.audited(e, func(*AuditEntry) error { return d.Ask(ctx, a) })
}

// maintenance asks all pairs of the node.
func (s *apiServer) maintenance(w http.ResponseWriter, r *http.Request) {
	var req OpRequest
	if err := body(r, &req); err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	who := caller(r)
	for _, d := range s.n.all() {
		a, err := req.wish(pair.OpMaintenance, d, who)
		if err != nil {
			reply(w, http.StatusBadRequest, apiError{err.Error()})
			return
		}
		if err := s.carry(r.Context(), d, a, &req, who); err != nil {
			reply(w, http.StatusConflict, apiError{fmt.Sprintf("pair %s: %v", d.cfg.Name, err)})
			return
		}
	}
	reply(w, http.StatusOK, s.n.Status())
}

func (s *apiServer) cluster(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, s.n.Cluster(r.Context()))
}

func (s *apiServer) forgetNode(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	reg := s.n.registry()
	switch {
	case reg == nil:
		reply(w, http.StatusConflict, apiError{"the arbiter of this node has no registry; only etcd has one"})
		return
	case name == s.n.cfg.Node || s.n.connected(name):
		reply(w, http.StatusConflict, apiError{fmt.Sprintf("node %q runs; stop colod there first, or it is registered again", name)})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), arbiterLimit(s.n.cfg))
	defer cancel()
	e := AuditEntry{What: "forget node", Who: caller(r), Args: map[string]any{"node": name}}
	if err := s.audited(e, func(*AuditEntry) error { return reg.ForgetNode(ctx, name) }); err != nil {
		reply(w, http.StatusBadGateway, apiError{err.Error()})
		return
	}
	reply(w, http.StatusOK, s.n.Cluster(r.Context()))
}

// maxAudit bounds the entries of one answer.
const maxAudit = 10000

func (s *apiServer) auditLog(w http.ResponseWriter, r *http.Request) {
	limit := 100
	if q := r.URL.Query().Get("limit"); q != "" {
		n, err := strconv.Atoi(q)
		if err != nil || n < 1 || n > maxAudit {
			reply(w, http.StatusBadRequest, apiError{fmt.Sprintf("limit %q is not a number from 1 to %d", q, maxAudit)})
			return
		}
		limit = n
	}
	entries, err := s.n.audit.last(limit, r.URL.Query().Get("pair"))
	if err != nil {
		reply(w, http.StatusInternalServerError, apiError{err.Error()})
		return
	}
	reply(w, http.StatusOK, entries)
}

type callerKey struct{}

// callerContext keeps who is at the other end of the socket.
func callerContext(ctx context.Context, c net.Conn) context.Context {
	if sc, ok := c.(syscall.Conn); ok {
		return context.WithValue(ctx, callerKey{}, whoAtSocket(sc))
	}
	return ctx
}

// caller is who made the request: the process at the unix socket, or the
// certificate or token of the API over TLS.
func caller(r *http.Request) AuditWho {
	if who, ok := r.Context().Value(callerKey{}).(AuditWho); ok {
		return who
	}
	return AuditWho{Name: web.Caller(r.Context()).Name}
}
