"""What a training run needs, whatever the task: loop, checkpoints, launch, logs, config, summary."""

from engine.openmp import SPIN_COUNT

__all__ = ["SPIN_COUNT"]
