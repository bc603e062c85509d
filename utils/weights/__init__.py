"""Weights files of other programs, and the checkpoints made of them."""
