// Package browser drives a headless Chromium, for tests of pages: it opens a
// page, runs script in it, takes pictures, and keeps what the page complained
// of and whom it called.
//
// It speaks the DevTools protocol over two pipes (Chromium's option
// --remote-debugging-pipe: JSON messages that end with a zero byte, commands
// on descriptor 3, answers on 4), so it needs neither a driver nor a port.
package browser

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Browser is a running Chromium with one page.
type Browser struct {
	cmd     *exec.Cmd
	in      *os.File
	profile string
	session string
	done    chan struct{} // closed when its answers end

	mu       sync.Mutex
	next     int
	waiting  map[int]chan answer
	problems []string
	requests []string
	err      error
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// callTimeout bounds one command.
const callTimeout = time.Minute

// Start starts program, such as /usr/bin/chromium, with an empty profile and
// an empty page of a size in pixels.
func Start(program string, width, height int) (*Browser, error) {
	profile, err := os.MkdirTemp("", "colod-browser")
	if err != nil {
		return nil, err
	}
	b := &Browser{profile: profile, waiting: map[int]chan answer{}, done: make(chan struct{})}
	childIn, in, err := os.Pipe()
	if err != nil {
		os.RemoveAll(profile)
		return nil, err
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		childIn.Close()
		in.Close()
		os.RemoveAll(profile)
		return nil, err
	}
	b.in = in
	b.cmd = exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--user-data-dir="+profile, fmt.Sprintf("--window-size=%d,%d", width, height), "--remote-debugging-pipe", "about:blank")
	b.cmd.ExtraFiles = []*os.File{childIn, childOut}
	// A group of its own: Chromium is many processes, all of which have to end.
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = b.cmd.Start()
	childIn.Close()
	childOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		os.RemoveAll(profile)
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go b.read(out)
	if err := b.open(width, height); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Browser) open(width, height int) error {
	var target struct{ TargetID string }
	if err := b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		return err
	}
	var attached struct{ SessionID string }
	if err := b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached); err != nil {
		return err
	}
	b.session = attached.SessionID
	for _, c := range []struct {
		method string
		params map[string]any
	}{
		{"Page.enable", nil}, {"Runtime.enable", nil}, {"Network.enable", nil}, {"Log.enable", nil},
		{"Security.setIgnoreCertificateErrors", map[string]any{"ignore": true}},
		{"Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}},
	} {
		if err := b.call(b.session, c.method, c.params, nil); err != nil {
			return err
		}
	}
	return nil
}

// maxMessage bounds what Chromium may send at once; pictures are the longest.
const maxMessage = 64 << 20

func (b *Browser) read(out *os.File) {
	defer close(b.done)
	defer out.Close()
	r := bufio.NewReaderSize(out, 1<<16)
	for {
		line, err := r.ReadBytes(0)
		if err == nil && len(line) > maxMessage {
			err = fmt.Errorf("a message of %d bytes", len(line))
		}
		if err != nil {
			b.mu.Lock()
			b.err = fmt.Errorf("the browser ended: %w", err)
			b.mu.Unlock()
			return
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			answer
		}
		if json.Unmarshal(line[:len(line)-1], &m) != nil {
			continue
		}
		if m.ID == 0 {
			b.event(m.Method, m.Params)
			continue
		}
		b.mu.Lock()
		ch := b.waiting[m.ID]
		delete(b.waiting, m.ID)
		b.mu.Unlock()
		if ch != nil {
			ch <- m.answer
		}
	}
}

