"""What the gates of a trained model do on a data set, whatever its task."""
