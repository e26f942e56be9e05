package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"colod/internal/lab/pattern"
)

// oneConn is an HTTP client over exactly one connection: when that breaks, the
// client is broken. The standard client would quietly open another one.
type oneConn struct {
	c    net.Conn
	r    *bufio.Reader
	host string
}

func openHTTP(ctx context.Context, l Load) (*oneConn, error) {
	c, err := dial(ctx, l, 80)
	if err != nil {
		return nil, err
	}
	return &oneConn{c: c, r: bufio.NewReaderSize(c, 64<<10), host: l.Host}, nil
}

func openHTTPS(ctx context.Context, l Load) (*oneConn, error) {
	pem, err := os.ReadFile(l.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificate %s: none in it", l.Key)
	}
	c, err := dial(ctx, l, 443)
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, &tls.Config{RootCAs: pool, ServerName: l.Host})
	c.SetDeadline(time.Now().Add(patience))
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return &oneConn{c: t, r: bufio.NewReaderSize(t, 64<<10), host: l.Host}, nil
}

// send writes one request; body may be nil.
func (h *oneConn) send(m *meter, method, path string, size int64, body io.Reader) error {
	host := h.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, host)
	if body != nil {
		head += "Content-Length: " + strconv.FormatInt(size, 10) + "\r\n"
	}
	m.waiting()
	h.c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(h.c, head+"\r\n"); err != nil {
		return err
	}
	if body == nil {
		return nil
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			h.c.SetDeadline(time.Now().Add(patience))
			if _, werr := h.c.Write(buf[:n]); werr != nil {
				return werr
			}
			// The other side took it: as good as an answer.
			m.heard(true)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// answer reads one response's head and checks its status.
func (h *oneConn) answer(m *meter) (*http.Response, error) {
	h.c.SetDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(h.r, nil)
	if err != nil {
		return nil, err
	}
	m.heard(true)
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answer %s", resp.Status)
	}
	return resp, nil
}

// text does one small GET and returns the trimmed body.
func (h *oneConn) text(m *meter, path string) (string, error) {
	if err := h.send(m, "GET", path, 0, nil); err != nil {
		return "", err
	}
	resp, err := h.answer(m)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	m.heard(false)
	return strings.TrimSpace(string(b)), err
}

// rounds calls one until the client is told to end or has done its count.
func rounds(ctx context.Context, l Load, m *meter, one func(i int) (int64, error)) error {
	p := newPacer(l.Rate)
	for i := 0; (l.Count == 0 || i < l.Count) && !m.stopping(); i++ {
		p.wait(m.stop, 1)
		if m.stopping() && i > 0 {
			break
		}
		n, err := one(i)
		if err != nil {
			return fmt.Errorf("%s, round %d: %w", l.Name, i+1, err)
		}
		m.update(func(r *Report) { r.Rounds++; r.Bytes += n })
	}
	return nil
}

func counter(ctx context.Context, l Load, m *meter) error {
	h, err := openHTTP(ctx, l)
	if err != nil {
		return fmt.Errorf("counter: %w", err)
	}
	defer h.c.Close()
	m.update(func(r *Report) { r.Open = true })
	last := int64(0)
	return rounds(ctx, l, m, func(int) (int64, error) {
		s, err := h.text(m, "/counter")
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		m.update(func(r *Report) {
			switch {
			case last == 0 || n == last+1:
			case n > last+1:
				r.Lost += n - last - 1
			default:
				r.Repeated++
			}
			r.Last = s
		})
		last = n
		return int64(len(s)), nil
	})
}

func random(ctx context.Context, l Load, m *meter) error {
	h, err := openHTTP(ctx, l)
	if err != nil {
		return fmt.Errorf("random: %w", err)
	}
	defer h.c.Close()
	m.update(func(r *Report) { r.Open = true })
	if l.Size == 0 {
		l.Size = 4096
	}
	return rounds(ctx, l, m, func(int) (int64, error) {
		if err := h.send(m, "GET", fmt.Sprintf("/random?bytes=%d", l.Size), 0, nil); err != nil {
			return 0, err
		}
		resp, err := h.answer(m)
		if err != nil {
			return 0, err
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err
		}
		m.heard(false)
		sum := sha256.Sum256(b)
		if int64(len(b)) != l.Size || resp.Header.Get("X-Sha256") != hex.EncodeToString(sum[:]) {
			m.update(func(r *Report) { r.Corrupt++ })
		}
		return int64(len(b)), nil
	})
}

func https(ctx context.Context, l Load, m *meter) error {
	h, err := openHTTPS(ctx, l)
	if err != nil {
		return fmt.Errorf("https: %w", err)
	}
	defer h.c.Close()
	m.update(func(r *Report) { r.Open = true })
	if l.Size == 0 {
		l.Size = 16 << 10
	}
	return rounds(ctx, l, m, func(int) (int64, error) {
		return h.static(l.Size, 0, m)
	})
}

