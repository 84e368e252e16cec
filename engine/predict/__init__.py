"""Pictures and videos in, annotated copies and one JSON out."""
