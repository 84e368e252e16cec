"""What a classifier's predictions come to."""
