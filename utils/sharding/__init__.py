"""Holds what writes and publishes the files of a data set, on one machine or on several."""
