"""Classifiers as files for other runtimes."""
