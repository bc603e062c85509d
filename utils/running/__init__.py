"""What a run does around its training."""
