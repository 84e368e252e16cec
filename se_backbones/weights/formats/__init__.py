"""How a file is opened safely, whatever it says it is."""
