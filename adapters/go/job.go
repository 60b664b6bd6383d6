package upscaled

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
)

// Config is what a job is to do: an EsrganConfig, FluxConfig, ImagenConfig, FakeConfig or RawConfig.
type Config interface {
	// Method is the method that the config is for.
	Method() string
}

// RawConfig is a config that the host passes on.
type RawConfig struct {
	Name string
	JSON json.RawMessage
}

// Method is the method that the config is for.
func (c RawConfig) Method() string { return c.Name }

// MarshalJSON is the JSON as it is.
func (c RawConfig) MarshalJSON() ([]byte, error) {
	if c.JSON == nil {
		return []byte("{}"), nil
	}
	return c.JSON, nil
}

func newID() string {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		panic(err) // the system has no random numbers
	}
	return hex.EncodeToString(id[:])
}
