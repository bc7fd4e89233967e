// The load of bench-etcd.sh: CLIENTS writers put values of SIZE octets under their own keys for SECS seconds.
// Prints: writes per second, median and 99th percentile in ms, errors.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

type result struct {
	latencies []time.Duration
	errors    int
}

func writer(client *clientv3.Client, number int, value string, until time.Time) result {
	var r result
	for i := 0; time.Now().Before(until); i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		begin := time.Now()
		_, err := client.Put(ctx, fmt.Sprintf("bench/%d/%d", number, i), value)
		cancel()
		if err != nil {
			r.errors++
			continue
		}
		r.latencies = append(r.latencies, time.Since(begin))
	}
	return r
}

func main() {
	endpoints := flag.String("ep", "", "client URLs, separated by commas")
	clients := flag.Int("clients", 64, "writers")
	secs := flag.Int("secs", 8, "seconds")
	size := flag.Int("size", 256, "octets of a value")
	flag.Parse()

	urls := strings.Split(*endpoints, ",")
	connections := make([]*clientv3.Client, 0, 8)
	for i := 0; i < 8; i++ {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{urls[i%len(urls)]}, DialTimeout: 10 * time.Second})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		connections = append(connections, c)
	}
	// a cluster that has just started needs a leader first
	for begin := time.Now(); ; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := connections[0].Put(ctx, "bench/warm", "x")
		cancel()
		if err == nil {
			break
		}
		if time.Since(begin) > 20*time.Second {
			fmt.Fprintln(os.Stderr, "no leader:", err)
			os.Exit(1)
		}
	}

	value := strings.Repeat("v", *size)
	until := time.Now().Add(time.Duration(*secs) * time.Second)
	results := make([]result, *clients)
	var all sync.WaitGroup
	for i := range results {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			results[i] = writer(connections[i%len(connections)], i, value, until)
		}(i)
	}
	all.Wait()

	var latencies []time.Duration
	errors := 0
	for _, r := range results {
		latencies = append(latencies, r.latencies...)
		errors += r.errors
	}
	sort.Slice(latencies, func(a, b int) bool { return latencies[a] < latencies[b] })
	at := func(share float64) float64 {
		return latencies[int(share*float64(len(latencies)-1))].Seconds() * 1000
	}
	fmt.Printf("%.0f %.2f %.2f %d\n", float64(len(latencies))/float64(*secs), at(0.5), at(0.99), errors)
}
