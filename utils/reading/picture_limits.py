"""Limits the size of a picture: a header of a few bytes may claim one that no memory holds."""

from __future__ import annotations

# TensorFlow's decoders of JPEG and PNG refuse a picture of more values (pixels times channels).
MOST_NUMBERS = 2**29 - 1
_CHANNELS = 3  # a grey picture becomes RGB, too


def size_problem(height: int, width: int, channels: int = _CHANNELS) -> str | None:
    """Returns what is wrong with the size that a picture's header claims; None if nothing is."""
    most_pixels = MOST_NUMBERS // max(channels, _CHANNELS)
    if height * width <= most_pixels:
        return None
    return (
        f"the picture has {width} x {height} pixels by its header, and more than {most_pixels} "
        "cannot be decoded: replace it by a smaller one."
    )
