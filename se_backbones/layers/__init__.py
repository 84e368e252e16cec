"""The layers that every family is built from."""
