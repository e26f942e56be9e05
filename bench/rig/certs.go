package rig

import (
	"path/filepath"
	"time"

	"colod/internal/certs"
)

// Certificates writes an authority and a certificate for each node into dir: ca.pem, NODE.pem, NODE.key. They are good for a
// day.
func Certificates(dir string, nodes ...string) error {
	in := func(name string) string { return filepath.Join(dir, name) }
	ca, err := certs.NewAuthority("bench", 24*time.Hour)
	if err == nil {
		err = ca.Save(in("ca.pem"), in("ca.key"))
	}
	for _, name := range nodes {
		if err != nil {
			return err
		}
		var n *certs.Node
		if n, err = ca.Issue(name, 24*time.Hour); err == nil {
			err = n.Save(in(name+".pem"), in(name+".key"))
		}
	}
	return err
}

// Identity reads what Certificates wrote for a node.
func Identity(dir, node string) (*certs.Identity, error) {
	in := func(name string) string { return filepath.Join(dir, name) }
	return certs.Load(in("ca.pem"), in(node+".pem"), in(node+".key"), node)
}
