"""Holds what the command `mnasnet-data` is made of: it builds, inspects and copies data sets."""
