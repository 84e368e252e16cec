"""Gates by class: which are watched, and which classes are drawn."""

import pytest

from se_backbones import create_backbone
from studies.lab import gates


def names(network):
    return [gates.paper_name(network, site) for site in gates.watched(network)]


def test_of_a_resnet_50_those_of_the_paper_are_watched():
    assert names(create_backbone("se_resnet50")) == ["SE_2_3", "SE_3_4", "SE_4_6", "SE_5_1", "SE_5_2", "SE_5_3"]
    assert names(create_backbone("se_resnet20_cifar")) == ["SE_1_3", "SE_2_3", "SE_3_1", "SE_3_2", "SE_3_3"]


@pytest.mark.parametrize("name", ["se_mobilenet_v1_050", "se_shufflenet_v1_g3", "se_bn_inception", "se_vgg16"])
def test_every_family_has_gates_to_watch(name):
    network = create_backbone(name, num_classes=2)
    sites = gates.watched(network)
    stages = list(dict.fromkeys(site.stage for site in network.se_sites()))
    assert list(dict.fromkeys(site.stage for site in sites)) == stages


def test_classes_that_are_drawn_are_the_papers_where_there_are():
    assert gates.shown_classes(["ant", "cliff", "dog", "goldfish", "yak"]) == [3, 1, 0, 4]
    assert gates.shown_classes(["a", "b"]) == [0, 1]
