"""The one exception of this folder."""


class WeightsError(ValueError):
    """Weights that cannot be used as they are; the message names the file, what is wrong, what to do."""
