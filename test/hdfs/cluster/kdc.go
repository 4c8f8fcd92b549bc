package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Realm is that of a KDC.
const Realm = "EXAMPLE.ORG"

// Understudy is a principal that may do everything in a Secured cluster.
const Understudy = "understudy"

// KDC is a key distribution centre: Hadoop's own, for tests.
type KDC struct {
	Conf   string // krb5.conf
	Keytab string // of all principals
	*Daemon

	holder *Cluster // of its files
}

// StartKDC starts one that keeps its files in dir, with principals whose keys are
// in one keytab, and whose tickets last for so long. It ends with this process.
func StartKDC(ctx context.Context, dir string, lifetime time.Duration, principals ...string) (*KDC, error) {
	if why := Missing(); why != "" {
		return nil, errors.New(why)
	}
	ports, err := freePorts(ctx, 1)
	if err != nil {
		return nil, err
	}
	k := &KDC{
		Conf: filepath.Join(dir, "client.conf"), Keytab: filepath.Join(dir, "keytab"),
		Daemon: &Daemon{Name: "kdc", Kind: kdcNode, RPC: ports[0]},
		holder: &Cluster{Dir: dir, lib: filepath.Join(jars(), "lib")},
	}
	settings := filepath.Join(dir, "settings")
	k.Args = append([]string{dir, settings, k.Keytab}, principals...)
	for file, text := range map[string]string{
		settings: fmt.Sprintf("org.name=EXAMPLE\norg.domain=ORG\nkdc.bind.address=localhost\nkdc.port=%d\ninstance=DefaultKrbServer\ntransport=TCP\ndebug=false\n"+
			"max.ticket.lifetime=%d\nmax.renewable.lifetime=%d\nmin.ticket.lifetime=1\n", k.RPC, lifetime.Milliseconds(), lifetime.Milliseconds()),
		k.Conf: fmt.Sprintf("[libdefaults]\ndefault_realm = %s\nudp_preference_limit = 1\ndns_lookup_kdc = false\ndns_lookup_realm = false\nticket_lifetime = %.0fs\n"+
			"default_tkt_enctypes = aes128-cts-hmac-sha1-96\ndefault_tgs_enctypes = aes128-cts-hmac-sha1-96\npermitted_enctypes = aes128-cts-hmac-sha1-96\n"+
			"[realms]\n%s = {\n kdc = %s\n}\n[domain_realm]\nlocalhost = %s\n", Realm, lifetime.Seconds(), Realm, address(k.RPC), Realm),
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil { //nolint:gosec // nothing secret
			return nil, err
		}
	}
	if err := os.MkdirAll(k.holder.confDir(k.Name), 0o755); err != nil { //nolint:gosec // nothing secret
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(k.holder.confDir(k.Name), "log4j.properties"), []byte(logging), 0o644); err != nil { //nolint:gosec // nothing secret
		return nil, err
	}
	if err := k.Start(ctx); err != nil {
		return nil, errors.Join(err, k.Kill())
	}
	return k, nil
}

// Start starts it, again after a Kill; then it makes new keys.
func (k *KDC) Start(ctx context.Context) error {
	if err := k.holder.launch(ctx, k.Daemon); err != nil {
		return err
	}
	if err := k.holder.answers(ctx, k.Daemon); err != nil {
		return err
	}
	for { // the keys come after the port
		if fi, err := os.Stat(k.Keytab); err == nil && fi.Size() > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no keytab: %w\n%s", ctx.Err(), k.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Log is the end of what it has said.
func (k *KDC) Log() string { return k.holder.Log(k.Daemon) }

// Secured are the settings of a cluster of one NameNode that wants Kerberos.
// protection is that of the RPC and of the transfer of data: authentication,
// integrity or privacy.
func (k *KDC) Secured(protection string) Settings {
	core := Properties{
		"hadoop.user.group.static.mapping.overrides": Understudy + "=" + superGroup + ";dr.who=",
		"hadoop.security.authentication":             "kerberos",
		"hadoop.security.authorization":              "true",
		"hadoop.rpc.protection":                      protection,
		// Users of the keytab are local ones of the same name.
		"hadoop.security.auth_to_local": "RULE:[2:$1/$2@$0](nn/.*)s/.*/" + User + "/\nDEFAULT",
	}
	site := Properties{
		"dfs.block.access.token.enable":   "true",
		"dfs.data.transfer.protection":    protection,
		"ignore.secure.ports.for.testing": "true",
	}
	if protection == "privacy" { // Hadoop's own way is the slower one
		site["dfs.encrypt.data.transfer.cipher.suites"] = "AES/CTR/NoPadding"
	}
	for part, principal := range map[string]string{"namenode": "nn", "datanode": "dn"} {
		site["dfs."+part+".kerberos.principal"] = principal + "/_HOST@" + Realm
		site["dfs."+part+".keytab.file"] = k.Keytab
	}
	site["dfs.web.authentication.kerberos.principal"] = "HTTP/_HOST@" + Realm
	site["dfs.web.authentication.kerberos.keytab"] = k.Keytab
	return Settings{Core: core, Site: site, Single: true, JVM: []string{"-Djava.security.krb5.conf=" + k.Conf}}
}
