"""A detector as one function of tensors, from pixels to boxes: what a file for another runtime holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from detection.backbone import SERes5ROIHeads
from detection.roi_align import FastROIAlign
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError

from detectron2.layers import ROIAlign
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead


def detector_graph(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A detector as a function of one image, ``(image, size) -> (boxes, scores, classes[, masks])``, in whose graph
    everything is: normalisation, proposals, suppression and the decoding of boxes.

    - ``image``: (1, 3, H, W) uint8, in the order of INPUT.FORMAT, H and W multiples of what the backbone asks for.
    - ``size``: (2,) int64, height and width of the picture in it; what is right of it and below is padding.
    - ``boxes``: (R, 4) float32, corners in the image's pixels; ``scores``: (R,) float32, the surest first; ``classes``:
      (R,) int64; ``masks``: (R, h, w) float32, 0..1, of the box's inside.

    Args:
        model: fused, on the CPU. Its parts become the graph's, in ``dtype``: of one that is needed besides, a copy.
        dtype: in which the network and the layers behind it compute, but for boxes and scores.

    Raises:
        UserError: a detector with parts that are none of Faster R-CNN's, Mask R-CNN's or RetinaNet's.
    """
    model.eval()
    if type(model) is GeneralizedRCNN:
        return _RCNNGraph(model, dtype).eval()
    if type(model) is RetinaNet:
        return _RetinaNetGraph(model, dtype).eval()
    raise UserError(f"a {type(model).__name__} cannot be written as one graph; Faster and Mask R-CNN and RetinaNet can")


