package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// defaultConfig is read when --config names nothing and it exists.
const defaultConfig = "/etc/understudy/understudy.yaml"

// globals are the flags every command has.
type globals struct {
	config       string
	endpoints    []string
	output       format
	user         string
	password     string
	passwordFile string
	insecure     bool
	cacert       string
	tokenFile    string
	clientCert   string
	clientKey    string
}

// newRoot collects the commands. A new one goes into the list and into a file
// of its own; its RunE returns an error that exitCode knows, or an exitError.
func newRoot() *cobra.Command {
	g := &globals{output: defaultFormat()}
	root := &cobra.Command{
		Use:   "understudy",
		Short: "Keep one service alive on several machines that share only storage",
		Long: `Understudy keeps one service alive on several machines that share only storage:
a directory they all mount. One node is master and runs the service; when it
falls silent another takes over, and never do two run it at once.

Exit codes: 0 done, 1 failed or "no", 2 usage or bad configuration,
3 precondition not met, 4 daemon or store unreachable, 5 not allowed,
6 timed out, 7 unsafe without --force.`,
		Args:          cobra.ArbitraryArgs,
		RunE:          groupOnly,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	f := root.PersistentFlags()
	f.StringVar(&g.config, "config", os.Getenv("UNDERSTUDY_CONFIG"), "configuration `file` (default "+defaultConfig+" if it exists)")
	f.StringSliceVar(&g.endpoints, "endpoint", splitList(os.Getenv("UNDERSTUDY_ENDPOINT")), "`URL` of a node to ask, any will do; repeatable (default: this host's, from the configuration, or "+defaultEndpoint+")")
	f.VarP(&g.output, "output", "o", "table, json or yaml")
	f.StringVar(&g.user, "user", os.Getenv("UNDERSTUDY_USER"), "user `name` for REST")
	f.StringVar(&g.password, "password", "", "its password; other users of this host can see it, prefer --password-file or UNDERSTUDY_PASSWORD")
	f.StringVar(&g.passwordFile, "password-file", os.Getenv("UNDERSTUDY_PASSWORD_FILE"), "`file` whose first line is the password")
	f.BoolVar(&g.insecure, "insecure", envBool("UNDERSTUDY_INSECURE"), "accept any certificate; for trying things out only")
	f.StringVar(&g.cacert, "cacert", os.Getenv("UNDERSTUDY_CACERT"), "PEM `file` of certificates to trust (default: this host's node's own)")
	f.StringVar(&g.cacert, "ca-file", os.Getenv("UNDERSTUDY_CACERT"), "the same as --cacert")
	f.StringVar(&g.tokenFile, "token-file", os.Getenv("UNDERSTUDY_TOKEN_FILE"), "`file` whose first line is a bearer token; or set UNDERSTUDY_TOKEN")
	f.StringVar(&g.clientCert, "client-cert", os.Getenv("UNDERSTUDY_CLIENT_CERT"), "PEM `file` of a certificate to be known by")
	f.StringVar(&g.clientKey, "client-key", os.Getenv("UNDERSTUDY_CLIENT_KEY"), "PEM `file` of its key")
	root.MarkFlagsMutuallyExclusive("password", "password-file")
	root.MarkFlagsMutuallyExclusive("insecure", "cacert")
	root.MarkFlagsMutuallyExclusive("insecure", "ca-file")
	root.MarkFlagsMutuallyExclusive("user", "token-file")
	root.MarkFlagsRequiredTogether("client-cert", "client-key")

	root.AddCommand(
		newArtifactCommand(g),
		newAckCommand(g),
		newConfigCommand(g),
		newCopyStateCommand(g),
		newDemoCommand(),
		newDemoteCommand(g),
		newEventsCommand(g),
		newFailoverCommand(g),
		newDemoServiceCommand(),
		newDoctorCommand(g),
		newFenceCommand(g),
		newExportCommand(g),
		newBackupCommand(g),
		newForgetPlaneCommand(g),
		newHistoryCommand(g),
		newHooksCommand(g),
		newImportCommand(g),
		newInitCommand(g),
		newIsMasterCommand(g),
		newLeaderCommand(g),
		newMaintenanceCommand(g),
		newMasterinfoCommand(g),
		newModeCommand(g),
		newPauseCommand(g),
		newPriorityCommand(g),
		newPromoteCommand(g),
		newReportCommand(g),
		newResumeCommand(g),
		newRunCommand(g),
		newServerCommand(g),
		newServiceCommand(g),
		newStateCommand(g),
		newStatesCommand(g),
		newStatusCommand(g),
		newStepDownCommand(g),
		newStoreCommand(g),
		newSwitchoverCommand(g),
		newTokenCommand(g),
		newSystemdCommand(g),
		newVersionCommand(g),
		newWatchdogCommand(g),
	)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s%s; see %s --help", of(cmd), oneLine(err.Error()), cmd.CommandPath())
	})
	root.InitDefaultCompletionCmd()
	markRunErrors(root)
	return root
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot() //nolint:contextcheck // commands get theirs by ExecuteContext
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	return report(stderr, err)
}

// of begins a message about a command of ours: "config check: ", and nothing
// for the root, whose name stands before every message anyway.
func of(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return ""
	}
	_, name, _ := strings.Cut(cmd.CommandPath(), " ")
	return name + ": "
}

// groupOnly is RunE of a command that only holds others.
func groupOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	text := fmt.Sprintf("%sunknown command %q", of(cmd), args[0])
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	} else {
		text += "; see " + cmd.CommandPath() + " --help"
	}
	return usagef("%s", text)
}

// noArgs is Args of a command that takes none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%stakes no argument, got %q; see %s --help", of(cmd), args[0], cmd.CommandPath())
	}
	return nil
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func envBool(name string) bool {
	b, err := strconv.ParseBool(os.Getenv(name))
	return err == nil && b
}
