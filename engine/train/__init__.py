"""What a training run does step by step: batches, loop, checkpoints, processes."""
