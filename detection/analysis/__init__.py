"""What a detector's mistakes are: curves, thresholds, confusions, the worst of them; without PyTorch."""
