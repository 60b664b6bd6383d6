"""The release. Written here, because reading it from the installed metadata takes 20 ms."""

VERSION = "0.1.0"
