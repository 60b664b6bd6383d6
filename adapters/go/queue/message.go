package upscaledqueue

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

const (
	taskName = "upscaled.upscale"
	// kombu has one list per priority: the first has the queue's own name, the others have this and their number behind it.
	separator = "\x06\x16"
	// Celery's priorities on Redis, 0 first. The protocol's are whole numbers, higher first, 0 by default.
	levelOfDefault = 4
	lastLevel      = 9
)

// message is a task as kombu writes it into Redis (Celery's task protocol 2).
type message struct {
	Body            string     `json:"body"`
	ContentEncoding string     `json:"content-encoding"`
	ContentType     string     `json:"content-type"`
	Headers         headers    `json:"headers"`
	Properties      properties `json:"properties"`
}

type headers struct {
	Lang       string  `json:"lang"`
	Task       string  `json:"task"`
	ID         string  `json:"id"`
	RootID     string  `json:"root_id"`
	Origin     string  `json:"origin"`
	ArgsRepr   string  `json:"argsrepr"`
	KwargsRepr string  `json:"kwargsrepr"`
	GivenAt    float64 `json:"given_at"`

	Retries             int            `json:"retries"`
	ReplacedTaskNesting int            `json:"replaced_task_nesting"`
	IgnoreResult        bool           `json:"ignore_result"`
	TimeLimit           [2]*float64    `json:"timelimit"`
	Stamps              map[string]any `json:"stamps"`
	Shadow              *string        `json:"shadow"`
	ETA                 *string        `json:"eta"`
	Expires             *string        `json:"expires"`
	Group               *string        `json:"group"`
	GroupIndex          *int           `json:"group_index"`
	ParentID            *string        `json:"parent_id"`
	StampedHeaders      *[]string      `json:"stamped_headers"`
}

type properties struct {
	CorrelationID string       `json:"correlation_id"`
	ReplyTo       string       `json:"reply_to"`
	DeliveryMode  int          `json:"delivery_mode"`
	DeliveryInfo  deliveryInfo `json:"delivery_info"`
	Priority      int          `json:"priority"`
	BodyEncoding  string       `json:"body_encoding"`
	DeliveryTag   string       `json:"delivery_tag"`
}

type deliveryInfo struct {
	Exchange   string `json:"exchange"`
	RoutingKey string `json:"routing_key"`
}

// celeryMessage is the job as a message of a queue, and the list that it belongs into. line is the job's JSON, givenAt the
// time in seconds since 1970.
func celeryMessage(queue string, job upscaled.Job, line []byte, givenAt float64) (list, text string, err error) {
	// The arguments, the keyword arguments, and what is to follow the task.
	body, err := json.Marshal([]any{
		[]json.RawMessage{line},
		struct{}{},
		map[string]any{"callbacks": nil, "errbacks": nil, "chain": nil, "chord": nil},
	})
	if err != nil {
		return "", "", err
	}
	level := levelOf(job.Priority)
	written, err := json.Marshal(message{
		Body:            base64.StdEncoding.EncodeToString(body),
		ContentEncoding: "utf-8",
		ContentType:     "application/json",
		Headers: headers{
			// The task's language, not ours.
			Lang: "py", Task: taskName, ID: job.JobID, RootID: job.JobID, Origin: "upscaled-go", GivenAt: givenAt,
			// For logs alone; the job may hold a picture.
			ArgsRepr: "(...)", KwargsRepr: "{}", Stamps: map[string]any{},
		},
		Properties: properties{
			CorrelationID: job.JobID,
			// Written to disk, for brokers that know the difference.
			DeliveryMode: 2,
			DeliveryInfo: deliveryInfo{RoutingKey: queue},
			Priority:     level,
			BodyEncoding: "base64",
			DeliveryTag:  newTag(),
		},
	})
	return listOf(queue, level), string(written), err
}

func listOf(queue string, level int) string {
	if level == 0 {
		return queue
	}
	return fmt.Sprintf("%s%s%d", queue, separator, level)
}

// levelOf is the priority for Celery: 0 to 9, 0 first.
func levelOf(priority int) int {
	switch {
	case priority >= levelOfDefault:
		return 0
	case priority <= levelOfDefault-lastLevel:
		return lastLevel
	}
	return levelOfDefault - priority
}

// newTag names one message: the machine that takes it holds its lease by that.
func newTag() string {
	var tag [16]byte
	if _, err := rand.Read(tag[:]); err != nil {
		panic(err) // the system has no random numbers
	}
	return hex.EncodeToString(tag[:])
}
