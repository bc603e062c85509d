"""Features of a frozen network, computed once, on which a classifier trains in seconds."""
