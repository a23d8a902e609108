// Command refregistry serves go-containerregistry's registry with the OCI 1.1 referrers API switched
// on, which none of its own commands does. Blobs are files; manifests live as long as the process.
package main

import (
	"flag"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:5000", "address to listen on")
	dir := flag.String("dir", "", "folder for blobs; in memory when empty")
	flag.Parse()

	options := []registry.Option{
		registry.WithReferrersSupport(true),
		registry.Logger(log.New(io.Discard, "", 0)),
	}
	if *dir != "" {
		options = append(options, registry.WithBlobHandler(registry.NewDiskBlobHandler(*dir)))
	}
	server := &http.Server{
		Addr:              *addr,
		Handler:           registry.New(options...),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
