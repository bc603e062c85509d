"""Holds what every part of the package uses: errors, files, signals, progress, layers, tables."""
