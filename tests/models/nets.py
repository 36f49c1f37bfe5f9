"""Small models and a batch, shared by tests of old models."""

import torch
from torch import nn

from tests.litmodels import CLASSES, FEATURES

X = torch.linspace(-1, 1, 5 * FEATURES).reshape(5, FEATURES)
Y = torch.arange(5) % CLASSES


class Moody(nn.Module):
    """BatchNorm and Dropout: train mode changes the answer."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("hidden", torch.tensor([3.0]), persistent=False)

    def forward(self, x):
        return self.fc(self.drop(self.norm(x))) * self.scale


class Returning(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.fc, self.answer = nn.Linear(FEATURES, CLASSES), answer

    def forward(self, *args, **kwargs):
        return self.answer(self.fc, *args, **kwargs)


def no_grad(model, x):
    with torch.no_grad():
        return model(x)


class Pair(tuple):
    """Stands for a named tuple: a tuple whose type takes other arguments."""

    __slots__ = ()

    def __new__(cls, left, right):
        return super().__new__(cls, (left, right))
