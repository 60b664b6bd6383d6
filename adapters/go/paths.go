package upscaled

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/upscaled/upscaled/adapters/go/internal/rawpath"
)

// A file's name may be no UTF-8. On the wire each such byte is half a surrogate pair, U+DC80 to U+DCFF,
// escaped (Python's surrogateescape). encoding/json makes U+FFFD of both, so paths are written and read
// by rawpath.

// withoutRawPaths is the config without those of its paths that are no UTF-8, and these by their names.
func withoutRawPaths(config reflect.Value) (reflect.Value, map[string]string) {
	bare := config
	if bare.Kind() == reflect.Pointer {
		bare = bare.Elem()
	}
	if bare.Kind() != reflect.Struct || writesItself(config) {
		return config, nil
	}
	var paths map[string]string
	for _, field := range fieldsOf(bare.Type()) {
		value := bare.Field(field.index)
		if value.Kind() != reflect.String || !isPath(field.name) || utf8.ValidString(value.String()) {
			continue
		}
		if paths == nil {
			paths = map[string]string{}
			copied := reflect.New(bare.Type()).Elem()
			copied.Set(bare)
			bare, config = copied, copied
		}
		paths[field.name] = bare.Field(field.index).String()
		bare.Field(field.index).SetString("")
	}
	return config, paths
}

// withRawPaths is the JSON of the bare config with these paths.
func withRawPaths(bare []byte, paths map[string]string) json.RawMessage {
	members := map[string][]byte{}
	for name, path := range paths {
		members[name] = rawpath.Quote(path)
	}
	return withMembers(bare, members)
}

// withMembers is a JSON object with more members. Of a name that occurs twice the last one counts.
func withMembers(object []byte, members map[string][]byte) json.RawMessage {
	// A copy: the object may be the caller's.
	written := append([]byte(nil), bytes.TrimSuffix(object, []byte{'}'})...)
	for name, value := range members {
		if len(written) > 1 {
			written = append(written, ',')
		}
		written = append(append(written, fmt.Sprintf("%q:", name)...), value...)
	}
	return append(written, '}')
}

// isPath reports whether a field of a config may hold a file's name. A model may be a file.
func isPath(name string) bool {
	return strings.HasSuffix(name, "_path") || strings.HasSuffix(name, "model")
}

// UnmarshalJSON reads a result, with its paths as they are.
func (r *Result) UnmarshalJSON(text []byte) error {
	type plain Result
	if err := json.Unmarshal(text, (*plain)(r)); err != nil {
		return err
	}
	if !bytes.Contains(text, []byte(`\udc`)) && !bytes.Contains(text, []byte(`\uDC`)) {
		return nil
	}
	var raw struct {
		OutputPath json.RawMessage `json:"output_path"`
		Model      json.RawMessage `json:"model"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	r.OutputPath, r.Model = rawpath.Unquote(raw.OutputPath), rawpath.Unquote(raw.Model)
	return nil
}
