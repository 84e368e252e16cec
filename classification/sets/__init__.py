"""Data sets in the form in which they are published."""
