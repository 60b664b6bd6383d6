"""Brightness, as JPEG and the usual conversions to gray have it."""

LUMA = (0.299, 0.587, 0.114)
"""The shares of red, green and blue (ITU-R BT.601)."""
