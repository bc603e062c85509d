"""The benchmarks of `make bench`, which need a clone of the repository."""
