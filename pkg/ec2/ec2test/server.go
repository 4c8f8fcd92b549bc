// Package ec2test is a stand-in for the EC2 endpoint: a few instances and
// addresses in memory, behind a server that believes no call whose signature
// (Signature Version 4) does not hold with the one secret it knows.
package ec2test

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// The credentials that calls must be signed with, and the region.
const (
	AccessKey = "AKIDEXAMPLE"
	SecretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	Region    = "eu-central-1"
)

// Call is one call that was signed as it should be.
type Call struct {
	Action string
	Form   url.Values
	At     time.Time
}

// Address is an Elastic IP address.
type Address struct {
	PublicIP    string
	Association string // empty: it leads to nothing
	Instance    string
	Interface   string
	PrivateIP   string
}

// Server is the stand-in. Its methods may be called from any goroutine.
type Server struct {
	URL string

	mu        sync.Mutex
	instances map[string]*instance
	addresses map[string]*Address
	calls     []Call
	refused   []string // calls that were not believed, and why
	fail      map[string]failure
	drawn     int
	onStopped func(id string)
}

type instance struct {
	state string
	looks int // so many descriptions until a stop is complete
}

type failure struct {
	times, status int
	code          string
}

// New starts a server that ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{instances: map[string]*instance{}, addresses: map[string]*Address{}, fail: map[string]failure{}}
	h := httptest.NewServer(s)
	tb.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// Env are the variables of a process that may ask the server.
func (s *Server) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey, "AWS_REGION=" + Region,
		"AWS_ENDPOINT_URL_EC2=" + s.URL, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
	}
}

// AddInstance adds a running instance, which takes so many descriptions to stop.
func (s *Server) AddInstance(id string, looks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances[id] = &instance{state: "running", looks: looks}
}

// OnStopped is called whenever an instance becomes stopped.
func (s *Server) OnStopped(f func(id string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onStopped = f
}

// AddAddress adds an address that leads to nothing.
func (s *Server) AddAddress(allocation, publicIP string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addresses[allocation] = &Address{PublicIP: publicIP}
}

// Fail has the next calls of an action fail with an error code of the service.
func (s *Server) Fail(action string, times, status int, code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[action] = failure{times, status, code}
}

// Address is the present state of an address.
func (s *Server) Address(allocation string) Address {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.addresses[allocation]
}

// Associate makes an address lead elsewhere, as somebody else would.
func (s *Server) Associate(allocation, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.associate(s.addresses[allocation], id, "", "")
}

// Calls are the calls of an action so far, or all with "".
func (s *Server) Calls(action string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.calls), func(c Call) bool { return action != "" && c.Action != action })
}

// Refused are the calls that were not believed, and why.
func (s *Server) Refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.refused)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	action := form.Get("Action")
	if why := unsigned(r, body, time.Now()); why != "" {
		s.refused = append(s.refused, action+": "+why)
		refuse(w, http.StatusForbidden, "SignatureDoesNotMatch", why)
		return
	}
	s.calls = append(s.calls, Call{action, form, time.Now()})
	if f := s.fail[action]; f.times > 0 {
		f.times--
		s.fail[action] = f
		refuse(w, f.status, f.code, "as the test wants it")
		return
	}
	switch action {
	case "StopInstances":
		s.stop(w, form.Get("InstanceId.1"))
	case "DescribeInstances":
		s.describe(w, form.Get("InstanceId.1"))
	case "AssociateAddress":
		s.associateAddress(w, form)
	case "DescribeAddresses":
		s.describeAddress(w, form.Get("AllocationId.1"))
	case "DisassociateAddress":
		s.disassociate(w, form.Get("AssociationId"))
	default:
		refuse(w, http.StatusBadRequest, "InvalidAction", "no such action: "+action)
	}
}

const namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>r</RequestID></Response>", code, text(message))
}

