"""Long trials of what has to hold whatever happens: kills, damaged files, wrong inputs, a full disk, signals."""
