"""The images of a split and their labels."""
