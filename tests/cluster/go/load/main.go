// The load of the cluster's test. Sends requests to one URL or two until the time is over, and prints one line of JSON:
// how many answers of each status, how many requests got none, and the first few reasons.
//
// Half of the workers keep their connection; the others open one for each request, as clients behind a balancer do. A kept
// connection repeats a GET that met a closed connection, as every HTTP client may; nothing else is sent twice.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const reasonsMax = 5

type result struct {
	sync.Mutex
	Sent    int            `json:"sent"`
	Status  map[string]int `json:"status"`
	Failed  int            `json:"failed"`
	Reasons []string       `json:"reasons"`
	// the last status and its time: when a change arrived
	Changes []change `json:"changes"`
	last    string
}

type change struct {
	Status string `json:"status"`
	At     string `json:"at"`
}

func (r *result) count(status string, failure error) {
	r.Lock()
	defer r.Unlock()
	r.Sent++
	now := time.Now().Format("15:04:05.000")
	if failure != nil {
		r.Failed++
		if len(r.Reasons) < reasonsMax {
			r.Reasons = append(r.Reasons, now+" "+failure.Error())
		}
		return
	}
	r.Status[status]++
	if status != r.last && len(r.Changes) < 20 {
		r.Changes = append(r.Changes, change{status, now})
		r.last = status
	}
}

func main() {
	url := flag.String("url", "", "where to send requests")
	also := flag.String("also", "", "where every second pair of workers sends them; default the same")
	token := flag.String("token", "", "bearer token")
	workers := flag.Int("workers", 8, "concurrent clients")
	duration := flag.Duration("duration", 10*time.Minute, "longest time; SIGTERM ends it earlier")
	pause := flag.Duration("pause", 5*time.Millisecond, "time between two requests of a worker")
	flag.Parse()
	end := make(chan struct{})
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
		select {
		case <-stop:
		case <-time.After(*duration):
		}
		close(end)
	}()
	sum := &result{Status: map[string]int{}}
	var group sync.WaitGroup
	for n := range *workers {
		target := *url
		if *also != "" && n%4 >= 2 {
			target = *also
		}
		group.Add(1)
		go func() {
			defer group.Done()
			work(sum, target, *token, n%2 == 0, *pause, end)
		}()
	}
	group.Wait()
	line, err := json.Marshal(sum)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func work(sum *result, url, token string, keep bool, pause time.Duration, end <-chan struct{}) {
	transport := &http.Transport{
		DialContext:       (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		DisableKeepAlives: !keep,
	}
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	for {
		select {
		case <-end:
			return
		case <-time.After(pause):
		}
		status, err := ask(client, url, token)
		sum.count(status, err)
	}
}

func ask(client *http.Client, url, token string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, url, bytes.NewReader(nil))
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "", fmt.Errorf("body: %w", err)
	}
	return strconv.Itoa(response.StatusCode), nil
}
