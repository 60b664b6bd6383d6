"""Tests of a client in any language. See README.md."""
