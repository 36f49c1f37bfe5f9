import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_graceful import OldModel
from lightning_graceful.models.embedder import Embedder
from lightning_graceful.models.mlp import MLP, HiddenLayers
from lightning_graceful.models.resnet import PooledStages, ResNet

IMAGES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def stages_of(model, images):
    """Return what each stage makes of images, one after the other."""
    x, found = model.stem(images), []
    for stage in model.stages:
        x = stage(x)
        found.append(x)
    return found


def cells(maps, grid):
    """Average each channel over ``grid`` by ``grid`` cells of equal size."""
    size = maps.shape[-1] // grid
    return torch.tensor([
        [
            channel[i * size : (i + 1) * size, j * size : (j + 1) * size].mean().item()
            for channel in image
            for i in range(grid)
            for j in range(grid)
        ]
        for image in maps
    ])


@pytest.mark.parametrize(("kept", "grid"), [(None, 2), (None, 1), (2, 2), (1, 1), (3, 4)])
def test_features_are_the_last_stages_averaged_over_cells(kept, grid):
    model = PooledStages(1, widths=(4, 6, 8), kept=kept, grid=grid).eval()
    last = stages_of(model, IMAGES)[3 - (kept or 3) :]
    expected = torch.cat([cells(maps, grid) for maps in last], dim=1)
    assert model.out_features == expected.shape[1]
    torch.testing.assert_close(model(IMAGES), expected)


def test_stages_are_those_of_the_residual_network():
    torch.manual_seed(3)
    network = ResNet(1, 5, widths=(4, 6), stem_stride=2).eval()
    torch.manual_seed(3)
    features = PooledStages(1, widths=(4, 6), stem_stride=2, kept=1).eval()
    torch.testing.assert_close(network(IMAGES), network.fc(features(IMAGES)))


def test_the_residual_network_keeps_its_weights_by_name():
    names = {name.split(".")[0] for name in ResNet(1, 5, widths=(4, 6)).state_dict()}
    assert names == {"stem", "stages", "fc"}


@pytest.mark.parametrize("kept", [0, -1, 3])
def test_stages_that_are_not_there_cannot_be_kept(kept):
    with pytest.raises(ValueError, match=rf"kept in \[1, 2\], the number of stages, got {kept}"):
        PooledStages(1, widths=(4, 6), kept=kept)


def test_hidden_layers_stand_side_by_side():
    model = HiddenLayers(256, hidden=(5, 4))
    first = F.relu(F.linear(IMAGES.flatten(1), model.layers[0][0].weight, model.layers[0][0].bias))
    second = F.relu(F.linear(first, model.layers[1][0].weight, model.layers[1][0].bias))
    assert model.out_features == 9
    torch.testing.assert_close(model(IMAGES), torch.cat([first, second], dim=1))


def test_hidden_layers_are_those_of_the_perceptron():
    torch.manual_seed(3)
    network = MLP(256, 5, hidden=(7, 4))
    torch.manual_seed(3)
    features = HiddenLayers(256, hidden=(7, 4))
    torch.testing.assert_close(network.body(IMAGES), features(IMAGES)[:, 7:])


def test_an_embedder_is_features_embedding_classifier():
    model = Embedder(HiddenLayers(256, hidden=(5, 4)), width=6, num_classes=3)
    embedding = model.features(IMAGES) @ model.embedding.weight.T + model.embedding.bias
    torch.testing.assert_close(model(IMAGES), embedding @ model.classifier.weight.T + model.classifier.bias)

    said = OldModel(model, embedding="embedding", classifier="classifier").outputs((IMAGES, torch.zeros(3).long()))
    torch.testing.assert_close(said.embedding, embedding.detach())
    assert said.logits.shape == (3, 3)


@pytest.mark.parametrize("features", [nn.Flatten(), nn.Identity()])
def test_features_of_unknown_number_are_refused(features):
    with pytest.raises(ValueError, match=f"features with out_features, an int, got {type(features).__name__}"):
        Embedder(features, width=4, num_classes=3)
