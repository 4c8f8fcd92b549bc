package config

import (
	"path/filepath"
	"slices"
	"strings"
)

// delegating are commands that ask another process to run something: killing
// them proves nothing about what they have started.
var delegating = []string{"docker", "podman", "nerdctl", "systemctl", "systemd-run", "machinectl", "kubectl", "ssh", "sudo"}

// wrappers are commands that run another in their place, each with those of
// its options that take the next word, and how many words come before the
// command.
var wrappers = map[string]struct {
	valued string
	words  int
}{
	"env": {"-u --unset -C --chdir -S --split-string", 0}, "exec": {"-a", 0}, "nice": {"-n --adjustment", 0},
	"nohup": {}, "setsid": {}, "command": {}, "timeout": {"-s --signal -k --kill-after", 1},
	"stdbuf": {"-i -o -e", 0}, "ionice": {"-c -n", 0}, "chrt": {"", 1},
}

var shells = []string{"sh", "bash", "dash", "ash", "ksh", "zsh"}

// Delegates reports whether the command hands its work to processes that are
// not beneath it, and by which word of it that can be told: a program known for
// it, by name or path, behind wrappers such as env, or in the script of sh -c.
func (s Service) Delegates() (word string, yes bool) {
	if s.Systemd != "" {
		return "service.systemd", true
	}
	if word = delegate(s.Command); word != "" {
		return word, true
	}
	return "service.delegates", s.HandsOn
}

func delegate(argv []string) string {
	if len(argv) == 0 {
		return ""
	}
	name := filepath.Base(argv[0])
	w, wraps := wrappers[name]
	switch {
	case slices.Contains(delegating, name):
		return argv[0]
	case wraps:
		return delegate(wrapped(argv[1:], strings.Fields(w.valued), w.words))
	case slices.Contains(shells, name):
		return delegateInScript(script(argv[1:]))
	}
	return ""
}

// wrapped is the command line behind a wrapper's options, variables and other
// words.
func wrapped(argv, valued []string, words int) []string {
	for len(argv) > 0 {
		switch w := argv[0]; {
		case w == "--":
		case slices.Contains(valued, w):
			argv = argv[min(1, len(argv)-1):]
		case strings.HasPrefix(w, "-"), assigns(w):
		case words > 0:
			words--
		default:
			return argv
		}
		argv = argv[1:]
	}
	return nil
}

// assigns reports whether a word is a variable's assignment: NAME=value.
func assigns(word string) bool {
	name, _, ok := strings.Cut(word, "=")
	return ok && name != "" && !strings.ContainsAny(name, "/. ")
}

// script is what a shell's option -c is given; empty: there is none.
func script(argv []string) string {
	for len(argv) > 1 {
		switch w := argv[0]; {
		case !strings.HasPrefix(w, "-") || w == "--":
			return ""
		case strings.HasPrefix(w, "--"):
		case strings.Contains(w, "c"):
			return argv[1]
		case strings.HasSuffix(w, "o"): // -o pipefail
			argv = argv[1:]
		}
		argv = argv[1:]
	}
	return ""
}

// delegateInScript looks at the first words of the simple commands of a script.
// It is no parser: what hides in variables or files it does not see.
func delegateInScript(text string) string {
	commands := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(";&|\n(){}`", r) })
	for _, c := range commands {
		argv := strings.Fields(strings.NewReplacer(`"`, "", `'`, "", `$`, "").Replace(c))
		for len(argv) > 0 && (assigns(argv[0]) || slices.Contains([]string{"!", "if", "then", "else", "elif", "while", "until", "do"}, argv[0])) {
			argv = argv[1:]
		}
		if word := delegate(argv); word != "" {
			return word
		}
	}
	return ""
}
