"""A trained classifier applied to pictures, and what it says drawn."""
