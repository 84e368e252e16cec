"""The table, the pictures and the page."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from engine.gates.account import MEANINGS, account
from engine.gates.page import describe, rows, write_page
from engine.gates.pictures import draw_all
from se_backbones import SEConfig, create_backbone
from se_backbones.surgery.gates import HIGH, LOW, record


def content(classes=("<cat>", "狗", "$a_b$"), images=6, **se):
    torch.manual_seed(0)
    network = create_backbone("se_resnet20_cifar", se=SEConfig(**se)).eval()
    sites = network.se_sites()
    labels = torch.arange(images) % max(len(classes) - 1, 1) if classes else torch.full((images,), -1)
    moments = record(network, sites, [(torch.randn(images, 3, 32, 32), labels)], len(classes))
    gates = [account(site, moments[site.path]) for site in sites]
    return {
        "architecture": "se_resnet20_cifar", "weights": "RUN/model_final.pth", "data": "<set>", "images": images,
        "of_images": images, "classes": list(classes), "images_of_classes": moments[sites[0].path].count.tolist(),
        "counted": "an image counts for its class", "high": HIGH, "low": LOW, "meanings": MEANINGS, "command": "python",
        "hardware": "-", "versions": {"torch": "2"}, "gates": gates,
    }  # fmt: skip


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.pictures, self.outside, self.cells = [], [], 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.cells += tag == "tr"
        for key in ("src", "href"):
            if key in attributes:
                place = self.pictures if attributes[key].startswith("data:image/png") else self.outside
                place.append(attributes[key])


@pytest.mark.parametrize("given", [{}, {"classes": ()}, {"images": 1}, {"squeeze": "none", "gate": "relu"}])
def test_whatever_there_is_is_drawn_into_one_page(given, tmp_path):
    found = content(**given)
    json.dumps(found, allow_nan=False)
    pictures = draw_all(found, tmp_path)
    for path in pictures.values():
        with Image.open(path) as picture:
            assert picture.format == "PNG" and len(picture.convert("L").getcolors()) > 10
    text = write_page(found, pictures, tmp_path).read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert len(page.pictures) == 3 and not page.outside
    assert "<set>" not in text and "<cat>" not in text
    assert page.cells >= 1 + len(found["gates"])


def test_the_table_has_the_figures_of_every_gate():
    found = content(placement="inside")
    head, first, *_ = rows(found)
    gate = found["gates"][0]
    row = dict(zip(head, first, strict=True))
    assert row["gate"] == "stage1.unit1" and row["channels"] == "16" and row["mean"] == f"{gate['mean']:.3f}"
    assert row["between"] == f"{gate['between']:.4f}" and row["> 0.9"] == f"{100 * gate['above']:.1f} %"
    assert row["r with scale"] == "none"  # of weights that are all 1
    text = describe(found)
    assert "9 gates of se_resnet20_cifar on <set>: 6 images (all)" in text
    assert "Classes: 2 of 3 with images; an image counts for its class." in text
    table = [line for line in text.splitlines() if line.startswith("stage")]
    assert len(table) == 9 and len({len(line) for line in table}) == 1


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"placement": "pre"}, "All gates: no scale (the gate is taken up by its branch's first convolution"),
        ({"placement": "post"}, r"All gates: no scale \(the gate .*unit"),
        ({"squeeze": "none"}, "All gates: no squeeze; each place of the map has a value"),
        ({"gate": "relu"}, "relu gates have no upper bound"),
        ({"images": 3}, "1 have a single image and count for no spread"),
    ],
)
def test_what_has_to_be_known_is_said(given, note):
    text = describe(content(**given))
    assert note in text or re.search(note, text)
