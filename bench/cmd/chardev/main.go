// Command chardev compares the frames of two guests in place of QEMU's colo-compare object; see chardev -h.
package main

import (
	"os"

	"colod/bench/drop"
)

func main() { os.Exit(drop.Main(os.Args[1:], os.Stderr)) }
