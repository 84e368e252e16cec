"""A trained network made smaller: what is asked of a task for it, and what is written of it."""
