"""The device that an engine computes on: which, how precisely, with which memory and threads."""
