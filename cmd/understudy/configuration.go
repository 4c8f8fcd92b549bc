package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/understudy-ha/understudy/pkg/config"
)

// configFlags are the flags of commands that read the whole configuration.
type configFlags struct {
	set                []string
	brooklynConfig     string
	brooklynProperties string
	more               []config.Override // of a command's own flags, strongest
}

func (c *configFlags) addTo(f *pflag.FlagSet) {
	f.StringArrayVar(&c.set, "set", nil, "set one `key=value` of the configuration, e.g. ha.heartbeatTimeout=10s; repeatable")
	f.StringVar(&c.brooklynConfig, "brooklyn-config", "", "Apache Brooklyn's launcher `file`, org.apache.brooklyn.osgilauncher.cfg")
	f.StringVar(&c.brooklynProperties, "brooklyn-properties", "", "Apache Brooklyn's properties `file`, brooklyn.cfg")
}

// configPath is the file to read: --config, else the default one if there is
// one, else none.
func (g *globals) configPath() string {
	if g.config != "" {
		return g.config
	}
	if _, err := os.Stat(defaultConfig); err == nil {
		return defaultConfig
	}
	return ""
}

// sources gathers everything a configuration is made of.
func (c *configFlags) sources(file string) (config.Sources, config.Warnings, error) {
	src := config.Sources{File: file, Environ: os.Environ()}
	var warn config.Warnings
	if c.brooklynConfig != "" || c.brooklynProperties != "" {
		var err error
		if src.Brooklyn, warn, err = config.LoadBrooklyn(c.brooklynConfig, c.brooklynProperties); err != nil {
			return src, warn, err
		}
	}
	for _, kv := range c.set {
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			return src, warn, usagef("flag --set %s: must be key=value, e.g. --set ha.heartbeatTimeout=10s", kv)
		}
		src.Flags = append(src.Flags, config.Override{Key: key, Value: value, From: "flag --set"})
	}
	src.Flags = append(src.Flags, c.more...)
	return src, warn, nil
}

// load reads and validates the configuration a node would run with; file is
// g.configPath() as a rule. There may be warnings also when there is an error.
func (c *configFlags) load(file string) (*config.Config, config.Warnings, error) {
	src, warn, err := c.sources(file)
	if err != nil {
		return nil, warn, err
	}
	conf, more, err := config.LoadFrom(src)
	return conf, append(warn, more...), err
}

// again returns a way to load the configuration once more; nil if there is
// none, because it came from standard input.
func (c *configFlags) again(file string) func() (*config.Config, config.Warnings, error) {
	if file == "-" {
		return nil
	}
	return func() (*config.Config, config.Warnings, error) { return c.load(file) }
}

// clientConfig is what a client command may learn from the configuration of
// this host's node: nil when there is none it can read. A file that was named
// and can not be used is an error; the default one is merely passed over.
func (g *globals) clientConfig() (*config.Config, error) {
	path := g.configPath()
	if path == "" {
		return nil, nil
	}
	conf, _, err := config.Read(config.Sources{File: path, Environ: os.Environ()})
	if err != nil {
		if g.config == "" {
			return nil, nil
		}
		return nil, err
	}
	return conf, nil
}

// firstLine reads a file that holds a password or a token.
func firstLine(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimRight(line, "\r")
	if line == "" {
		return "", fmt.Errorf("read the secret: the first line of %s is empty", path)
	}
	return line, nil
}

// readable is os.ReadFile for files whose absence, or being somebody else's,
// is no error.
func readable(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return b, err
}