func answer(w http.ResponseWriter, action, format string, args ...any) {
	fmt.Fprintf(w, `<%sResponse xmlns="%s"><requestId>r</requestId>%s</%sResponse>`, action, namespace, fmt.Sprintf(format, args...), action)
}

// text escapes what goes into an answer.
func text(s string) string {
	b, err := xml.Marshal(s)
	if err != nil {
		return ""
	}
	return string(b[len("<string>") : len(b)-len("</string>")])
}

func (s *Server) stop(w http.ResponseWriter, id string) {
	i := s.instances[id]
	switch {
	case i == nil:
		refuse(w, http.StatusBadRequest, "InvalidInstanceID.NotFound", "The instance ID '"+id+"' does not exist")
		return
	case i.state == "terminated":
		refuse(w, http.StatusBadRequest, "IncorrectInstanceState", "it is terminated")
		return
	case i.state == "running":
		i.state = "stopping"
	}
	answer(w, "StopInstances", "<instancesSet><item><instanceId>%s</instanceId><currentState><name>%s</name></currentState></item></instancesSet>", id, i.state)
}

func (s *Server) describe(w http.ResponseWriter, id string) {
	i := s.instances[id]
	if i == nil {
		refuse(w, http.StatusBadRequest, "InvalidInstanceID.NotFound", "The instance ID '"+id+"' does not exist")
		return
	}
	if i.state == "stopping" {
		if i.looks--; i.looks <= 0 {
			i.state = "stopped"
			if s.onStopped != nil {
				s.onStopped(id)
			}
		}
	}
	answer(w, "DescribeInstances", "<reservationSet><item><instancesSet><item><instanceId>%s</instanceId><instanceState><name>%s</name></instanceState></item></instancesSet></item></reservationSet>", id, i.state)
}

func (s *Server) associate(a *Address, id, eni, private string) {
	s.drawn++
	*a = Address{PublicIP: a.PublicIP, Association: fmt.Sprintf("eipassoc-%08d", s.drawn), Instance: id, Interface: eni, PrivateIP: private}
}

func (s *Server) associateAddress(w http.ResponseWriter, form url.Values) {
	a := s.addresses[form.Get("AllocationId")]
	switch {
	case a == nil:
		refuse(w, http.StatusBadRequest, "InvalidAllocationID.NotFound", "no such allocation")
	case a.Association != "" && form.Get("AllowReassociation") != "true":
		refuse(w, http.StatusBadRequest, "Resource.AlreadyAssociated", "it leads to "+a.Instance)
	default:
		s.associate(a, form.Get("InstanceId"), form.Get("NetworkInterfaceId"), form.Get("PrivateIpAddress"))
		answer(w, "AssociateAddress", "<return>true</return><associationId>%s</associationId>", a.Association)
	}
}

func (s *Server) describeAddress(w http.ResponseWriter, allocation string) {
	a := s.addresses[allocation]
	if a == nil {
		refuse(w, http.StatusBadRequest, "InvalidAllocationID.NotFound", "no such allocation")
		return
	}
	item := fmt.Sprintf("<allocationId>%s</allocationId><publicIp>%s</publicIp>", allocation, a.PublicIP)
	for name, v := range map[string]string{
		"associationId": a.Association, "instanceId": a.Instance, "networkInterfaceId": a.Interface, "privateIpAddress": a.PrivateIP,
	} {
		if v != "" {
			item += fmt.Sprintf("<%s>%s</%s>", name, v, name)
		}
	}
	answer(w, "DescribeAddresses", "<addressesSet><item>%s</item></addressesSet>", item)
}

func (s *Server) disassociate(w http.ResponseWriter, association string) {
	for _, a := range s.addresses {
		if a.Association == association && association != "" {
			*a = Address{PublicIP: a.PublicIP}
			answer(w, "DisassociateAddress", "<return>true</return>")
			return
		}
	}
	refuse(w, http.StatusBadRequest, "InvalidAssociationID.NotFound", "no such association")
}
