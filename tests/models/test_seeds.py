"""The global generators, which belong to the caller."""

import pytest
import torch

from vlv.models.seeds import kept_generators


def test_the_generator_of_the_cpu_is_as_it_was() -> None:
    before = torch.get_rng_state()
    with kept_generators(torch.device("cpu")):
        torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)
    with kept_generators(torch.device("cpu"), enabled=False):
        torch.manual_seed(1)
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_so_is_that_of_a_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not here: its generator is a number."""
    device, state = torch.device(kind), [7]
    module = torch.get_device_module(kind)
    monkeypatch.setattr(module, "get_rng_state", lambda where: (where, state[0]))

    def put_back(value: tuple[torch.device, int], where: torch.device) -> None:
        assert value[0] == where == device
        state[0] = value[1]

    monkeypatch.setattr(module, "set_rng_state", put_back)
    with kept_generators(device):
        state[0] = 8
    assert state == [7]
