"""The release. Kept here, for reading it from the installed metadata costs a start 20 ms."""

VERSION = "0.1.0"
