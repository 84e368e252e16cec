"""COCO average precision, equal to pycocotools'."""
