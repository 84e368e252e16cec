"""What is done to a trained network."""
