package e2e

import (
	"testing"
	"time"

	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// ordinary is what most tests have on the guest while something happens to it:
// numbered bytes over both versions of IP, and commands that each have to be
// carried out once.
func ordinary() []client.Load {
	return []client.Load{
		{Kind: client.Echo, Name: "echo", Rate: 40 << 10},
		{Kind: client.Echo, Name: "echo over IPv6", Host: image.GuestIPv6, Rate: 40 << 10},
		{Kind: client.Redis, Name: "redis", Rate: 10},
	}
}

// working tells that a client has its connection and got something over it.
func working(r client.Report) bool { return r.Open && (r.Bytes > 0 || r.Kind == client.Upload) }

// begin starts clients that end with the test. With until, it waits for each of
// them: for working, mostly.
func begin(t *testing.T, l *lab.Lab, until func(client.Report) bool, loads ...client.Load) *client.Session {
	t.Helper()
	s, err := l.Client(t.Context(), loads)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if until != nil {
		if _, err := s.Await(3*time.Minute, until); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// unbroken begins the clients' clocks anew and returns what they saw since the
// last time. A connection that broke or a wrong byte ends the test.
func unbroken(t *testing.T, s *client.Session, what string) []client.Report {
	t.Helper()
	reports, err := s.Mark()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !sound(t, what, reports) {
		t.FailNow()
	}
	return reports
}

// finished stops the clients. What one of them misses then is an error.
func finished(t *testing.T, s *client.Session) []client.Report {
	t.Helper()
	reports, err := s.Stop()
	if err != nil {
		t.Fatal(err)
	}
	sound(t, "at the end", reports)
	for _, r := range reports {
		if !r.Done {
			t.Errorf("at the end: client %s is not done: %+v", r.Name, r)
		}
	}
	return reports
}

// sound reports each client that lost, repeated or changed something, or whose
// connection broke.
func sound(t *testing.T, what string, reports []client.Report) bool {
	t.Helper()
	ok := true
	for _, r := range reports {
		if !r.Clean() {
			t.Errorf("%s: client %s: lost %d, repeated %d, corrupt %d, %q", what, r.Name, r.Lost, r.Repeated, r.Corrupt, r.Error)
			ok = false
		}
	}
	return ok
}

// silence is the longest time, in ms, that a client heard nothing from the last
// mark on.
func silence(reports []client.Report) float64 {
	longest := 0.0
	for _, r := range reports {
		longest = max(longest, r.FirstMS)
	}
	return longest
}
