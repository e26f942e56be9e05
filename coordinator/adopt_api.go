package coordinator

import (
	"context"
	"net/http"
	"net/url"
)

// adoptRoutes are the routes of taking a running VM and of letting one go.
func (s *apiServer) adoptRoutes() []apiRoute {
	return []apiRoute{
		{http.MethodPost, "/v1/pairs/{name}/adopt", s.adopt, "take a running VM that somebody else started; body AdoptRequest; AdoptAnswer"},
		{http.MethodPost, "/v1/pairs/{name}/release", s.release, "stop protecting the guest and let its VM go, which runs on; body ReleaseRequest; PairStatus"},
	}
}

func (s *apiServer) adopt(w http.ResponseWriter, r *http.Request) {
	var req AdoptRequest
	s.onPair(w, r, &req, func(ctx context.Context, d *driver) (any, error) {
		if req.Check || req.Arguments {
			return d.adopt(ctx, req) // only looks
		}
		var a *AdoptAnswer
		e := AuditEntry{Pair: d.cfg.Name, What: "adopt", Who: caller(r), Args: map[string]any{"monitor": req.Monitor}}
		err := s.audited(e, func(e *AuditEntry) (err error) {
			switch a, err = d.adopt(ctx, req); {
			case err != nil:
			case a.Adopted:
				e.Args["pid"] = a.PID
			default:
				e.Outcome, e.Error = "failed", "the VM does not fit"
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if st, ok := s.n.pairStatus(d.cfg.Name); ok && a.Adopted {
			a.Status = &st
		}
		return a, nil
	})
}

func (s *apiServer) release(w http.ResponseWriter, r *http.Request) {
	var req ReleaseRequest
	s.onPair(w, r, &req, func(ctx context.Context, d *driver) (any, error) {
		e := AuditEntry{Pair: d.cfg.Name, What: "release", Who: caller(r), Args: map[string]any{"force": req.Force}}
		if err := s.audited(e, func(*AuditEntry) error { return d.release(ctx, req) }); err != nil {
			return nil, err
		}
		st, _ := s.n.pairStatus(d.cfg.Name)
		return st, nil
	})
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
