"""Several runs held against each other: figures, curves, tests over images, what each says of the same images."""
