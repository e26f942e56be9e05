package image

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// inittab makes busybox's init run our program and start it again should it
// end; init itself adopts and reaps what ssh sessions leave behind.
const inittab = `::respawn:/bin/colod lab guest
::ctrlaltdel:/bin/reboot
::shutdown:/bin/true
`

const sshdConfig = `Port 22
HostKey /etc/ssh/host_ecdsa
AuthorizedKeysFile /root/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
PrintMotd no
PrintLastLog no
PidFile none
LogLevel ERROR
MaxStartups 200
MaxSessions 100
Subsystem sftp internal-sftp
`

// configuration adds the guest's own files: accounts, keys, server settings.
// The halves of the keys that clients need go to dir.
func (b Builder) configuration(c *cpioWriter, dir string) error {
	host, err := newKey()
	if err != nil {
		return err
	}
	client, err := newKey()
	if err != nil {
		return err
	}
	web, err := newKey()
	if err != nil {
		return err
	}
	cert, err := web.certificate()
	if err != nil {
		return err
	}
	c.File("/etc/inittab", 0o644, []byte(inittab))
	c.File("/etc/passwd", 0o644, []byte("root:*:0:0:root:/root:/bin/sh\nsshd:*:100:65534::/run/sshd:/bin/false\nnobody:*:65534:65534::/:/bin/false\n"))
	c.File("/etc/group", 0o644, []byte("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"))
	c.File("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"+GuestIPv4+" guest\n192.0.2.1 client\n"))
	c.File("/etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files\n"))
	c.File("/etc/hostname", 0o644, []byte("guest\n"))
	c.File("/etc/profile", 0o644, []byte("export PATH=/bin:/sbin:/usr/bin:/usr/sbin PS1='guest# '\n"))
	c.File("/etc/ssh/sshd_config", 0o600, []byte(sshdConfig))
	c.File("/etc/ssh/host_ecdsa", 0o600, host.Private)
	c.File("/root/.ssh/authorized_keys", 0o600, []byte(client.Authorized+" colod-lab\n"))
	c.File("/etc/colod/tls.key", 0o600, web.Private)
	c.File("/etc/colod/tls.pem", 0o644, cert)

	known := fmt.Sprintf("%s,%s,guest %s\n", GuestIPv4, GuestIPv6, host.Authorized)
	for _, f := range []struct {
		name string
		data []byte
	}{{"id_ecdsa", client.Private}, {"known_hosts", []byte(known)}, {"guest.pem", cert}} {
		if err := writeFile(filepath.Join(dir, f.name), f.data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
