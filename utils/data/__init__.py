"""Builds, inspects and copies data sets: the command mnasnet-data."""
