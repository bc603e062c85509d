"""What a training run is made of: input, optimizer, checkpoints, evaluations, hooks."""
