// Package rawpath writes and reads file names in JSON that may be no UTF-8: each such byte is half a surrogate pair,
// U+DC80 to U+DCFF, escaped (Python's surrogateescape).
package rawpath

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Quote writes a path in JSON. Each byte that is no UTF-8 becomes U+DC80 to U+DCFF, as Python has it.
func Quote(path string) []byte {
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

// Unquote reads what Quote writes.
func Unquote(quoted []byte) string {
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
