"""A COCO-format set checked before anything is trained on it."""
