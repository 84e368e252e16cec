"""Scene classification on Places365: data, training, evaluation, prediction."""
