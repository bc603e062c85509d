"""The benchmarks of `make bench*`; each prints ratios within one run."""
