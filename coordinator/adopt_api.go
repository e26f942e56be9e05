package coordinator

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// adoptRoutes are the routes of taking a running VM and of letting one go.
func (s *apiServer) adoptRoutes() []apiRoute {
	return []apiRoute{
		{http.MethodPost, "/v1/pairs/{name}/adopt", s.adopt, "take a running VM that somebody else started; body AdoptRequest; AdoptAnswer"},
		{http.MethodPost, "/v1/pairs/{name}/release", s.release, "stop protecting the guest and let its VM go, which runs on; body ReleaseRequest; PairStatus"},
	}
}

// during is the context of a request that ends with the API as well.
func (s *apiServer) during(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (s *apiServer) adopt(w http.ResponseWriter, r *http.Request) {
	d := s.n.driverOf(r.PathValue("name"))
	if d == nil {
		s.noPair(w, r)
		return
	}
	var req AdoptRequest
	if err := body(r, &req); err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	ctx, cancel := s.during(r)
	defer cancel()
	began := time.Now()
	a, err := d.adopt(ctx, req)
	if !req.Check && !req.Arguments {
		e := AuditEntry{Pair: d.cfg.Name, What: "adopt", Who: caller(r), Args: map[string]any{"monitor": req.Monitor}, Outcome: "done", TookMS: time.Since(began).Milliseconds()}
		switch {
		case err != nil:
			e.Outcome, e.Error = "failed", err.Error()
		case !a.Adopted:
			e.Outcome, e.Error = "failed", "the VM does not fit"
		default:
			e.Args["pid"] = a.PID
		}
		s.n.audit.write(e)
	}
	if err != nil {
		reply(w, http.StatusConflict, apiError{err.Error()})
		return
	}
	if st, ok := s.n.pairStatus(d.cfg.Name); ok && a.Adopted {
		a.Status = &st
	}
	reply(w, http.StatusOK, a)
}

func (s *apiServer) release(w http.ResponseWriter, r *http.Request) {
	d := s.n.driverOf(r.PathValue("name"))
	if d == nil {
		s.noPair(w, r)
		return
	}
	var req ReleaseRequest
	if err := body(r, &req); err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	ctx, cancel := s.during(r)
	defer cancel()
	began := time.Now()
	err := d.release(ctx, req)
	e := AuditEntry{Pair: d.cfg.Name, What: "release", Who: caller(r), Args: map[string]any{"force": req.Force}, Outcome: "done", TookMS: time.Since(began).Milliseconds()}
	if err != nil {
		e.Outcome, e.Error = "failed", err.Error()
	}
	s.n.audit.write(e)
	if err != nil {
		reply(w, http.StatusConflict, apiError{err.Error()})
		return
	}
	st, _ := s.n.pairStatus(d.cfg.Name)
	reply(w, http.StatusOK, st)
}

// Adopt asks for the adoption of a running VM, or whether it fits.
func (c *Client) Adopt(ctx context.Context, pair string, req AdoptRequest) (*AdoptAnswer, error) {
	a := new(AdoptAnswer)
	return a, c.do(ctx, http.MethodPost, "/v1/pairs/"+url.PathEscape(pair)+"/adopt", req, a)
}

// Release asks colod to let a guest's VM go.
func (c *Client) Release(ctx context.Context, pair string, req ReleaseRequest) (*PairStatus, error) {
	st := new(PairStatus)
	return st, c.do(ctx, http.MethodPost, "/v1/pairs/"+url.PathEscape(pair)+"/release", req, st)
}