class _Graph(nn.Module):
    """What all detectors begin with.

    Attributes:
        outputs: what ``forward`` gives, by name.
    """

    outputs = ("boxes", "scores", "classes")

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("mean", model.pixel_mean.view(1, 3, 1, 1).float())
        self.register_buffer("std", model.pixel_std.view(1, 3, 1, 1).float())
        self.backbone, self.dtype = _in_type(model.backbone, dtype), dtype

    def maps(self, image: Tensor, size: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[2:]
        inside = (torch.arange(height) < size[0])[:, None] & (torch.arange(width) < size[1])
        x = (image.float() - self.mean) / self.std * inside
        return self.backbone(x.to(self.dtype))


class _RCNNGraph(_Graph):
    def __init__(self, model: GeneralizedRCNN, dtype: torch.dtype):
        super().__init__(model, dtype)
        _only(model.proposal_generator, RPN, "MODEL.PROPOSAL_GENERATOR.NAME")
        heads = model.roi_heads
        _only(heads, (StandardROIHeads, Res5ROIHeads, SERes5ROIHeads), "MODEL.ROI_HEADS.NAME")
        _only(heads.box_predictor, FastRCNNOutputLayers, "the layers that predict boxes")
        if getattr(heads, "keypoint_on", False):
            raise UserError("keypoints are not among what a detector's file can give (MODEL.KEYPOINT_ON)")
        self.rpn, self.heads = model.proposal_generator, heads
        _in_type(self.rpn.rpn_head, dtype)
        self.whole_stage = isinstance(heads, Res5ROIHeads)
        pooler = heads.pooler if self.whole_stage else heads.box_pooler
        for one in (pooler, getattr(heads, "mask_pooler", None)):
            if one is not None and any(not isinstance(level, ROIAlign | FastROIAlign) for level in one.level_poolers):
                raise UserError("MODEL.ROI_BOX_HEAD.POOLER_TYPE: ROIAlign and ROIAlignV2 can be written as a graph")
        _in_type(heads.res5 if self.whole_stage else heads.box_head, dtype)
        if heads.mask_on:
            _only(heads.mask_head, MaskRCNNConvUpsampleHead, "MODEL.ROI_MASK_HEAD.NAME")
            _in_type(heads.mask_head, dtype)
            self.outputs = (*self.outputs, "masks")

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        maps = self.maps(image, size)
        limit = size[[1, 0, 1, 0]].float()
        proposals = self._proposals([maps[name] for name in self.rpn.in_features], limit)
        heads = self.heads
        seen = [maps[name].float() for name in (heads.in_features if self.whole_stage else heads.box_in_features)]
        if self.whole_stage:
            pooled = _pool(heads.pooler, seen, proposals)
            features = heads.res5(pooled.to(self.dtype)).mean(dim=[2, 3])
        else:
            features = heads.box_head(_pool(heads.box_pooler, seen, proposals).to(self.dtype))
        boxes, scores, classes = self._detections(features.float(), proposals, limit)
        if not heads.mask_on:
            return boxes, scores, classes
        if self.whole_stage:
            regions = heads.res5(_pool(heads.pooler, seen, boxes).to(self.dtype))
        else:
            seen = [maps[name].float() for name in heads.mask_in_features]
            regions = _pool(heads.mask_pooler, seen, boxes).to(self.dtype)
        logits = heads.mask_head.layers(regions).float()
        one = logits.shape[1] == 1
        chosen = torch.zeros_like(classes) if one else classes
        return boxes, scores, classes, logits[torch.arange(len(chosen)), chosen].sigmoid()

    def _proposals(self, maps: list[Tensor], limit: Tensor) -> Tensor:
        """(P, 4), the surest first: ``find_top_rpn_proposals`` for one image."""
        rpn = self.rpn
        all_logits, all_deltas = rpn.rpn_head(maps)
        boxes, scores, levels = [], [], []
        for level, (anchors, logits, deltas) in enumerate(
            zip(rpn.anchor_generator(maps), all_logits, all_deltas, strict=True)
        ):
            logits = logits.float().permute(0, 2, 3, 1).flatten()
            deltas = permute_to_N_HWA_K(deltas.float(), rpn.anchor_generator.box_dim)[0]
            best, order = logits.topk(min(rpn.pre_nms_topk[False], logits.shape[0]))
            boxes.append(rpn.box2box_transform.apply_deltas(deltas[order], anchors.tensor[order]))
            scores.append(best)
            levels.append(torch.full_like(order, level))
        boxes, scores, levels = _clip(torch.cat(boxes), limit), torch.cat(scores), torch.cat(levels)
        sides = boxes[:, 2:] - boxes[:, :2]
        large = (sides > rpn.min_box_size).all(1).nonzero()[:, 0]
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        keep = _suppress(boxes, scores, levels, rpn.nms_thresh)[: rpn.post_nms_topk[False]]
        return boxes[keep]

    def _detections(self, features: Tensor, proposals: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``fast_rcnn_inference_single_image``."""
        predictor = self.heads.box_predictor
        logits, deltas = type(predictor).forward(predictor, features)  # not that of our detectors, for mixed precision
        probabilities = logits.softmax(1)[:, :-1]
        decoded = predictor.box2box_transform.apply_deltas(deltas, proposals)
        kinds = decoded.shape[1] // 4
        found = (probabilities > predictor.test_score_thresh).nonzero()
        rows, classes = found[:, 0], found[:, 1]
        boxes = decoded.view(-1, kinds, 4)[rows, classes if kinds > 1 else torch.zeros_like(classes)]
        boxes, scores = _clip(boxes, limit), probabilities[rows, classes]
        keep = _suppress(boxes, scores, classes, predictor.test_nms_thresh)
        keep = keep[: predictor.test_topk_per_image] if predictor.test_topk_per_image >= 0 else keep
        return boxes[keep], scores[keep], classes[keep]


class _RetinaNetGraph(_Graph):
    def __init__(self, model: RetinaNet, dtype: torch.dtype):
        super().__init__(model, dtype)
        self.model = model
        _in_type(model.head, dtype)

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        maps = self.maps(image, size)
        maps = [maps[name] for name in model.head_in_features]
        all_logits, all_deltas = model.head(maps)
        boxes, scores, classes = [], [], []
        for anchors, logits, deltas in zip(model.anchor_generator(maps), all_logits, all_deltas, strict=True):
            logits = permute_to_N_HWA_K(logits.float(), model.num_classes)[0].flatten()
            deltas = permute_to_N_HWA_K(deltas.float(), 4)[0]
            best, order = logits.topk(min(model.test_topk_candidates, logits.shape[0]))
            rows = order // model.num_classes
            boxes.append(model.box2box_transform.apply_deltas(deltas[rows], anchors.tensor[rows]))
            scores.append(best.sigmoid())
            classes.append(order % model.num_classes)
        boxes, scores, classes = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
        sure = (scores > model.test_score_thresh).nonzero()[:, 0]
        boxes, scores, classes = boxes[sure], scores[sure], classes[sure]
        keep = _suppress(boxes, scores, classes, model.test_nms_thresh)[: model.max_detections_per_image]
        return _clip(boxes[keep], size[[1, 0, 1, 0]].float()), scores[keep], classes[keep]


def _in_type(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    return module if dtype == torch.float32 else module.to(dtype)


def _only(part: nn.Module, kinds: type | tuple[type, ...], key: str) -> None:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if type(part) not in kinds:
        known = " and ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{key}: a {type(part).__name__} cannot be written as a graph; {known} can")


def _clip(boxes: Tensor, limit: Tensor) -> Tensor:
    """(R, 4) → within an image; limit: (4,), its width, height, width, height."""
    return torch.minimum(boxes.clamp(min=0), limit)


def _suppress(boxes: Tensor, scores: Tensor, kinds: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression, each kind by itself: all boxes of a kind are moved away from the others'. Returns which
    stay, the surest first.

    Two more boxes, away from all others and less sure, stay too and are taken off again: captured graphs are told by
    torchvision that two stay at least, and there may be none.
    """
    zeros = boxes.new_zeros(1, 4)
    far = torch.cat((boxes, zeros)).abs().max() * 2 + 1
    least = torch.cat((scores, zeros[0, :1])).min() - 1
    more = torch.tensor([[-5.0, -5, -4, -4], [-3, -3, -2, -2]]) * far
    moved = torch.cat((boxes + (kinds.to(boxes.dtype) * far)[:, None], more))
    return nms(moved, torch.cat((scores, least.expand(2))), threshold)[:-2]


def _pool(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """(R, C, h, w) from (R, 4), as ``ROIPooler.forward`` for one image, without writing in place and for no box too.

    A box goes to the level of its size: Lin et al., Feature Pyramid Networks, CVPR 2017, arXiv 1612.03144, equation 1.
    """
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), 1)
    if len(maps) == 1:
        return pooler.level_poolers[0](maps[0], rois)
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() / pooler.canonical_box_size
    levels = (pooler.canonical_level + torch.log2(sizes + 1e-8)).floor().clamp(pooler.min_level, pooler.max_level)
    rows = [(levels == pooler.min_level + level).nonzero()[:, 0] for level in range(len(maps))]
    parts = [pool(x, rois[row]) for pool, x, row in zip(pooler.level_poolers, maps, rows, strict=True)]
    return torch.cat(parts)[torch.cat(rows).argsort()]