// event keeps what a test asks for afterwards.
func (b *Browser) event(method string, params json.RawMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch method {
	case "Runtime.consoleAPICalled":
		var p struct{ Type string }
		if json.Unmarshal(params, &p) == nil && (p.Type == "error" || p.Type == "warning" || p.Type == "assert") {
			b.problems = append(b.problems, "console: "+string(params))
		}
	case "Runtime.exceptionThrown":
		b.problems = append(b.problems, "exception: "+string(params))
	case "Log.entryAdded":
		var p struct {
			Entry struct{ Level, Text, URL string }
		}
		if json.Unmarshal(params, &p) == nil && (p.Entry.Level == "error" || p.Entry.Level == "warning") {
			b.problems = append(b.problems, fmt.Sprintf("log: %s (%s)", p.Entry.Text, p.Entry.URL))
		}
	case "Network.requestWillBeSent":
		var p struct{ Request struct{ URL string } }
		if json.Unmarshal(params, &p) == nil {
			b.requests = append(b.requests, p.Request.URL)
		}
	}
}

func (b *Browser) call(session, method string, params, result any) error {
	ch := make(chan answer, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.waiting[id] = ch
	msg := map[string]any{"id": id, "method": method}
	if params != nil {
		msg["params"] = params
	}
	if session != "" {
		msg["sessionId"] = session
	}
	line, err := json.Marshal(msg)
	if err == nil {
		_, err = b.in.Write(append(line, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case a := <-ch:
		if a.Error != nil {
			return fmt.Errorf("%s: %s", method, a.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(a.Result, result)
	case <-b.done:
		b.mu.Lock()
		defer b.mu.Unlock()
		return fmt.Errorf("%s: %w", method, b.err)
	case <-time.After(callTimeout):
		return fmt.Errorf("%s: no answer in %s", method, callTimeout)
	}
}

// Go opens an address in the page.
func (b *Browser) Go(url string) error {
	var r struct{ ErrorText string }
	if err := b.call(b.session, "Page.navigate", map[string]any{"url": url}, &r); err != nil {
		return err
	}
	if r.ErrorText != "" {
		return fmt.Errorf("open %s: %s", url, r.ErrorText)
	}
	return nil
}

// Eval runs an expression in the page and reads its value, or that of the
// promise that it is, into value, which may be nil.
func (b *Browser) Eval(expression string, value any) error {
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	err := b.call(b.session, "Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true}, &r)
	if err != nil {
		return err
	}
	if r.ExceptionDetails != nil {
		return fmt.Errorf("evaluate %s: %s", expression, r.ExceptionDetails)
	}
	if value == nil || r.Result.Value == nil {
		return nil
	}
	return json.Unmarshal(r.Result.Value, value)
}

// Await waits until an expression is true. One that fails, such as while the
// page is being loaded, is not true yet.
func (b *Browser) Await(ctx context.Context, expression string) error {
	for {
		var ok bool
		if err := b.Eval("(() => { try { return !!("+expression+") } catch { return false } })()", &ok); err != nil {
			return err
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not become true: %w", expression, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Dark asks the page for its dark or light colours.
func (b *Browser) Dark(dark bool) error {
	v := "light"
	if dark {
		v = "dark"
	}
	return b.call(b.session, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": v}}}, nil)
}

// Resize gives the page another size in pixels.
func (b *Browser) Resize(width, height int) error {
	return b.call(b.session, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// Picture writes a PNG file of what the page shows, or of the whole page.
func (b *Browser) Picture(path string, whole bool) error {
	var r struct{ Data string }
	if err := b.call(b.session, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": whole}, &r); err != nil {
		return err
	}
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		return fmt.Errorf("read picture: %w", err)
	}
	return os.WriteFile(path, png, 0o644)
}

// Problems are the errors and warnings of the page's console, its exceptions
// and what could not be loaded, since the last call.
func (b *Browser) Problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.problems
	b.problems = nil
	return p
}

// Requests are the addresses that the page has asked for.
func (b *Browser) Requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.requests...)
}

// Close ends the browser and removes its profile.
func (b *Browser) Close() error {
	_ = b.call("", "Browser.close", nil, nil) // it may be gone already
	b.in.Close()
	ended := make(chan struct{})
	go func() {
		_ = b.cmd.Wait() // how it ends does not matter
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // ESRCH: all have ended
	<-ended
	<-b.done
	// Helpers that end last may still write into it.
	var err error
	for range 50 {
		if err = os.RemoveAll(b.profile); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}
