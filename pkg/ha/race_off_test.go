//go:build !race

package ha_test

const many = 50
