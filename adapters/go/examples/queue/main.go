// Gives jobs to a queue and prints their ends:
//
//	UPSCALED_QUEUE_URL=redis://127.0.0.1:6379/0 go run ./examples/queue < jobs.jsonl
//
// With -cancel ID it cancels one job, and reads none.
//
// A job is a line: {"job_id": "poster-17", "method": "esrgan", "config": {"image_url": "s3://pictures/in.png"}}, and may have
// a "webhook_url".
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
	upscaledqueue "github.com/upscaled/upscaled/adapters/go/queue"
)

func main() {
	log.SetFlags(0)
	timeout := flag.Duration("timeout", 10*time.Minute, "how long to wait for the ends")
	cancelled := flag.String("cancel", "", "the id of a job to cancel")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	// Not an argument: every user of the machine can read those, and the URL may have a password.
	client, err := upscaledqueue.Open(ctx, os.Getenv("UPSCALED_QUEUE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if *cancelled != "" {
		isCancelled, err := client.Cancel(ctx, *cancelled)
		if err != nil {
			log.Fatal(err)
		} else if !isCancelled {
			log.Fatalf("job %s has ended", *cancelled)
		}
		return
	}
	if err := run(ctx, client, os.Stdin, json.NewEncoder(os.Stdout)); err != nil {
		log.Fatal(err)
	}
}

// run gives all jobs before it waits for the first one, so that the machines can do them at the same time.
func run(ctx context.Context, client *upscaledqueue.Client, jobs io.Reader, out *json.Encoder) error {
	var ids []string
	for lines := json.NewDecoder(bufio.NewReader(jobs)); ; {
		var line struct {
			JobID    string          `json:"job_id"`
			Method   string          `json:"method"`
			Priority int             `json:"priority"`
			Config   json.RawMessage `json:"config"`
			Webhook  string          `json:"webhook_url"`
		}
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		config := upscaled.RawConfig{Name: line.Method, JSON: line.Config}
		job := upscaled.Job{JobID: line.JobID, Priority: line.Priority, Config: config}
		id, err := client.Submit(ctx, job, upscaledqueue.WithWebhook(line.Webhook))
		if err != nil {
			return err
		}
		ids = append(ids, id)
		if err := out.Encode(map[string]string{"type": "queued", "job_id": id}); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if err := printEnd(ctx, client, id, out); err != nil {
			return err
		}
	}
	return nil
}

func printEnd(ctx context.Context, client *upscaledqueue.Client, id string, out *json.Encoder) error {
	result, err := client.End(ctx, id)
	var failed *upscaled.JobError
	switch {
	case errors.As(err, &failed):
		return out.Encode(failed.Message)
	case err != nil:
		return err
	}
	return out.Encode(result)
}
