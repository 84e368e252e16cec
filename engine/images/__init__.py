"""Pictures: from a file to RGB, the same for training, evaluation, prediction and drawing; and back to a file."""
