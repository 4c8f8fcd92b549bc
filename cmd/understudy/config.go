package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	shipped "github.com/understudy-ha/understudy/deploy/config"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
)

func newConfigCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, show and explain the configuration",
		Args:  cobra.ArbitraryArgs,
		RunE:  groupOnly,
	}
	cmd.AddCommand(newConfigCheckCommand(g), newConfigShowCommand(g), newConfigDefaultCommand())
	return cmd
}

// checked is what `config check -o json` says.
type checked struct {
	File     string    `json:"file"`
	OK       bool      `json:"ok"`
	Problems []problem `json:"problems"`
	Warnings []string  `json:"warnings"`
}

type problem struct {
	Where string `json:"where"`
	Key   string `json:"key"`
	Text  string `json:"text"`
}

func newConfigCheckCommand(g *globals) *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say whether a node could run with this configuration (- is standard input)",
		Args:  atMostOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			file := g.fileOr(args)
			_, warn, err := flags.load(file)
			return g.reportCheck(cmd, file, warn, err)
		},
	}
	flags.addTo(cmd.Flags())
	return cmd
}

func (g *globals) reportCheck(cmd *cobra.Command, file string, warn config.Warnings, err error) error {
	if file == "" {
		file = "(no file)"
	}
	result := checked{File: file, OK: err == nil, Problems: []problem{}, Warnings: append([]string{}, warn...)}
	var bad *config.Error
	if errors.As(err, &bad) {
		for _, p := range bad.Problems {
			result.Problems = append(result.Problems, problem(p))
		}
	} else if err != nil {
		return err
	}
	if g.output != formatTable {
		if perr := g.print(cmd, result, nil); perr != nil {
			return perr
		}
		if err != nil {
			return silently(exitUsage)
		}
		return nil
	}
	printWarnings(cmd, warn)
	if err != nil {
		return err
	}
	_, werr := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", file)
	return werr
}

func newConfigShowCommand(g *globals) *cobra.Command {
	var (
		flags     configFlags
		effective bool
	)
	cmd := &cobra.Command{
		Use:   "show [FILE]",
		Short: "Print the configuration with the origin of each setting, secrets masked",
		Args:  atMostOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, warn, err := flags.sources(g.fileOr(args))
			if err != nil {
				return err
			}
			conf, more, err := config.Read(src)
			printWarnings(cmd, append(warn, more...))
			if err != nil {
				return err
			}
			more, invalid := conf.Validate()
			printWarnings(cmd, more)
			text, err := render(conf, effective)
			if err != nil {
				return errors.Join(invalid, err)
			}
			if err := g.printYAML(cmd, text); err != nil {
				return err
			}
			return invalid // shown all the same: that is when one wants to see it
		},
	}
	flags.addTo(cmd.Flags())
	cmd.Flags().BoolVar(&effective, "effective", false, "with derived durations and addresses worked out for this host")
	return cmd
}

func render(conf *config.Config, effective bool) ([]byte, error) {
	if !effective {
		return conf.Show(nil, "", false), nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find out this host's name: %w; set nodeUri", err)
	}
	loc, err := conf.Location()
	if err != nil {
		loc = config.Location{} // Validate has said so
	}
	timing, err := election.Derive(conf.TimingRequest(0, loc.PollDivisor()))
	if err != nil {
		return conf.Show(nil, "", false), nil //nolint:nilerr // Validate has said so
	}
	return conf.Show(&timing, host, false), nil
}

// printYAML writes YAML as it is, or the same as JSON.
func (g *globals) printYAML(cmd *cobra.Command, text []byte) error {
	if g.output != formatJSON {
		_, err := cmd.OutOrStdout().Write(text)
		return err
	}
	var v map[string]any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return err
	}
	return g.print(cmd, v, nil)
}

func newConfigDefaultCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "print-default",
		Short: "Print understudy.yaml with every key, its default and what it does",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(shipped.YAML)
			return err
		},
	}
}

func (g *globals) fileOr(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	return g.configPath()
}

func atMostOneFile(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%stakes one file, got %d; see %s --help", of(cmd), len(args), cmd.CommandPath())
	}
	return nil
}

func printWarnings(cmd *cobra.Command, warn config.Warnings) {
	for _, w := range warn {
		fmt.Fprintf(cmd.ErrOrStderr(), "understudy: warning: %s\n", oneLine(w))
	}
}
