package artifact

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Prefix is what the keys of all artifacts' objects begin with.
const Prefix = "artifacts/"

// randomLen bytes make two pushes of one second draw different names.
const randomLen = 16

// object is the name of an object in parts, see the package comment.
type object struct {
	digest Digest
	plane  lease.PlaneID
	term   lease.Term
	pushed time.Time // to the second, wall clock of the master
}

// newObject draws a name that was never used and never will be.
func (o object) newName() string {
	random := strings.ToLower(rand.Text()[:randomLen])
	return fmt.Sprintf("%s.%s.%012x.%010x.%s", o.digest, o.plane, uint64(o.term), o.pushed.Unix(), random)
}

func parseObject(name string) (object, error) {
	bad := fmt.Errorf("%.200q is not the name of an artifact's object", name)
	parts := strings.Split(name, ".")
	if len(parts) != 5 || len(parts[2]) != 12 || len(parts[3]) != 10 || len(parts[4]) != randomLen {
		return object{}, bad
	}
	for _, r := range parts[4] {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') {
			return object{}, bad
		}
	}
	digest, err := ParseDigest(parts[0])
	if err != nil || string(digest) != parts[0] {
		return object{}, bad
	}
	plane, err := lease.ParsePlaneID(parts[1])
	if err != nil {
		return object{}, bad
	}
	term, err := strconv.ParseUint(parts[2], 16, 48)
	if err != nil {
		return object{}, bad
	}
	secs, err := strconv.ParseInt(parts[3], 16, 64)
	if err != nil {
		return object{}, bad
	}
	return object{digest, plane, lease.Term(term), time.Unix(secs, 0)}, nil
}
