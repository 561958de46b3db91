import copy

import pytest
import torch
from torch import nn

from proxyless_ext.runs import load_checkpoint, save_checkpoint
from proxyless_ext.training.ema import averaged


class Training:
    """A network that is trained on noise, its average, and its state after every step."""

    def __init__(self, decay: float) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.average = averaged(self.model, decay)
        self.history: list[dict[str, torch.Tensor]] = []

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            self.optimizer.zero_grad()
            self.model(torch.randn(5, 3, 6, 6, generator=generator)).square().mean().backward()
            self.optimizer.step()
            self.average.update_parameters(self.model)
            self.history.append(copy.deepcopy(self.model.state_dict()))


@pytest.mark.parametrize("decay", [0.999, 0.3, 0.0])
def test_weights_and_statistics_are_averaged_as_the_formula_says(decay):
    training = Training(decay)
    training.steps(0, 20)
    state = training.average.module.state_dict()
    moved = 0
    for name, value in state.items():
        values = [past[name].double() for past in training.history]
        if name == "1.num_batches_tracked":
            assert value.item() == 20
            continue
        expected = values[0]
        for t, current in enumerate(values[1:], start=1):
            share = min(decay, (1 + t) / (10 + t))
            expected = share * expected + (1 - share) * current
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        moved += not torch.allclose(value, training.history[-1][name])
    assert moved == (0 if decay == 0 else 7)


def test_decay_0_is_the_model_itself_to_the_bit():
    training = Training(0.0)
    training.steps(0, 5)
    for name, value in training.average.module.state_dict().items():
        assert torch.equal(value, training.model.state_dict()[name])


def test_a_resumed_average_goes_on_to_the_bit(tmp_path):
    whole = Training(0.9)
    whole.steps(0, 10)
    killed = Training(0.9)
    killed.steps(0, 4)
    state = [part.state_dict() for part in (killed.model, killed.optimizer, killed.average)]
    save_checkpoint(tmp_path / "state", state)
    resumed = Training(0.9)
    parts = (resumed.model, resumed.optimizer, resumed.average)
    for part, loaded in zip(parts, load_checkpoint(tmp_path / "state"), strict=True):
        part.load_state_dict(loaded)
    resumed.steps(4, 10)
    expected = whole.average.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.average.state_dict().items())


def test_the_average_is_a_copy_in_eval_mode():
    training = Training(0.9)
    training.model.train()
    training.steps(0, 2)
    assert not any(module.training for module in training.average.modules())
    assert training.model.training
    own = {weight.data_ptr() for weight in training.model.state_dict().values()}
    assert own.isdisjoint(v.data_ptr() for v in training.average.module.state_dict().values())
