// Command sigstorego verifies bundles again and again on one core, and prints the seconds as JSON:
//
//	sigstorego TRUSTED_ROOT IDENTITY ISSUER TIMES < one line an attestation: {"image", "bundle"}
//
// "bytes" is from the bundle's bytes to the verdict; "parsed" leaves out the reading of the JSON.
package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func parse(data []byte) *bundle.Bundle {
	parsed := new(bundle.Bundle)
	if err := parsed.UnmarshalJSON(data); err != nil {
		log.Fatal(err)
	}
	return parsed
}

func main() {
	runtime.GOMAXPROCS(1)
	trusted := must(root.NewTrustedRootFromPath(os.Args[1]))
	times := must(strconv.Atoi(os.Args[4]))
	// As cosign asks it for a bundle of a Rekor v2 log.
	verifier := must(verify.NewVerifier(trusted, verify.WithSignedCertificateTimestamps(1),
		verify.WithTransparencyLog(1), verify.WithSignedTimestamps(1)))
	identity := must(verify.NewShortCertificateIdentity(os.Args[3], "", os.Args[2], ""))

	var data [][]byte
	var policies []verify.PolicyBuilder
	for _, line := range bytes.Split(bytes.TrimSpace(must(io.ReadAll(os.Stdin))), []byte("\n")) {
		var one struct {
			Image  string
			Bundle json.RawMessage
		}
		if err := json.Unmarshal(line, &one); err != nil {
			log.Fatal(err)
		}
		image := must(hex.DecodeString(strings.TrimPrefix(one.Image, "sha256:")))
		data = append(data, one.Bundle)
		policies = append(policies, verify.NewPolicy(verify.WithArtifactDigest("sha256", image),
			verify.WithCertificateIdentity(identity)))
	}

	started := time.Now()
	for range times {
		for number, one := range data {
			must(verifier.Verify(parse(one), policies[number]))
		}
	}
	fromBytes := time.Since(started).Seconds()

	var parsed []*bundle.Bundle
	for _, one := range data {
		parsed = append(parsed, parse(one))
	}
	started = time.Now()
	for range times {
		for number, one := range parsed {
			must(verifier.Verify(one, policies[number]))
		}
	}
	fmt.Printf("{\"bytes\": %f, \"parsed\": %f}\n", fromBytes, time.Since(started).Seconds())
}
