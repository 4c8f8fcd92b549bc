package main

import (
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/api/v1"
)

// newStateCommand reads and writes what the plane persists.
func newStateCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "The persisted state: what one master leaves for the next",
		Long: `The plane's persisted state: keys with values, which the master writes and the
next master finds. A write is done when every later master will have it. Reads
are answered by the master and by hot standbys; writes go to the master, which
the node that is asked names.

Exit codes: 1 there is no such key, 3 the condition did not hold, 5 the node asked
does not hold the state, 6 whether the change was made is not known.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	cmd.AddCommand(newStateGetCommand(g), newStatePutCommand(g), newStateDeleteCommand(g), newStateListCommand(g), newStateWatchCommand(g))
	return cmd
}

// keyArg is the one argument that names a key.
func keyArg(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("%s takes one key, for example jobs/17", cmd.CommandPath())
	}
	return nil
}

func newStateGetCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a key",
		Args:  keyArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			e, err := c.StateGet(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			type entry struct {
				Key     string `json:"key"`
				Version uint64 `json:"version"`
				Seq     uint64 `json:"seq"`
				Master  bool   `json:"master"`
				Value   []byte `json:"value"` // base64
			}
			if g.output != formatTable {
				return g.print(cmd, entry{args[0], e.Version, e.Seq, e.Master, e.Value}, nil)
			}
			_, err = cmd.OutOrStdout().Write(e.Value)
			return err
		},
	}
}

// condition are the flags of a write that depends on what is there.
type condition struct {
	version        uint64
	exists, absent bool
}

func (f *condition) flags(cmd *cobra.Command, absent bool) {
	cmd.Flags().Uint64Var(&f.version, "if-version", 0, "only if the key has this `version`")
	cmd.Flags().BoolVar(&f.exists, "if-exists", false, "only if the key is there")
	if absent {
		cmd.Flags().BoolVar(&f.absent, "if-absent", false, "only if the key is not there")
	}
}

func (f *condition) client() (client.StateCondition, error) {
	if f.absent && (f.exists || f.version != 0) {
		return client.StateCondition{}, usagef("--if-absent contradicts --if-exists and --if-version")
	}
	return client.StateCondition{Version: f.version, There: f.exists, Absent: f.absent}, nil
}

func newStatePutCommand(g *globals) *cobra.Command {
	var cond condition
	var file string
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE]",
		Short: "Write a key: the argument, or a file, or standard input",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 || (len(args) == 2 && file != "") {
				return usagef("%s takes a key, and a value unless --file names one or it comes on standard input", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			want, err := cond.client()
			if err != nil {
				return err
			}
			value, err := valueOf(cmd, args[1:], file)
			if err != nil {
				return err
			}
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			version, err := c.StatePut(cmd.Context(), args[0], value, want)
			if err != nil {
				return err
			}
			type written struct {
				Key     string `json:"key"`
				Version uint64 `json:"version"`
			}
			return g.print(cmd, written{args[0], version}, func(s *screen) { s.printf("%s: version %d\n", printable(args[0]), version) })
		},
	}
	cond.flags(cmd, true)
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` that holds the value; - is standard input")
	return cmd
}

// valueOf is the value to be written.
func valueOf(cmd *cobra.Command, args []string, file string) ([]byte, error) {
	switch {
	case len(args) == 1:
		return []byte(args[0]), nil
	case file == "" || file == "-":
		return io.ReadAll(cmd.InOrStdin())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, usagef("--file: %w", err)
	}
	return b, nil
}

func newStateDeleteCommand(g *globals) *cobra.Command {
	var cond condition
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "Delete a key; that there is none is no error",
		Args:  keyArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			want, err := cond.client()
			if err != nil {
				return err
			}
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			return c.StateDelete(cmd.Context(), args[0], want)
		},
	}
	cond.flags(cmd, false)
	return cmd
}

func newStateListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the keys that begin with PREFIX",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			all := v1.StateList{Keys: []v1.StateKey{}}
			for after, more := "", true; more; {
				page, err := c.StateList(cmd.Context(), prefix, after, 0)
				if err != nil {
					return err
				}
				all.Seq, all.Keys = page.Seq, append(all.Keys, page.Keys...)
				if more = page.More && len(page.Keys) > 0; more {
					after = page.Keys[len(page.Keys)-1].Key
				}
			}
			return g.print(cmd, all, func(s *screen) {
				rows := [][]cell{plainCells("KEY", "VERSION", "BYTES")}
				for _, k := range all.Keys {
					rows = append(rows, plainCells(k.Key, strconv.FormatUint(k.Version, 10), strconv.Itoa(k.Size)))
				}
				s.table(rows)
			})
		},
	}
}

func newStateWatchCommand(g *globals) *cobra.Command {
	var since uint64
	cmd := &cobra.Command{
		Use:   "watch [PREFIX]",
		Short: "Show changes of keys that begin with PREFIX as they are made",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			prefix, from := "", (*uint64)(nil)
			if len(args) == 1 {
				prefix = args[0]
			}
			if cmd.Flags().Changed("since") {
				from = &since
			}
			err = c.StateWatch(ctx, prefix, from, func(e v1.StateChanges) error {
				return g.print(cmd, e, func(s *screen) { drawChanges(s, e) })
			})
			if ctx.Err() != nil {
				return nil // it was interrupted, as is the way to end it
			}
			return err
		},
	}
	cmd.Flags().Uint64Var(&since, "since", 0, "begin after this `number` of a transaction (default: from now on)")
	return cmd
}

func drawChanges(s *screen, e v1.StateChanges) {
	for _, c := range e.Changes {
		switch {
		case c.Deleted:
			s.printf("%d deleted %s\n", e.Seq, printable(c.Key))
		case utf8.Valid(c.Value) && len(c.Value) <= 200:
			s.printf("%d %s = %s\n", e.Seq, printable(c.Key), printable(oneLine(string(c.Value))))
		default:
			s.printf("%d %s: %d bytes\n", e.Seq, printable(c.Key), len(c.Value))
		}
	}
}
