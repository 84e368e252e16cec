"""Where a weights file comes from."""
