"""Own the files that a user of the tests has written: data sets of several kinds, models and steps for them."""

from __future__ import annotations

FILE = '''
import itertools
import os
import signal
from collections import namedtuple

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

X = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3].sum(1) > X[:, 3:].sum(1)).long()
Three = namedtuple("Three", "left right label")


class Dictionaries(Dataset):
    """Samples for a model of two inputs, with noise that is drawn anew for each."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        noisy = X[index] + 0.1 * torch.randn(6)
        return {"left": noisy[:3], "name": f"sample {index}", "right": noisy[3:], "label": Y[index]}


class Named(Dictionaries):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {name: sample[name] for name in ("left", "right", "label")}


class Namedtuples(Dictionaries):
    def __getitem__(self, index):
        return Three(X[index, :3], X[index, 3:], Y[index])


class Tuples(Dictionaries):
    def __getitem__(self, index):
        return X[index, :3], X[index, 3:], Y[index]


class Ragged(Dataset):
    """Sentences of unequal length: the class is whether the first word is above the last."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        words = torch.randint(1, 20, (2 + index % 5,), generator=generator)
        return words, int(words[0] > words[-1])


class Collating(Ragged):
    @staticmethod
    def collate_fn(samples):
        return collate(samples)


def collate(samples):
    words, labels = zip(*samples)
    padded = nn.utils.rnn.pad_sequence(list(words), batch_first=True)
    return {"words": padded, "lengths": torch.tensor([len(one) for one in words]), "label": torch.tensor(labels)}


class Stream(IterableDataset):
    """It has no length and no state; its samples are shared out to workers, and noisy."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, len(X), step):
            yield X[index] + 0.1 * torch.randn(6), Y[index]


class Sized(Stream):
    def __len__(self):
        return len(X)


class Stateful(IterableDataset):
    """It says where it stands; its own generator is part of that, and so is what it has seen."""

    def __init__(self):
        self.at, self.noise = 0, torch.Generator().manual_seed(5)

    def __iter__(self):
        while self.at < len(X):
            self.at += 1
            yield X[self.at - 1] + 0.1 * torch.randn(6, generator=self.noise), Y[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": self.at, "noise": self.noise.get_state()}

    def load_state_dict(self, state):
        self.at = state["at"]
        self.noise.set_state(state["noise"])


class Counting(Sized):
    """It counts its passes, which a new process cannot know: each is to begin from what was made."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        for left, label in super().__iter__():
            yield left * self.passes, label


class SizedStateful(Stateful):
    def __len__(self):
        return len(X)


class Unshared(Sized):
    def __iter__(self):
        yield from zip(X, Y)


class Nothing(Sized):
    def __iter__(self):
        return iter(())


class Short(Sized):
    def __iter__(self):
        yield from itertools.islice(super().__iter__(), 40)


class Dying(Stream):
    def __iter__(self):
        yield X[0], Y[0]
        if torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        yield X[0], Y[0]


def with_val():
    return {"train": Stateful(), "val": Stream()}


class TwoInputs(nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.of_left, self.of_right, self.head = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(16, num_classes)

    def forward(self, left, right):
        return self.head(torch.cat([self.of_left(left), self.of_right(right)], 1).relu())


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(16, 2)

    def forward(self, words, lengths):
        found = self.table(words)
        last = found[torch.arange(len(words)), lengths - 1]
        return self.head(torch.cat([found[:, 0], last], 1))


def step(model, batch, criterion):
    outputs = model(batch["left"], batch["right"])
    return criterion(outputs, batch["label"]), outputs


def step_of_tuples(model, batch, criterion):
    left, right, label = batch
    outputs = model(left, right)
    return {"loss": criterion(outputs, label), "largest": outputs.abs().max()}, outputs


def wrong_step(model, batch, criterion):
    raise ValueError("no such thing")
'''
