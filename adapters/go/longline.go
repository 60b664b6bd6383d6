package upscaled

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// A line of the daemon that passes the limit is dropped as it comes in. It may have been the end of a job, whose call
// would never end, so its first bytes are kept: results and errors begin with their type and their job_id.

// A type, and an id of 128 characters with two escapes each, which takes 1538 bytes.
const headBytes = 4096

var lostSentences = map[string]string{
	"result": fmt.Sprintf("the job is done, but its result was dropped, because the line has more than %d MiB: "+
		"give output_path instead of output_base64", lineLimitBytes>>20),
	"error": fmt.Sprintf("the job failed, but its error was dropped, because the line has more than %d MiB; "+
		"the daemon's log may say more", lineLimitBytes>>20),
}

var errUnreadable = fmt.Errorf("it was ended, because it wrote a line of more than %d MiB that does not begin with "+
	"type and job_id, so the job of that line is unknown", lineLimitBytes>>20)

// lostEnd returns the error that replaces a dropped line; nil if that line ended no job. It fails with errUnreadable if
// the head of a message does not have its job.
func lostEnd(head []byte) (*Message, error) {
	head = bytes.TrimSpace(head)
	if len(head) > 0 && head[0] != '{' {
		// No message: some library's print.
		return nil, nil
	}
	kind, id, err := readHead(head)
	sentence, isEnd := lostSentences[kind]
	switch {
	case kind != "" && !isEnd, err == nil && id == nil:
		return nil, nil
	case err != nil:
		return nil, errUnreadable
	}
	failed := localError(*id, CodeLineTooLong, sentence, nil).Message
	raw, err := json.Marshal(failed)
	return &Message{Type: failed.Type, JobID: failed.JobID, Raw: raw}, err
}

// readHead is the type of a message, and its job_id: nil for null. The error says that both, or the id, cannot be read;
// the type is empty if it cannot be.
func readHead(head []byte) (kind string, id *string, err error) {
	decoder := json.NewDecoder(bytes.NewReader(head))
	if _, err = decoder.Token(); err != nil {
		return "", nil, err
	}
	value, err := readField(decoder, "type")
	kind, isText := value.(string)
	if err != nil || !isText {
		return "", nil, errNoField
	}
	switch value, err := readField(decoder, "job_id"); id := value.(type) {
	case string:
		return kind, &id, err
	case nil:
		return kind, nil, err
	}
	return kind, nil, errNoField
}

var errNoField = errors.New("the field is missing")

// readField is the value of the next field, if it has that name.
func readField(decoder *json.Decoder, wanted string) (json.Token, error) {
	if name, err := decoder.Token(); err != nil || name != wanted {
		return nil, errNoField
	}
	return decoder.Token()
}
