"""Images to classes: index, reading, transforms, model, evaluation, training."""
