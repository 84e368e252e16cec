"""A run: its folder, its beginning, its end."""
