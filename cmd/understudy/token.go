package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/pkg/config"
)

// tokenView is what commands say of a token.
type tokenView struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Role    string     `json:"role"`
	Expires *time.Time `json:"expires"`         // null: never
	Token   string     `json:"token,omitempty"` // when it was made, and never again
}

func viewToken(t server.Token, plain string) tokenView {
	v := tokenView{ID: t.ID, Name: t.Name, Role: t.Role.String(), Token: plain}
	if !t.Expires.IsZero() {
		v.Expires = &t.Expires
	}
	return v
}

func (v tokenView) until() string {
	switch {
	case v.Expires == nil:
		return "never"
	case v.Expires.Before(time.Now()):
		return "OVER"
	}
	return v.Expires.Local().Format(time.DateTime)
}

// newTokenCommand makes and revokes bearer tokens of this host's node. It works
// on the file, so it needs no daemon and no password; who may write there may.
func newTokenCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke bearer tokens for REST",
		Long: `Make, list and revoke bearer tokens for REST, in the file that server.auth.tokens
names (default: tokens in dataDir). A running node follows within seconds. Only
a hash is kept: the token itself is shown once. To have one token for all nodes,
keep that file the same on each of them.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	file := cmd.PersistentFlags().String("file", "", "`file` of the tokens (default: that of the configuration)")
	path := func() (string, error) {
		if *file != "" {
			return *file, nil
		}
		conf, err := g.clientConfig()
		if conf == nil {
			conf = config.Default()
		}
		return conf.TokensFile(), err
	}
	cmd.AddCommand(newTokenCreateCommand(g, path), newTokenListCommand(g, path), newTokenRevokeCommand(g, path))
	return cmd
}

func newTokenCreateCommand(g *globals, path func() (string, error)) *cobra.Command {
	var (
		role    string
		expires time.Duration
	)
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a token and show it, once",
		Example: "  understudy token create grafana --role viewer --expires 8760h",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := server.ParseRole(role)
			if err != nil {
				return usagef("--role: %w", err)
			}
			if expires < 0 {
				return usagef("--expires %s is in the past", expires)
			}
			var end time.Time
			if expires > 0 {
				end = time.Now().Add(expires).Truncate(time.Second)
			}
			where, err := path()
			if err != nil {
				return err
			}
			var v tokenView
			if err := server.UpdateTokens(where, func(t *server.Tokens) error {
				plain, tok, err := t.Create(args[0], r, end)
				v = viewToken(tok, plain)
				return err
			}); err != nil {
				return exitf(exitUsage, "%w", err)
			}
			cmd.PrintErrf("Token %s in %s; it is shown this once:\n", v.ID, where)
			return g.print(cmd, v, func(s *screen) { s.printf("%s\n", v.Token) })
		},
	}
	cmd.Flags().StringVar(&role, "role", "viewer", "what it may: viewer, operator or admin")
	cmd.Flags().DurationVar(&expires, "expires", 0, "end it after this `duration`, e.g. 720h (default: never)")
	return cmd
}

func newTokenListCommand(g *globals, path func() (string, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens there are",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			where, err := path()
			if err != nil {
				return err
			}
			tokens, err := server.LoadTokens(where)
			if err != nil {
				return exitf(exitUsage, "%w", err)
			}
			views := []tokenView{}
			rows := [][]cell{plainCells("ID", "NAME", "ROLE", "ENDS")}
			for _, t := range tokens.List() {
				v := viewToken(t, "")
				views = append(views, v)
				rows = append(rows, plainCells(v.ID, v.Name, v.Role, v.until()))
			}
			return g.print(cmd, views, func(s *screen) {
				if len(views) == 0 {
					s.printf("no token in %s\n", where)
					return
				}
				s.table(rows)
			})
		},
	}
}

func newTokenRevokeCommand(g *globals, path func() (string, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME|ID",
		Short: "Remove a token",
		Args:  oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			where, err := path()
			if err != nil {
				return err
			}
			there := false
			if err := server.UpdateTokens(where, func(t *server.Tokens) error { there = t.Revoke(args[0]); return nil }); err != nil {
				return exitf(exitUsage, "%w", err)
			}
			if !there {
				return exitf(exitFailed, "there is no token %q in %s; see understudy token list", args[0], where)
			}
			return g.print(cmd, map[string]string{"revoked": args[0]}, func(s *screen) { s.printf("revoked %s\n", args[0]) })
		},
	}
}

// oneName is Args of a command that takes a name.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return usagef("%stakes one name; see %s --help", of(cmd), cmd.CommandPath())
	}
	return nil
}
