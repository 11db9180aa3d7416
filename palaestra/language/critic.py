"""Critics of language models: what is expected of a text from each of its tokens on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience
from palaestra.core.precision import passing
from palaestra.language.layout import layout_of
from palaestra.language.packing import body, hidden_states
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.soups import same_vocabulary


class Critic(nn.Module):
    """A copy of the policy's body with one number on top: what is expected from here on, before each token is chosen.

    Or the body and the number of a reward model, which may be of another size, but must have the policy's vocabulary.
    """

    def __init__(self, policy: LanguagePolicy, reward_model: RewardPolicy | None = None):
        super().__init__()
        begun = reward_model or policy
        if not begun.packs:
            raise Unsupported("a critic needs a model that takes packed sequences, which this one does not")
        same_vocabulary([policy.tokeniser, begun.tokeniser])
        self.body: Any = copy.deepcopy(body(begun.model))
        self.body.requires_grad_(True)
        self.recompute = policy.recompute
        self.head = nn.Linear(begun.model.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(begun.model.device)
        if reward_model is not None:
            self.head.weight.data.copy_(reward_model.head.weight)

    def forward(self, batch: Experience) -> Tensor:
        """Values `(N,)` of the states in which packed tokens were chosen; 0 where `mask` is 0."""
        asked, batch = batch, batch.to(self.head.weight.device)
        layout = layout_of(batch)
        with passing(self.head.weight.device):
            value = self.head(hidden_states(self, batch.action, layout, self.recompute)).float().squeeze(-1)
        value = value.index_select(0, layout.at(torch.arange(len(batch.action), device=value.device)))
        return (torch.cat([value.new_zeros(1), value[:-1]]) * batch.mask).to(asked.action.device)

    @property
    def base_model(self) -> Any:
        return self.body
