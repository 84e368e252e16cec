"""What a run was and what came of it: figures, curves, the summary page."""
