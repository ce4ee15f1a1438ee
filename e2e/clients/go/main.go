// An application that finds its Redis by Sentinel with go-redis, and appends until it is told to stop.
//
// Each value is tried until it is acknowledged: what go-redis makes of a failover is all that is between. A report of one line of JSON is the
// end; e2e/clients/python/client.py is its twin, with the same arguments and the same report.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// An address that nobody serves any more may never answer.
	patience = 2 * time.Second
	// Between two attempts, and between two values.
	pause = 5 * time.Millisecond
	// How long a replica may take to acknowledge one write.
	wait = 500
	// Errors that the report quotes.
	quoted = 5
)

type settings struct {
	sentinels    []string
	master       string
	user         string
	password     string
	tls          *tls.Config
	key          string
	acks         int
	seconds      float64
	acknowledged string
}

type report struct {
	Client       string   `json:"client"`
	Acknowledged int      `json:"acknowledged"`
	Attempts     int      `json:"attempts"`
	LongestGapMs int64    `json:"longest_gap_ms"`
	Reconnects   int64    `json:"reconnects"`
	Switches     []string `json:"switches"`
	Errors       []string `json:"errors"`
}

func main() {
	settings, err := arguments()
	if err == nil {
		err = run(settings)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func arguments() (settings, error) {
	var s settings
	sentinels := flag.String("sentinels", "", "HOST:PORT,...")
	flag.StringVar(&s.master, "master", "", "name of the master")
	flag.StringVar(&s.user, "user", "", "account in Redis and at the sentinels")
	password := flag.String("password-file", "", "file with its password; none: no login")
	ca := flag.String("ca", "", "file with the CA; none: no TLS")
	flag.StringVar(&s.key, "key", "ledger", "list to append to")
	flag.IntVar(&s.acks, "acks", 0, "replicas that have to acknowledge each write")
	flag.Float64Var(&s.seconds, "seconds", 0, "how long; 0: until SIGTERM")
	flag.StringVar(&s.acknowledged, "acknowledged", "", "file to write acknowledged values to")
	flag.Parse()
	s.sentinels = strings.Split(*sentinels, ",")
	if *sentinels == "" || s.master == "" || s.acknowledged == "" || flag.NArg() > 0 {
		return s, errors.New("needs --sentinels, --master and --acknowledged")
	}
	if *password != "" {
		text, err := os.ReadFile(*password)
		if err != nil {
			return s, err
		}
		s.password = string(text)
	}
	if *ca != "" {
		text, err := os.ReadFile(*ca)
		if err != nil {
			return s, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return s, fmt.Errorf("no certificate in %s", *ca)
		}
		// The name to check is that of the address: go-redis leaves it to crypto/tls.
		s.tls = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return s, nil
}

func run(s settings) error {
	until, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if s.seconds > 0 {
		var cancel context.CancelFunc
		until, cancel = context.WithTimeout(until, time.Duration(s.seconds*float64(time.Second)))
		defer cancel()
	}
	file, err := os.Create(s.acknowledged)
	if err != nil {
		return err
	}
	defer file.Close()

	switches := listen(until, s)
	var connections counter
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: s.master, SentinelAddrs: s.sentinels,
		Username: s.user, Password: s.password, SentinelUsername: s.user, SentinelPassword: s.password,
		TLSConfig: s.tls, DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience,
		// Each value is tried again here, where it is counted.
		MaxRetries: -1, PoolSize: 1,
		OnConnect: func(context.Context, *redis.Conn) error { connections.add(); return nil },
	})
	defer client.Close()

	result := report{Client: name(), Errors: []string{}}
	last := time.Now()
	for number := 0; until.Err() == nil; number++ {
		value := fmt.Sprintf("go-%d-%d", os.Getpid(), number)
		for until.Err() == nil {
			result.Attempts++
			// Not under `until`: what was sent when the end came is worth its answer.
			err := write(context.Background(), client, s, value)
			if err == nil {
				now := time.Now()
				result.LongestGapMs = max(result.LongestGapMs, now.Sub(last).Milliseconds())
				last = now
				result.Acknowledged++
				if _, err := fmt.Fprintln(file, value); err != nil {
					return err
				}
				break
			}
			if text := err.Error(); len(result.Errors) < quoted && !slices.Contains(result.Errors, text) {
				result.Errors = append(result.Errors, text)
			}
			time.Sleep(pause)
		}
		time.Sleep(pause)
	}
	// A client that was shut out at the end has a gap as well.
	result.LongestGapMs = max(result.LongestGapMs, time.Since(last).Milliseconds())
	result.Reconnects = max(0, connections.value()-1)
	result.Switches = switches.all()
	return json.NewEncoder(os.Stdout).Encode(result)
}

// One connection carries all three: WAIT speaks of the writes of its own connection.
func write(ctx context.Context, client *redis.Client, s settings, value string) error {
	pipe := client.Pipeline()
	push := pipe.RPush(ctx, s.key, value)
	count := pipe.Incr(ctx, s.key+":count")
	var waited *redis.Cmd
	if s.acks > 0 {
		waited = pipe.Do(ctx, "WAIT", s.acks, wait)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	if err := errors.Join(push.Err(), count.Err()); err != nil {
		return err
	}
	if waited != nil {
		acks, err := waited.Int()
		if err != nil {
			return err
		}
		if acks < s.acks {
			return fmt.Errorf("acknowledged by %d of %d replicas", acks, s.acks)
		}
	}
	return nil
}

// Hears what each sentinel publishes, for as long as it lives; go-redis subscribes again by itself.
func listen(ctx context.Context, s settings) *switches {
	heard := &switches{}
	for _, address := range s.sentinels {
		sentinel := redis.NewSentinelClient(&redis.Options{
			Addr: address, Username: s.user, Password: s.password, TLSConfig: s.tls, DialTimeout: patience,
		})
		channel := sentinel.Subscribe(ctx, "+switch-master").Channel()
		go func() {
			defer sentinel.Close()
			for {
				select {
				case <-ctx.Done():
					return
				case message, open := <-channel:
					if !open {
						return
					}
					heard.add(message.Payload)
				}
			}
		}()
	}
	return heard
}

func name() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/redis/go-redis/v9" {
				return "go-redis " + module.Version
			}
		}
	}
	return "go-redis"
}

type counter struct {
	lock  sync.Mutex
	count int64
}

func (c *counter) add() {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.count++
}

func (c *counter) value() int64 {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.count
}

// Distinct payloads in the order they were heard: every sentinel tells the same.
type switches struct {
	lock  sync.Mutex
	heard []string
}

func (s *switches) add(payload string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if len(s.heard) == 0 || s.heard[len(s.heard)-1] != payload {
		s.heard = append(s.heard, payload)
	}
}

func (s *switches) all() []string {
	s.lock.Lock()
	defer s.lock.Unlock()
	return append([]string{}, s.heard...)
}
