"""Detection sets in the forms in which people have them, as one: COCO's, with the place of each record."""
