package upscaled

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A file's name may be no UTF-8. On the wire each such byte is half a surrogate pair, U+DC80 to U+DCFF,
// escaped (Python's surrogateescape). encoding/json makes U+FFFD of both, so paths are written and read
// here.

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
		members[name] = quotePath(path)
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

// isPath tells whether a field of a config is a file's name; a model may be one.
func isPath(name string) bool {
	return strings.HasSuffix(name, "_path") || strings.HasSuffix(name, "model")
}

// quotePath writes a path in JSON. Each byte that is no UTF-8 becomes U+DC80 to U+DCFF, as Python has it.
func quotePath(path string) []byte {
	quoted := []byte{'"'}
	for len(path) > 0 {
		r, size := utf8.DecodeRuneInString(path)
		if r == utf8.RuneError && size == 1 {
			quoted = append(quoted, fmt.Sprintf(`\udc%02x`, path[0])...)
		} else {
			letter, _ := json.Marshal(path[:size])
			quoted = append(quoted, letter[1:len(letter)-1]...)
		}
		path = path[size:]
	}
	return append(quoted, '"')
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
	r.OutputPath, r.Model = unquotePath(raw.OutputPath), unquotePath(raw.Model)
	return nil
}

// unquotePath reads what quotePath writes.
func unquotePath(quoted []byte) string {
	if len(quoted) < 2 || quoted[0] != '"' {
		return ""
	}
	var path strings.Builder
	readable := []byte{'"'}
	flush := func() {
		var text string
		_ = json.Unmarshal(append(readable, '"'), &text)
		path.WriteString(text)
		readable = readable[:1]
	}
	rest := quoted[1 : len(quoted)-1]
	for len(rest) > 0 {
		unit := escaped(rest)
		size := 1
		switch {
		case unit >= 0xdc80 && unit <= 0xdcff:
			flush()
			path.WriteByte(byte(unit))
			rest = rest[6:]
			continue
		case unit >= 0xd800 && unit < 0xdc00 && escaped(rest[6:]) >= 0xdc00:
			size = 12
		case unit >= 0:
			size = 6
		case rest[0] == '\\' && len(rest) > 1:
			size = 2
		}
		readable = append(readable, rest[:size]...)
		rest = rest[size:]
	}
	flush()
	return path.String()
}

// escaped is the code unit of the escape that the text begins with; -1 if it begins with none.
func escaped(text []byte) int {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return int(unit)
}
