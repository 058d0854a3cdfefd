"""A third party's architect: a recurrent controller trained by REINFORCE (Zoph & Le 2017; Pham et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import AskTellArchitect, Memory, Request, Seed, Space
from nasframe.options import number
from nasframe.records import TrialEnded


class Policy(nn.Module):
    """An LSTM that makes one decision after the other."""

    def __init__(self, space: Space, hidden: int) -> None:
        super().__init__()
        self.options = [choice.options for choice in space.decisions]
        self.embedding = nn.Embedding(max(self.options) + 1, hidden)
        self.cell = nn.LSTMCell(hidden, hidden)
        self.scores = nn.Linear(hidden, max(self.options))

    def forward(self, pick: Any) -> tuple[list[int], Tensor]:
        """Return the picks that the function `pick` makes of probabilities, and their log-probability."""
        state, last, picks, total = None, 0, list[int](), torch.zeros(())
        for place, options in enumerate(self.options):
            state = self.cell(self.embedding(torch.tensor([last])), state)
            log = self.scores(state[0])[0, :options].log_softmax(0)
            picks.append(pick(place, log.detach().exp()))
            total, last = total + log[picks[-1]], picks[-1] + 1
        return picks, total


@attrs.frozen
class Controller(AskTellArchitect):
    """The controller's weights, the moments of its optimiser, and the baseline are the memory."""

    name: ClassVar[str] = "controller"
    hidden: int = number(4, low=1, whole=True)
    trials: int = number(8, low=1, whole=True)
    updates: int = number(3, low=1, whole=True)

    def start(self, space: Space, seed: Seed) -> Memory:
        with seed.as_global():
            return self._packed(Policy(space, self.hidden), {}, {"baseline": None})

    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        policy, _ = self._unpacked(space, memory)
        generator = seed.generator()
        picks, _ = policy(lambda _, p: int(torch.multinomial(p, 1, generator=generator)))
        return memory, None if number == self.trials else Request(space.architecture(picks), self.updates)

    def tell(self, space: Space, memory: Memory, trial: TrialEnded, seed: Seed) -> Memory:
        policy, optimiser = self._unpacked(space, memory)
        reward, before = -10.0 if trial.valid is None else -trial.valid, memory.values["baseline"]
        baseline = reward if before is None else 0.9 * before + 0.1 * reward
        _, log = policy(lambda place, _: trial.picks[place])
        (-(reward - baseline) * log).backward()
        optimiser.step()
        return self._packed(policy, optimiser.state_dict()["state"], {"baseline": baseline})

    def _packed(self, policy: Policy, moments: Mapping[int, Mapping[str, Tensor]], values: dict[str, Any]) -> Memory:
        moved = {f"adam.{place}.{name}": t for place, state in moments.items() for name, t in state.items()}
        return Memory(values, {f"policy.{name}": t for name, t in policy.state_dict().items()} | moved)

    def _unpacked(self, space: Space, memory: Memory) -> tuple[Policy, torch.optim.Adam]:
        with Seed(("overwritten",)).as_global():
            policy, given = Policy(space, self.hidden), memory.tensors
        policy.load_state_dict({k.removeprefix("policy."): t for k, t in given.items() if k.startswith("policy.")})
        optimiser, state = torch.optim.Adam(policy.parameters(), 0.05), dict[int, dict[str, Tensor]]()
        names: Sequence[Sequence[str]] = [k.split(".") for k in given if k.startswith("adam.")]
        for _, place, name in names:
            state.setdefault(int(place), {})[name] = given[f"adam.{place}.{name}"].clone()
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        return policy, optimiser
