package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"colod/coordinator/config"
	"colod/internal/doctor"
)

func (c *cli) doctorCommand() *cobra.Command {
	var path, qemu string
	var kvm bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what keeps colod from working on this host",
		Long: `Doctor looks at QEMU, the kernel's features, devices, permissions, clock and free
memory. With --config it also checks what that configuration asks of the host.
It changes nothing. Exit code 1 means that colod will not work here.`,
		Example: `  colod doctor
  colod doctor --config /etc/colod/colod.yaml --kvm --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt := doctor.Options{QEMU: qemu, KVM: kvm}
			if path != "" {
				cfg, err := config.Load(path)
				if err != nil {
					return usageError(err)
				}
				opt.Config = cfg
			}
			found := doctor.Run(cmd.Context(), opt)
			healthy := doctor.Healthy(found)
			if c.json {
				c.printJSON(map[string]any{"healthy": healthy, "findings": found})
			} else {
				tw := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
				for _, f := range found {
					fmt.Fprintf(tw, "%s\t%s\t%s\n", f.Level, f.Check, f.What)
					if f.Cure != "" {
						fmt.Fprintf(tw, "\t\t-> %s\n", f.Cure)
					}
				}
				tw.Flush()
			}
			if !healthy {
				return &silentError{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "check this configuration too")
	cmd.Flags().StringVar(&qemu, "qemu", "qemu-system-x86_64", "QEMU binary, without --config")
	cmd.Flags().BoolVar(&kvm, "kvm", false, "prove that guests run with KVM (takes some seconds)")
	return cmd
}
