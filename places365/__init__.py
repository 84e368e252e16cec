"""What is Places365's own: official lists and folders, categories, indoor and outdoor, published figures, its demo."""
