package upscaled

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"
)

var (
	marshaler     = reflect.TypeOf((*json.Marshaler)(nil)).Elem()
	textMarshaler = reflect.TypeOf((*encoding.TextMarshaler)(nil)).Elem()
)

// textCheck goes through a value as encoding/json does, and refuses text that is no UTF-8, what nests too
// deep, and cycles. It goes first, because encoding/json passes over the first and overflows the stack
// at the second.
type textCheck struct {
	// What we are inside of, outermost first.
	inside []uintptr
}

// value refuses a value that is called so in the job, and is inside that many levels.
func (c *textCheck) value(v reflect.Value, name string, levels int) error {
	switch v.Kind() {
	case reflect.Invalid, reflect.Bool, reflect.Func, reflect.Chan:
		return nil
	}
	switch {
	case isNil(v) || writesItself(v):
		return nil
	case isNamed(v.Type()) && v.Type().Implements(textMarshaler) && v.CanInterface():
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			return err
		}
		return checkText(string(text), name)
	}
	switch v.Kind() {
	case reflect.String:
		return checkText(v.String(), name)
	case reflect.Interface:
		return c.value(v.Elem(), name, levels)
	case reflect.Pointer:
		return c.within(v.Pointer(), levels, func() error { return c.value(v.Elem(), name, levels) })
	case reflect.Struct:
		return c.structure(v, levels+1)
	case reflect.Map:
		return c.within(v.Pointer(), levels+1, func() error { return c.mapping(v, name, levels+1) })
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil
		}
		return c.within(v.Pointer(), levels+1, func() error { return c.elements(v, name, levels+1) })
	case reflect.Array:
		return c.elements(v, name, levels+1)
	}
	return nil
}

// within checks what is behind a pointer.
func (c *textCheck) within(pointer uintptr, levels int, check func() error) error {
	// A chain of pointers has no levels, so its length is bounded apart from them.
	if levels > nestingLimit || len(c.inside) > 4*nestingLimit {
		for _, outer := range c.inside {
			if outer == pointer {
				return &refusal{CodeInvalidJob, "the config contains itself"}
			}
		}
		return &refusal{CodeInvalidJSON, tooDeep}
	}
	c.inside = append(c.inside, pointer)
	defer func() { c.inside = c.inside[:len(c.inside)-1] }()
	return check()
}

func (c *textCheck) structure(v reflect.Value, levels int) error {
	for _, field := range fieldsOf(v.Type()) {
		if err := c.value(v.Field(field.index), field.name, levels); err != nil {
			return err
		}
	}
	return nil
}

func (c *textCheck) mapping(v reflect.Value, name string, levels int) error {
	for members := v.MapRange(); members.Next(); {
		key := name
		if members.Key().Kind() == reflect.String {
			key = members.Key().String()
		}
		if err := c.value(members.Key(), "a name in "+name, levels); err != nil {
			return err
		}
		if err := c.value(members.Value(), key, levels); err != nil {
			return err
		}
	}
	return nil
}

func (c *textCheck) elements(v reflect.Value, name string, levels int) error {
	if hasNoText(v.Type().Elem()) {
		return nil
	}
	for i := 0; i < v.Len(); i++ {
		if err := c.value(v.Index(i), name, levels); err != nil {
			return err
		}
	}
	return nil
}

func checkText(text, name string) error {
	if utf8.ValidString(text) {
		return nil
	}
	return &refusal{CodeInvalidJob, fmt.Sprintf("%s is no UTF-8: %.80q", name, text)}
}

// writesItself reports whether encoding/json asks the value for its JSON.
func writesItself(v reflect.Value) bool {
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		return isNamed(t.Elem()) && t.Implements(marshaler)
	}
	return isNamed(t) && (t.Implements(marshaler) || v.CanAddr() && reflect.PointerTo(t).Implements(marshaler))
}

// isNamed is false for types without methods, which need not be asked for any.
func isNamed(t reflect.Type) bool { return t.PkgPath() != "" }

func isNil(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice:
		return v.IsNil()
	}
	return false
}

// jsonField is a field that encoding/json writes and that may hold text.
type jsonField struct {
	index int
	name  string
}

// What fieldsOf said of a type: the same few types come again and again.
var jsonFields sync.Map

func fieldsOf(t reflect.Type) []jsonField {
	if known, ok := jsonFields.Load(t); ok {
		return known.([]jsonField)
	}
	var fields []jsonField
	for i := 0; i < t.NumField(); i++ {
		field := t.Field(i)
		tag := field.Tag.Get("json")
		if tag == "-" || !field.IsExported() && !field.Anonymous || hasNoText(field.Type) {
			continue
		}
		name, _, _ := strings.Cut(tag, ",")
		if name == "" {
			name = field.Name
		}
		fields = append(fields, jsonField{i, name})
	}
	jsonFields.Store(t, fields)
	return fields
}

// hasNoText reports whether a type is a plain number or bool, or a pointer to one.
func hasNoText(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return !isNamed(t) && t.Kind() >= reflect.Bool && t.Kind() <= reflect.Complex128
}
