package hdfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/understudy-ha/understudy/persistence"
)

const realm = "EXAMPLE.ORG"

// refusing is a KDC that answers every request with one error. It ends with the
// test.
func refusing(t *testing.T, code int32) (address string) {
	t.Helper()
	refusal := messages.NewKRBError(types.NewPrincipalName(2, "krbtgt/"+realm), realm, code, "")
	answer, err := refusal.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	address, _ = server(t, func(c net.Conn) {
		var length uint32
		if binary.Read(c, binary.BigEndian, &length) != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(length)); err == nil {
			_, _ = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...)) //nolint:gosec // small
		}
	})
	return address
}

// secured is a store whose KDC is at an address.
func secured(t *testing.T, kdc string) *Store {
	t.Helper()
	dir := t.TempDir()
	keys := keytab.New()
	if err := keys.AddEntry("understudy", realm, "a password", time.Now(), 1, etypeID.AES128_CTS_HMAC_SHA1_96); err != nil {
		t.Fatal(err)
	}
	b, err := keys.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	login := Kerberos{Principal: "understudy@" + realm, Keytab: filepath.Join(dir, "keytab"), Config: filepath.Join(dir, "krb5.conf")}
	for file, text := range map[string]string{
		login.Keytab: string(b),
		login.Config: fmt.Sprintf("[libdefaults]\ndefault_realm = %s\nudp_preference_limit = 1\ndns_lookup_kdc = false\n"+
			"default_tkt_enctypes = aes128-cts-hmac-sha1-96\n[realms]\n%s = {\n kdc = %s\n}\n", realm, realm, kdc),
		filepath.Join(dir, "hdfs-site.xml"): "<configuration><property><name>dfs.namenode.kerberos.principal</name><value>nn/_HOST@" + realm + "</value></property></configuration>",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open("127.0.0.1:1", "/tests", Options{ConfDir: dir, Kerberos: login})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestKDCRefuses: what the KDC has against a login is said in words, with what to
// do about it, and whether waiting may help.
func TestKDCRefuses(t *testing.T) {
	for _, tt := range []struct {
		code  int32
		kind  error
		words []string
	}{
		{errorcode.KRB_AP_ERR_SKEW, persistence.Unknown, []string{"KRB_AP_ERR_SKEW", "this machine's clock differs from the KDC's", "NTP"}},
		{errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN, persistence.Denied, []string{"store.hdfs.kerberos.principal"}},
		{errorcode.KDC_ERR_CLIENT_REVOKED, persistence.Denied, []string{"KDC_ERR_CLIENT_REVOKED", "klist", "clocks"}},
	} {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			s := secured(t, refusing(t, tt.code))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := s.Check(ctx)
			if !errors.Is(err, tt.kind) {
				t.Errorf("%v; want %v", err, tt.kind)
			}
			for _, w := range tt.words {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("it does not say %q: %v", w, err)
				}
			}
			t.Log(err)
		})
	}
}
