"""The paper's tables and figures as studies: one file each, run by ``tools/study.py``; what they share is in ``lab``."""
