package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildInfo is what `version` says; REST's /server/version is made of it too.
type buildInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"` // empty when the build does not know
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// build describes this binary.
func build() buildInfo {
	b := buildInfo{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Commit = s.Value
			}
		}
	}
	if b.Version == "" {
		b.Version = "v0.0.0-devel"
	}
	return b
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := build()
			return g.print(cmd, b, func(s *screen) {
				s.printf("understudy %s (%s, %s/%s)\n", b.Version, b.Go, b.OS, b.Arch)
			})
		},
	}
}
