"""The model zoo: every network whose figures are committed, and where the published weights are."""
