package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/pkg/config"
)

// passwordAuth lets one configured user in. Only a hash of the password stays
// in memory.
func passwordAuth(a config.Auth) (*server.HTPasswd, error) {
	password := a.Password
	if a.PasswordFile != "" {
		b, err := os.ReadFile(a.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("server.auth.passwordFile: %w", err)
		}
		password, _, _ = strings.Cut(string(b), "\n")
		password = strings.TrimSuffix(password, "\r")
	}
	if password == "" {
		return nil, fmt.Errorf("server.auth: user %q has no password; set password or passwordFile", a.User)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return nil, fmt.Errorf("server.auth: the password of %q: %w", a.User, err)
	}
	return server.ParseHTPasswd("server.auth", []byte(a.User+":"+string(hash)+"\n"))
}
