"""Compiles the training step with the TPU compiler, on a machine without a TPU."""
