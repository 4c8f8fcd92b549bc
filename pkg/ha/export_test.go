package ha

// WithoutRules are states with one rule removed each; without all only those
// that are missed soon.
func WithoutRules(all bool) map[string]Persist {
	rules := map[string]Persist{
		"a segment is confirmed before the register names it": {without: withoutPut},
		"a change counts once the register names it":          {without: withoutFence},
	}
	if all {
		rules["an undecided commit is unknown, never failed"] = Persist{without: withoutUndecided}
		rules["collection goes by a snapshot in the chain"] = Persist{without: withoutChain}
	}
	return rules
}
