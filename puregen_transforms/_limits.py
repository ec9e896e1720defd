"""Limits that several parts hold to."""

LARGEST_IMAGE = 2048 * 2048
"""Pixels of one image that is worked on as a whole: copies of a larger one in floats fill a common machine's memory."""

LARGEST_PHOTOGRAPH = 2**25
"""Pixels of one image that is worked on in parts: what cameras take."""
