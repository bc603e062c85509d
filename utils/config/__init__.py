"""Defines every setting once, and the network that settings describe."""
