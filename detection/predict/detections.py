"""What was found in one image: boxes, classes, scores and perhaps masks, in the pixels of the original
image."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Detections:
    """N objects of one image; the annotated ones too, whose `scores` are None.

    boxes:   (N, 4) float32, x0 y0 x1 y1 in pixels of the image
    scores:  (N,) float32 in 0..1, or None
    classes: (N,) int64, contiguous class indices 0..K-1
    masks:   (N, H, W) bool, or None
    """

    boxes: np.ndarray
    scores: np.ndarray | None
    classes: np.ndarray
    masks: np.ndarray | None = None

    def __post_init__(self):
        self.boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        self.classes = np.asarray(self.classes, dtype=np.int64).reshape(-1)
        self.scores = None if self.scores is None else np.asarray(self.scores, dtype=np.float32).reshape(-1)
        self.masks = None if self.masks is None else np.asarray(self.masks, dtype=bool)
        for name in ("scores", "classes", "masks"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.boxes):
                raise ValueError(f"{len(self.boxes)} boxes but {len(value)} {name}")

    def __len__(self):
        return len(self.boxes)

    def select(self, keep):
        """The objects that `keep` picks: a bool array (N,) or indices."""
        scores = None if self.scores is None else self.scores[keep]
        masks = None if self.masks is None else self.masks[keep]
        return Detections(self.boxes[keep], scores, self.classes[keep], masks)

    def records(self, names, category_ids=None):
        """COCO-like dicts, one an object: bbox [x, y, width, height] in pixels, category (name), category_id
        (the dataset's own, or the class index if `category_ids` is None), score and, with masks, segmentation
        (RLE)."""
        records = []
        for index in range(len(self)):
            x0, y0, x1, y1 = (float(value) for value in self.boxes[index])
            label = int(self.classes[index])
            record = {
                "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
                "category": names[label] if label < len(names) else str(label),
                "category_id": category_ids[label] if category_ids else label,
            }
            if self.scores is not None:
                record["score"] = round(float(self.scores[index]), 5)
            if self.masks is not None:
                record["segmentation"] = _run_lengths(self.masks[index])
            records.append(record)
        return records


def _run_lengths(mask):
    """COCO's compressed run lengths of a mask (H, W)."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
