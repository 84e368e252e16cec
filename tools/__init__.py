"""The command lines: ``python tools/NAME.py`` in a clone, ``se-NAME`` and the package ``se_tools`` where installed."""
