package hdfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"sync"
	"time"

	krb "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/understudy-ha/understudy/persistence"
)

// Kerberos says how to log in. The zero value is the cache of tickets that
// kinit fills (KRB5CCNAME), when Hadoop's configuration asks for Kerberos.
type Kerberos struct {
	// Principal is whom to log in as with Keytab: name@REALM, or name/host@REALM.
	// _HOST stands for this host's name. Without a realm it is the default one.
	Principal string
	// Keytab is the file with the principal's key. Empty: the cache is used.
	Keytab string
	// CCache is the cache of tickets. Empty: KRB5CCNAME, or /tmp/krb5cc_UID.
	CCache string
	// Config is Kerberos' configuration. Empty: KRB5_CONFIG, or /etc/krb5.conf.
	Config string
}

func (k Kerberos) wanted() bool { return k.Principal != "" || k.Keytab != "" || k.CCache != "" }

// errKerberos marks errors of logging in.
var errKerberos = errors.New("Kerberos")

// renewEvery is how often tickets are looked after. The library renews a ticket
// in the last sixth of its life when it is asked for it, and asks the KDC, which
// may take seconds: no heartbeat is to wait for that.
const renewEvery = 30 * time.Second

// tickets logs in, and keeps tickets fresh.
type tickets struct {
	opts      Kerberos
	conf      *config.Config
	spn       string // of the NameNodes; _HOST stands for the host of each
	addresses []string
	stop      chan struct{}
	once      sync.Once // closes stop

	logins  sync.Mutex // held while the KDC is asked, and never with mu held
	mu      sync.Mutex
	now     *krb.Client
	stamp   time.Time // of the cache that now was made from
	began   bool      // the goroutine that renews
	trouble error     // of its last attempt
	name    string
}

func newTickets(o Kerberos, principal string, addresses []string) (*tickets, error) {
	if o.Config == "" {
		o.Config = os.Getenv("KRB5_CONFIG")
	}
	if o.Config == "" {
		o.Config = "/etc/krb5.conf"
	}
	if o.CCache == "" {
		o.CCache = os.Getenv("KRB5CCNAME")
	}
	if o.CCache == "" {
		if u, err := user.Current(); err == nil {
			o.CCache = "/tmp/krb5cc_" + u.Uid
		}
	}
	o.CCache = strings.TrimPrefix(o.CCache, "FILE:")
	bad := func(format string, args ...any) (*tickets, error) {
		return nil, fmt.Errorf("%w: Kerberos: %s", persistence.Unsupported, fmt.Sprintf(format, args...))
	}
	switch {
	case principal == "":
		return bad("hdfs-site.xml does not set dfs.namenode.kerberos.principal; complete it as it is on the NameNodes")
	case o.Keytab != "" && o.Principal == "":
		return bad("a keytab without a principal; set store.hdfs.kerberos.principal as 'klist -k %s' shows it", o.Keytab)
	case o.Keytab == "" && strings.Contains(o.CCache, ":"):
		return bad("the cache %s is no file; log in with KRB5CCNAME=FILE:/path, or set store.hdfs.kerberos.keytab", o.CCache)
	}
	conf, err := config.Load(o.Config)
	if err != nil {
		return bad("%v; correct %s, or set KRB5_CONFIG", err, o.Config)
	}
	spn, _, _ := strings.Cut(principal, "@")
	if name, err := os.Hostname(); err == nil {
		o.Principal = strings.Replace(o.Principal, "/_HOST", "/"+strings.ToLower(name), 1)
	}
	return &tickets{opts: o, conf: conf, spn: spn, addresses: addresses, stop: make(chan struct{}), name: o.Principal}, nil
}

// service is the principal of the NameNode at an address.
func (t *tickets) service(address string) string {
	return strings.Replace(t.spn, "/_HOST", "/"+strings.ToLower(host(address)), 1)
}

// who is whom this process is logged in as.
func (t *tickets) who() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.name == "" {
		return "of the tickets in " + t.opts.CCache
	}
	return t.name
}

// client returns one that is logged in.
func (t *tickets) client(ctx context.Context) (*krb.Client, error) {
	if c := t.present(); c != nil {
		return c, nil
	}
	t.logins.Lock()
	defer t.logins.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c := t.present(); c != nil { // somebody else was first
		return c, nil
	}
	var err error
	if t.opts.Keytab == "" {
		err = t.loadCache()
	} else {
		err = t.login()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKerberos, err)
	}
	return t.present(), nil
}

// present is the client there is, or nil.
func (t *tickets) present() *krb.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// become takes a client for the one to be used from now on, and sees to it that
// its tickets are kept fresh.
func (t *tickets) become(c *krb.Client, stamp time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now, t.stamp = c, stamp
	t.name = c.Credentials.UserName() + "@" + c.Credentials.Realm()
	if !t.began {
		t.began = true
		go t.keep()
	}
}

