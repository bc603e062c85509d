"""Settings: the table of them, their flags, and the network that they describe."""
