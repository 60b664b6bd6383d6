"""The worker process: stdio, lanes, one writer."""
