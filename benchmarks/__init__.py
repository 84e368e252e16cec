"""Speed and cost as ratios: ours and a peer's in one process, taking turns, so that a noisy machine hits both."""