// login logs in with the keytab.
func (t *tickets) login() error {
	kt, err := keytab.Load(t.opts.Keytab)
	if err != nil {
		return fmt.Errorf("keytab %s: %w", t.opts.Keytab, err)
	}
	name, realm, ok := strings.Cut(t.opts.Principal, "@")
	if !ok {
		realm = t.conf.LibDefaults.DefaultRealm
	}
	c := krb.NewWithKeytab(name, realm, kt, t.conf, krb.DisablePAFXFAST(true))
	if err := c.Login(); err != nil {
		return err
	}
	t.become(c, time.Time{})
	return nil
}

// loadCache reads the tickets that somebody else, kinit or k5start, renews.
func (t *tickets) loadCache() error {
	fi, err := os.Stat(t.opts.CCache)
	if err != nil {
		return err
	}
	t.mu.Lock()
	same := t.now != nil && fi.ModTime().Equal(t.stamp)
	t.mu.Unlock()
	if same {
		return nil
	}
	cache, err := credentials.LoadCCache(t.opts.CCache)
	if err != nil {
		return fmt.Errorf("ticket cache %s: %w", t.opts.CCache, err)
	}
	c, err := krb.NewFromCCache(cache, t.conf, krb.DisablePAFXFAST(true))
	if err != nil {
		return fmt.Errorf("ticket cache %s: %w", t.opts.CCache, err)
	}
	t.become(c, fi.ModTime())
	return nil
}

// keep renews ahead of time, until close.
func (t *tickets) keep() {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			err := t.renew()
			t.mu.Lock()
			t.trouble = err
			t.mu.Unlock()
		case <-t.stop:
			if t.opts.Keytab != "" {
				t.present().Destroy() // ends the library's own renewals
			}
			return
		}
	}
}

// renew gets whatever runs out soon.
func (t *tickets) renew() error {
	t.logins.Lock()
	defer t.logins.Unlock()
	if t.opts.Keytab == "" {
		if err := t.loadCache(); err != nil {
			return err
		}
	}
	var errs []error
	for _, a := range t.addresses {
		_, _, err := t.present().GetServiceTicket(t.service(a)) // the library's cache answers while it can
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// refusals says what failures to log in mean, by a part of what the library says.
var refusals = []struct {
	said   string
	kind   error
	remedy string
}{
	{"KRB_AP_ERR_SKEW", persistence.Unknown, skewed},
	{"lock skew", persistence.Unknown, skewed},
	{"no such file", persistence.Denied, "log in with kinit, or set store.hdfs.kerberos.keytab and principal"},
	{"KDC_ERR_C_PRINCIPAL_UNKNOWN", persistence.Denied, "the KDC does not know this principal: correct store.hdfs.kerberos.principal"},
	{"KDC_ERR_S_PRINCIPAL_UNKNOWN", persistence.Denied, "the KDC does not know the NameNode as it is named here; correct dfs.namenode.kerberos.principal, or name the NameNode as its principal does"},
	{"KDC_ERR_PREAUTH_FAILED", persistence.Denied, staleKeys},
	{"matching key not found", persistence.Denied, staleKeys},
	{"KRB_AP_ERR_TKT_EXPIRED", persistence.Denied, expired},
	{"no valid existing session", persistence.Denied, expired},
	{"ommunicat", persistence.Unknown, "the KDC does not answer: look at it, and at the realm in the Kerberos configuration"},
	{"sending to a KDC", persistence.Unknown, "the KDC does not answer: look at it, and at the realm in the Kerberos configuration"},
}

const (
	skewed    = "this machine's clock differs from the KDC's by more than Kerberos takes (five minutes as a rule): have both set by NTP"
	staleKeys = "the keytab does not hold the principal's present key: have it made again"
	expired   = "the tickets have run out: log in again with kinit, or set store.hdfs.kerberos.keytab"
)

// verdictOn says what to do about a failure to log in.
func (t *tickets) verdictOn(err error) verdict {
	v := verdict{persistence.Denied, "look at 'klist', at the clocks, and at the log of the KDC and of the NameNode"}
	for _, l := range refusals {
		if strings.Contains(err.Error(), l.said) {
			v = verdict{l.kind, l.remedy}
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.trouble != nil {
		v.remedy += " (the last renewal failed: " + short(t.trouble.Error()) + ")"
	}
	return v
}

func (t *tickets) close() { t.once.Do(func() { close(t.stop) }) }

// hadoopUser is the user that Hadoop's environment names.
func hadoopUser() string { return os.Getenv("HADOOP_USER_NAME") }
