"""Python environments next to the one that the program runs in."""
