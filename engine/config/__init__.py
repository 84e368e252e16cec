"""The dialect of the config files, and the keys that every task has."""
