"""A trained detector applied to pictures, and what it found drawn."""
