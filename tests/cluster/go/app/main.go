// The app of the cluster's test: serves on loopback only, as an app behind the gate should.
//
//	/healthz   200 once it has started
//	/…?slow    answers after 300 ms, so that a request is in flight when the pod ends
//	anything   200 with the identity that the gate passed on
//
// With -once the app does one piece of work, writes "work is done" and exits 0, as a Job's container does.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const slow = 300 * time.Millisecond

func main() {
	address := flag.String("address", "127.0.0.1:3000", "where to listen")
	startDelay := flag.Duration("start-delay", 0, "time until /healthz is 200")
	once := flag.Bool("once", false, "do one piece of work and exit")
	flag.Parse()
	if *once {
		fmt.Println("work is done")
		return
	}
	started := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(started) < *startDelay {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/", answer)
	server := &http.Server{Addr: *address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	done := make(chan struct{})
	go func() {
		<-stop
		// open requests finish
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			log.Print(err)
		}
		close(done)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-done
}

func answer(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.URL.Query().Has("slow") {
		time.Sleep(slow)
	}
	fmt.Fprintf(w, "user=%s tenant=%s pod=%s\n", r.Header.Get("X-Forwarded-User"), r.Header.Get("X-Cedargate-Tenant"), os.Getenv("HOSTNAME"))
}
