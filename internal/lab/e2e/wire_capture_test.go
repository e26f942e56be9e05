package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"colod/coordinator/peer"
	"colod/internal/lab"
)

// preamblesOnly is a filter of tcpdump's for segments that begin as a connection between nodes does ("COLO").
const preamblesOnly = "tcp dst port 7420 and tcp[((tcp[12] & 0xf0) >> 2):4] = 0x434f4c4f"

// capture is tcpdump at work on a node.
type capture struct {
	t    *testing.T
	file string
	cmd  *exec.Cmd
	said bytes.Buffer
}

// captureAt begins to record what passes a node's interfaces; it returns when tcpdump listens.
func captureAt(t *testing.T, l *lab.Lab, node, filter string) *capture {
	t.Helper()
	c := &capture{t: t, file: filepath.Join(t.TempDir(), "wire.pcap")}
	c.cmd = l.Command(t.Context(), node, "tcpdump", "-i", "any", "-y", "LINUX_SLL", "-p", "-n", "-U", "-s", "0", "-B", "32768", "-Z", "root", "-w", c.file, filter)
	c.cmd.Stderr = &c.said
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	for start := time.Now(); readFile(c.file) == ""; time.Sleep(10 * time.Millisecond) { // its header, when it listens
		if time.Since(start) > time.Minute {
			t.Fatalf("tcpdump does not begin: %s", c.said.String())
		}
	}
	return c
}

// end stops tcpdump.
func (c *capture) end() {
	if c.cmd.ProcessState != nil {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGINT) // it may have ended
	_ = c.cmd.Wait()
}

// tcpSegment is the part of a recorded segment that is of use here.
type tcpSegment struct {
	src, dst uint16 // ports
	payload  []byte
}

// segments reads what has been recorded up to now.
func (c *capture) segments() (all []tcpSegment) {
	data := []byte(readFile(c.file))
	const fileHeader, recordHeader, linuxSLL = 24, 16, 16
	if len(data) < fileHeader {
		return nil
	}
	for data = data[fileHeader:]; len(data) >= recordHeader; {
		n := int(binary.LittleEndian.Uint32(data[8:]))
		if len(data) < recordHeader+n {
			break // being written
		}
		p := data[recordHeader : recordHeader+n]
		data = data[recordHeader+n:]
		if len(p) < linuxSLL+20 || p[linuxSLL]>>4 != 4 {
			continue
		}
		ip := p[linuxSLL:]
		if n := int(binary.BigEndian.Uint16(ip[2:])); n >= 20 && n < len(ip) {
			ip = ip[:n] // without padding
		}
		head := int(ip[0]&15) * 4
		if len(ip) < head+20 {
			continue
		}
		tcp := ip[head:]
		all = append(all, tcpSegment{src: binary.BigEndian.Uint16(tcp), dst: binary.BigEndian.Uint16(tcp[2:]), payload: tcp[min(len(tcp), int(tcp[12]>>4)*4):]})
	}
	return all
}

// ports are the ephemeral ports of the connections of a class that were opened, the newest last.
func (c *capture) ports(class peer.Class) (all []uint16) {
	for _, s := range c.segments() {
		if s.dst == 7420 && len(s.payload) >= 8 && string(s.payload[:6]) == "COLOD\x01" && s.payload[6] == byte(class) {
			all = append(all, s.src)
		}
	}
	return all
}

// breakConnections ends a node's TCP connections from the given ports of its own, as a middlebox does that forgets
// them: both ends get a reset. It returns how many there were.
func breakConnections(t *testing.T, l *lab.Lab, node string, ports []uint16) int {
	t.Helper()
	var which []string
	for _, p := range ports {
		which = append(which, fmt.Sprintf("sport = :%d", p))
	}
	out, err := l.Command(t.Context(), node, "ss", "-K", "-t", "-n", "-H", "state", "established", "( "+strings.Join(which, " or ")+" )").CombinedOutput()
	if err != nil {
		t.Fatalf("end connections: %v: %s", err, out)
	}
	if strings.TrimSpace(string(out)) == "" {
		return 0
	}
	return strings.Count(strings.TrimSpace(string(out)), "\n") + 1
}
