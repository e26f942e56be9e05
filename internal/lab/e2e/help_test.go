package e2e

import "os"

// readFile returns a file's content, empty if it cannot be read.
func readFile(name string) string {
	data, _ := os.ReadFile(name)
	return string(data)
}
