"""The paper's tables and figures as studies: one file each, run by ``tools/study.py``; ``lab`` is what they share."""
