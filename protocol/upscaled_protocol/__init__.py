"""The protocol: messages, codec, error codes. Imports no other package of this project."""

PROTOCOL_VERSION = 1
