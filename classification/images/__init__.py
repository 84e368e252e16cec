"""From an image file to the batch that the network sees."""
