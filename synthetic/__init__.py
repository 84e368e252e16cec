"""The drawn data sets of the demos and tests."""
