"""Limits that several parts hold to."""

LARGEST_IMAGE = 2048 * 2048
"""Pixels of one image past which the networks' activations would fill a common machine's memory."""
