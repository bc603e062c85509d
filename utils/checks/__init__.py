"""Runs packages that do not fit next to TensorFlow 2.15, in Python environments of their own."""
