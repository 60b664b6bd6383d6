"""The language everybody speaks: messages, codec, error codes. Imports nothing of ours."""

PROTOCOL_VERSION = 1
