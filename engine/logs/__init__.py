"""What a run says while it trains: its log, its console, its figures, and the services that get them."""
