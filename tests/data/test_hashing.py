import torch

from lightning_graceful.data.hashing import content_hash, input_hash


def test_hash_reads_content_not_addresses():
    class Custom:
        def __init__(self, value):
            self.x = torch.tensor([value])

    assert content_hash(Custom(1.0)) == content_hash(Custom(1.0)) != content_hash(Custom(2.0))
    assert content_hash({"a": 1, "b": "x"}) == content_hash({"b": "x", "a": 1}) != content_hash({"a": 1, "b": "y"})
    assert content_hash(torch.zeros(2)) != content_hash(torch.zeros(2, dtype=torch.int64))
    assert content_hash(torch.tensor([1.5]).bfloat16()) != content_hash(torch.tensor([2.5]).bfloat16())


def images(shape=(3, 32, 32), length=64):
    return torch.rand(length, *shape, generator=torch.Generator().manual_seed(0))


def test_a_sample_has_its_hash_wherever_it_stands():
    x = images()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert torch.equal(input_hash(x[order]), input_hash(x)[order])
    assert torch.equal(input_hash(x[5:6]), input_hash(x)[5:6])


def test_samples_have_hashes_of_their_own():
    for x in (images(), images((1, 28, 28)), images((5,)), torch.randint(1000, (64, 20)), images().half()):
        hashes = input_hash(x)
        assert len(set(hashes.tolist())) == 64
        assert int(hashes.min()) >= 1
        assert int(hashes.max()) < 2**32


def test_small_inputs_are_hashed_whole():
    x = images((16, 16, 2))
    for place in range(512):
        changed = x.clone().flatten(1)
        changed[3, place] += 0.25
        differs = input_hash(changed.reshape(x.shape)) != input_hash(x)
        assert differs.nonzero().flatten().tolist() == [3]


def test_padding_changes_nothing():
    tokens = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    padded = {name: torch.nn.functional.pad(value, (0, 4)) for name, value in tokens.items()}
    assert torch.equal(input_hash(tokens), input_hash(padded))


def test_each_part_of_an_input_counts():
    x, y = images((4,)), images((4,), 64) + 1
    assert not torch.equal(input_hash([x, y]), input_hash([y, x]))
    assert torch.equal(input_hash((x, {"b": y})), input_hash([x, {"b": y}]))
    assert torch.equal(input_hash([x, "text", 3]), input_hash([x]))


def test_precision_of_the_training_changes_nothing():
    x = images()
    assert torch.equal(input_hash(x.double()), input_hash(x))
    assert content_hash(x.double()) == content_hash(x) != content_hash(x + 1e-6)


def test_unusual_dtypes():
    for dtype in (torch.bool, torch.uint8, torch.int16, torch.bfloat16, torch.float64, torch.complex64):
        assert input_hash(torch.ones(2, 3, dtype=dtype)).shape == (2,)
    assert input_hash(["no", "tensor"]) is None
    assert input_hash(torch.tensor(3.0)) is None
