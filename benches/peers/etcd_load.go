// The load for etcd in benches/peers/etcd.sh: puts of values from concurrent clients, each of which waits for its answer before
// it sends the next, by etcd's own client library. Prints a line: requests a second, p50 and p99 in ms.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

func main() {
	endpoints := flag.String("endpoints", "127.0.0.1:2379", "client addresses, separated by commas")
	clients := flag.Int("clients", 50, "requests under way at a time")
	conns := flag.Int("conns", 10, "connections that they share")
	seconds := flag.Float64("seconds", 5, "how long")
	keys := flag.Int("keys", 100000, "different keys")
	size := flag.Int("size", 64, "bytes of a value")
	isRead := flag.Bool("get", false, "linearizable gets instead of puts")
	flag.Parse()

	pool := make([]*clientv3.Client, *conns)
	for i := range pool {
		client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(*endpoints, ","), DialTimeout: 5 * time.Second})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		pool[i] = client
	}
	value := strings.Repeat("x", *size)
	took := make([][]time.Duration, *clients)
	start := time.Now()
	end := start.Add(time.Duration(*seconds * float64(time.Second)))
	var group sync.WaitGroup
	for i := 0; i < *clients; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			random := rand.New(rand.NewSource(int64(i)))
			client := pool[i%*conns]
			for time.Now().Before(end) {
				key := fmt.Sprintf("key:%012d", random.Intn(*keys))
				began := time.Now()
				var err error
				if *isRead {
					_, err = client.Get(context.Background(), key)
				} else {
					_, err = client.Put(context.Background(), key, value)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				took[i] = append(took[i], time.Since(began))
			}
		}(i)
	}
	group.Wait()
	spent := time.Since(start).Seconds()
	var all []time.Duration
	for _, some := range took {
		all = append(all, some...)
	}
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	at := func(share float64) float64 { return all[int(share*float64(len(all)-1))].Seconds() * 1000 }
	fmt.Printf("%.0f %.3f %.3f\n", float64(len(all))/spent, at(0.5), at(0.99))
}
