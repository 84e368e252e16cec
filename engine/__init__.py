"""What a training run needs, whatever the task: loop, checkpoints, launch, logs, config, summary."""