// static gets content of the given size and compares it as it comes.
func (h *oneConn) static(size int64, rate int, m *meter) (int64, error) {
	if err := h.send(m, "GET", fmt.Sprintf("/static/%d", size), 0, nil); err != nil {
		return 0, err
	}
	resp, err := h.answer(m)
	if err != nil {
		return 0, err
	}
	if resp.ContentLength != size {
		return 0, fmt.Errorf("answer of %d bytes, want %d", resp.ContentLength, size)
	}
	p := newPacer(rate)
	buf := make([]byte, 64<<10)
	off := int64(0)
	for off < size {
		h.c.SetDeadline(time.Now().Add(patience))
		n, err := resp.Body.Read(buf)
		if n > 0 {
			m.heard(off+int64(n) < size)
			if bad := differ(buf[:n], off); bad > 0 {
				m.update(func(r *Report) { r.Corrupt += bad })
			}
			off += int64(n)
			if rate > 0 {
				m.update(func(r *Report) { r.Bytes += int64(n) })
				p.wait(m.stop, n)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return off, fmt.Errorf("after %d of %d bytes: %w", off, size, err)
		}
	}
	m.heard(false)
	if off != size {
		m.update(func(r *Report) { r.Lost += size - off })
		return off, fmt.Errorf("ended after %d of %d bytes", off, size)
	}
	if rate > 0 {
		return 0, nil // already counted
	}
	return off, nil
}

// differ counts the bytes that are not the static content at that offset.
func differ(b []byte, off int64) int64 {
	bad := int64(0)
	for len(b) > 0 {
		want := pattern.Static(off)
		n := min(len(want), len(b))
		if !bytes.Equal(b[:n], want[:n]) {
			for i := range n {
				if b[i] != want[i] {
					bad++
				}
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return bad
}

// download gets static content over one connection, again and again.
func download(ctx context.Context, l Load, m *meter) error {
	h, err := openHTTP(ctx, l)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer h.c.Close()
	m.update(func(r *Report) { r.Open = true })
	if l.Size == 0 {
		l.Size = 1 << 20
	}
	rate := l.Rate
	l.Rate = 0
	return rounds(ctx, l, m, func(int) (int64, error) { return h.static(l.Size, rate, m) })
}

// upload sends a numbered stream and compares the digest that the guest found.
func upload(ctx context.Context, l Load, m *meter) error {
	h, err := openHTTP(ctx, l)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	defer h.c.Close()
	m.update(func(r *Report) { r.Open = true })
	if l.Size == 0 {
		l.Size = 1 << 20
	}
	rate := l.Rate
	l.Rate = 0
	stream := streamNumber(l)
	return rounds(ctx, l, m, func(int) (int64, error) {
		digest := sha256.New()
		body := &source{ctx: ctx, stream: stream, left: l.Size, pace: newPacer(rate), digest: digest, m: m}
		if err := h.send(m, "POST", "/upload", l.Size, body); err != nil {
			return 0, err
		}
		resp, err := h.answer(m)
		if err != nil {
			return 0, err
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err
		}
		m.heard(false)
		if strings.TrimSpace(string(b)) != hex.EncodeToString(digest.Sum(nil)) {
			m.update(func(r *Report) { r.Corrupt++ })
			return 0, fmt.Errorf("the guest got other bytes: SHA-256 %s, sent %x", bytes.TrimSpace(b), digest.Sum(nil))
		}
		return l.Size, nil
	})
}

// source is a paced reader of a numbered stream.
type source struct {
	ctx    context.Context
	stream uint64
	off    uint64
	left   int64
	pace   *pacer
	digest io.Writer
	m      *meter
}

func (s *source) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), s.left, 16<<10))
	pattern.Fill(b[:n], s.stream, s.off)
	s.digest.Write(b[:n])
	s.off += uint64(n)
	s.left -= int64(n)
	s.pace.wait(s.ctx, n)
	return n, nil
}

// fetch serves a page slowly from this host and lets the guest get it for us:
// the guest's own connection is the one under test.
func fetch(ctx context.Context, l Load, m *meter) error {
	if l.Size == 0 {
		l.Size = 256 << 10
	}
	if l.Rate == 0 {
		l.Rate = 64 << 10
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(l.Own, "0"))
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	rate := l.Rate
	l.Rate = 0
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(l.Size, 10))
		p := newPacer(rate)
		for off := int64(0); off < l.Size; {
			b := pattern.Static(off)
			b = b[:min(int64(len(b)), l.Size-off, 4096)]
			if _, err := w.Write(b); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			off += int64(len(b))
			p.wait(ctx, len(b))
		}
	})}
	go srv.Serve(ln)
	defer srv.Close()
	h, err := openHTTP(ctx, l)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	defer h.c.Close()
	m.update(func(r *Report) { r.Open = true })
	return rounds(ctx, l, m, func(int) (int64, error) {
		if err := h.send(m, "GET", "/fetch?url=http://"+ln.Addr().String()+"/page", 0, nil); err != nil {
			return 0, err
		}
		resp, err := h.answer(m)
		if err != nil {
			return 0, err
		}
		buf, off := make([]byte, 64<<10), int64(0)
		for {
			h.c.SetDeadline(time.Now().Add(patience))
			n, err := resp.Body.Read(buf)
			if n > 0 {
				m.heard(off+int64(n) < l.Size)
				bad := differ(buf[:n], off)
				off += int64(n)
				m.update(func(r *Report) { r.Corrupt += bad })
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return off, err
			}
		}
		m.heard(false)
		if off != l.Size {
			m.update(func(r *Report) { r.Lost += l.Size - off })
		}
		return off, nil
	})
}
