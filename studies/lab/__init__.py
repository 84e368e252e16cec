"""What every study shares: its cells, how they are run, the statistics, and what is written of them."""
