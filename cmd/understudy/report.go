package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/doctor"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/support"
)

// reported is what `report -o json` says.
type reported struct {
	File    string   `json:"file"`
	Missing []string `json:"missing"`
}

func newReportCommand(g *globals) *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "report [FILE]",
		Short: "Put together what helps to understand this host's node, without secrets",
		Long: `Write an archive (tar.gz, mode 0600) of this host's node: its configuration, what
it and its plane say over REST, history and events, the ends of its logs, how
its store has answered, what is in the store, and what doctor finds.

Secrets are taken out: what the configuration marks as one, what files of
passwords, keys and tokens hold, and whatever looks like one. Have a look at it
all the same before you pass it on: what a service writes to its log is its own
business. What can not be had is said, and the rest is there.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			path := "understudy-report-" + now.UTC().Format("20060102-150405") + ".tar.gz"
			if len(args) > 0 {
				path = args[0]
			}
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator's own choice
			if err != nil {
				return usagef("report: %w; name a file that is not there yet", err)
			}
			missing, err := g.report(cmd.Context(), cmd, &flags, f, now)
			if err = errors.Join(err, f.Close()); err != nil {
				return errors.Join(err, os.Remove(path))
			}
			r := reported{File: path, Missing: append([]string{}, missing...)}
			return g.print(cmd, r, func(s *screen) {
				s.printf("%s\n", path)
				for _, m := range missing {
					s.printf("missing: %s\n", printable(oneLine(m)))
				}
			})
		},
	}
	flags.addTo(cmd.Flags())
	return cmd
}

func (g *globals) report(ctx context.Context, cmd *cobra.Command, flags *configFlags, f *os.File, now time.Time) ([]string, error) {
	conf, err := g.clientConfig()
	shown := conf
	if conf == nil {
		shown = config.Default()
	}
	b := support.NewBundle(f, support.NewScrubber(g.secrets(shown)...), now)
	bar := newProgress(cmd.ErrOrStderr())
	defer bar.end()

	bar.at("configuration", 0, 5)
	if conf == nil && err == nil {
		err = errors.New("there is no configuration; name it with --config")
	}
	text := []byte{}
	if err == nil {
		text, err = render(conf, true)
	}
	b.Add("config.yaml", text, err)
	b.Add("version.json", asIndented(build()), nil)
	bar.at("node", 1, 5)
	g.reportNode(ctx, b)
	bar.at("logs", 2, 5)
	reportFiles(b, shown)
	bar.at("store", 3, 5)
	g.reportStore(ctx, b, conf)
	bar.at("doctor", 4, 5)
	g.reportDoctor(ctx, b, flags)
	return b.Missing, b.Close()
}

// questions are what the node is asked, by the name of the file.
var questions = []struct{ file, path string }{
	{"rest/up.json", "/v1/server/up/extended"},
	{"rest/states.json", "/v1/server/ha/states"},
	{"rest/health.json", "/v1/server/ha/health"},
	{"rest/metrics.json", "/v1/server/ha/metrics"},
	{"rest/metrics.txt", "/metrics"}, // how long the store took, since the daemon began
	{"rest/latency.json", "/v1/server/ha/latency"},
	{"rest/history.json", "/v1/server/ha/history"},
	{"rest/events.txt", "/v1/server/ha/events?since=0&follow=false"},
	{"rest/switchover.json", "/v1/server/ha/switchover"},
	{"rest/service.json", "/v1/server/service"},
	{"rest/version.json", "/v1/server/version"},
}

// reportNode asks the node. A path that it does not have, or where there is
// nothing now, is no loss.
func (g *globals) reportNode(ctx context.Context, b *support.Bundle) {
	err := g.withClient(func(c *client.Client) error {
		for _, q := range questions {
			content, err := c.Get(ctx, q.path)
			var refused *client.StatusError
			if errors.As(err, &refused) && refused.Code == http.StatusNotFound {
				continue
			}
			b.Add(q.file, content, err)
			var nobody *client.UnreachableError
			if errors.As(err, &nobody) {
				return nil // nor will it answer the rest
			}
		}
		return nil
	})
	if err != nil {
		b.Add("rest", nil, err)
	}
}

// reportFiles takes along what the node has written to the local disk.
func reportFiles(b *support.Bundle, conf *config.Config) {
	for _, name := range []string{"guard.log", "hooks.json", "node.json", "plane.json"} {
		b.AddTail("data/"+name, filepath.Join(conf.DataDir, name))
	}
	output := conf.Service.Output
	if output == "" {
		output = filepath.Join(conf.DataDir, "service.log")
	}
	b.AddTail("data/service.log", output)
	for _, name := range []string{"/proc/self/mountinfo", "/proc/loadavg", "/proc/pressure/io", "/proc/sys/kernel/osrelease", "/etc/os-release"} {
		b.AddTail("machine/"+filepath.Base(name), name)
	}
}

// reportStore reads the store without a daemon.
func (g *globals) reportStore(ctx context.Context, b *support.Bundle, conf *config.Config) {
	if conf == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	loc, err := conf.Location()
	if err != nil || loc.Scheme == "" {
		b.Add("store.json", nil, errors.Join(err, errors.New("there is no shared store")))
		return
	}
	store, err := openStore(loc, func(string) {}, func(string) {})
	if err != nil {
		b.Add("store.json", nil, err)
		return
	}
	defer func() { _ = store.Close() }()
	c, err := ha.ReadContents(ctx, store, readLimit)
	if err != nil {
		b.Add("store.json", nil, err)
		return
	}
	b.Add("store.json", asIndented(dumpOf(store.Limits().URL, c, time.Now())), nil)
}

// reportDoctor has doctor look at everything but what would load the store.
func (g *globals) reportDoctor(ctx context.Context, b *support.Bundle, flags *configFlags) {
	e, err := newExam(flags, g.configPath(), true)
	if err != nil {
		b.Add("doctor.json", nil, err)
		return
	}
	defer e.close()
	b.Add("doctor.json", asIndented(doctor.Run(ctx, e.checks(), doctor.Watcher{})), nil)
}

func asIndented(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Appendf(nil, "%v", err)
	}
	return append(b, '\n')
}

// tellingName marks variables whose values are secrets.
var tellingName = regexp.MustCompile(`(?i)pass|secret|token|credential|key|auth`)

// secrets are the values that are known to be secret: what the configuration
// marks, what the command line and the environment say, and the words of files
// that hold passwords, keys and tokens.
func (g *globals) secrets(conf *config.Config) []string {
	out := []string{g.password, conf.Server.Auth.Password}
	for _, v := range conf.Service.Env {
		out = append(out, v)
	}
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); tellingName.MatchString(name) && !strings.HasPrefix(value, "/") {
			out = append(out, value)
		}
	}
	files := []string{g.passwordFile, g.tokenFile, g.clientKey, conf.Server.Auth.PasswordFile, conf.Server.Auth.Htpasswd, conf.Server.TLS.Key}
	for _, pattern := range []string{"credentials*", "*token*", "*.key", "htpasswd*"} {
		found, _ := filepath.Glob(filepath.Join(conf.DataDir, pattern)) // the patterns are good
		files = append(files, found...)
	}
	for _, path := range files {
		b, err := readable(path)
		if path == "" || err != nil {
			continue
		}
		out = append(out, secretWords(string(b))...)
	}
	return out
}

// secretWords are the parts of a file of secrets that are one: not the user's
// name before a password, nor what stands around a key.
func secretWords(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if _, after, ok := strings.Cut(line, ":"); ok {
			out = append(out, after)
		}
		for _, word := range strings.Fields(line) {
			if len(word) >= 16 { // a token, a hash, a line of a key
				out = append(out, word)
			}
		}
		if !strings.ContainsAny(line, " :") {
			out = append(out, line)
		}
	}
	return out
}
