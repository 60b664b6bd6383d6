package upscaled

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"
)

const (
	// The protocol's own limits: of a line, of its nesting, of an id in code points.
	lineLimitBytes  = 32 << 20
	nestingLimit    = 1024
	jobIDCharacters = 128
)

// line is the job as one line of the protocol, with its end. The error is a *JobError: what no daemon could attribute
// an answer to, or could not read, is refused here.
func (j Job) line() (line []byte, err error) {
	defer func() {
		// A Config or a Marshaler of the host's own.
		if cause := recover(); cause != nil {
			reason, _ := cause.(error)
			err = localError(j.JobID, CodeInvalidJSON, fmt.Sprintf("the job cannot be written: it panics with %v", cause), reason)
		}
	}()
	if !utf8.ValidString(j.JobID) {
		return nil, localError(j.JobID, CodeInvalidJob, "job_id is no UTF-8", nil)
	}
	if count := utf8.RuneCountInString(j.JobID); count > jobIDCharacters {
		sentence := fmt.Sprintf("job_id has %d characters; the limit is %d", count, jobIDCharacters)
		return nil, localError(j.JobID, CodeInvalidJob, sentence, nil)
	}
	line, err = j.MarshalJSON()
	if err == nil {
		err = checkLine(line)
	}
	var refused *refusal
	switch {
	case err == nil:
		return append(line, '\n'), nil
	case errors.As(err, &refused):
		return nil, localError(j.JobID, refused.code, refused.sentence, nil)
	default:
		return nil, localError(j.JobID, codeOf(err), fmt.Sprintf("the job cannot be written: %v", err), err)
	}
}

// MarshalJSON is the job's line: the config says the method.
func (j Job) MarshalJSON() ([]byte, error) {
	config := reflect.ValueOf(j.Config)
	if j.Config == nil || isNil(config) {
		return nil, &refusal{CodeInvalidJob, "the job has no config"}
	}
	config, paths := withoutRawPaths(config)
	// encoding/json would replace bytes that are not UTF-8 by U+FFFD.
	if err := (&textCheck{}).value(config, "config", 1); err != nil {
		return nil, err
	}
	written := config.Interface()
	if len(paths) > 0 {
		bare, err := json.Marshal(written)
		if err != nil {
			return nil, err
		}
		written = withRawPaths(bare, paths)
	}
	method := j.Config.Method()
	if err := checkText(method, "the method"); err != nil {
		return nil, err
	}
	type plain Job
	return json.Marshal(struct {
		Method string `json:"method"`
		plain
		Config any `json:"config"`
	}{method, plain(j), written})
}

// refusal is why a value has no line.
type refusal struct {
	code     Code
	sentence string
}

func (r *refusal) Error() string { return r.sentence }

// codeOf returns CodeInvalidJob for a value that JSON does not have, and another code if the encoding failed.
func codeOf(err error) Code {
	var noType *json.UnsupportedTypeError
	var noValue *json.UnsupportedValueError
	if errors.As(err, &noType) || errors.As(err, &noValue) {
		return CodeInvalidJob
	}
	return CodeInvalidJSON
}

// checkLine refuses what a daemon refuses without reading it.
func checkLine(line []byte) error {
	if len(line) > lineLimitBytes {
		sentence := fmt.Sprintf("the line has %d bytes; the limit is %d", len(line), lineLimitBytes)
		return &refusal{CodeLineTooLong, sentence}
	}
	if !utf8.Valid(line) {
		return &refusal{CodeInvalidJSON, "the line is no UTF-8"}
	}
	if nesting(line) > nestingLimit {
		return &refusal{CodeInvalidJSON, tooDeep}
	}
	return nil
}

var tooDeep = fmt.Sprintf("the job nests deeper than %d levels", nestingLimit)

// nesting is how deep a line of valid JSON goes.
func nesting(line []byte) int {
	// Most lines have fewer brackets than that.
	if bytes.Count(line, []byte{'['})+bytes.Count(line, []byte{'{'}) <= nestingLimit {
		return 0
	}
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			if depth++; depth > deepest {
				deepest = depth
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return deepest
}
