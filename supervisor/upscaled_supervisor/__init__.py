"""The supervisor: keeps workers alive and loses no job. Never imports torch or numpy."""
