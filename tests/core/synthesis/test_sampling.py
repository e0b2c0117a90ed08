"""What may be sampled: the recorded bans, and never a padding row; </s> always may."""

import pytest
import torch

from tests.fixtures.release import STRINGS
from tinywave_core.synthesis.sampling import OutputMask
from tinywave_core.tokenizers.vocabulary import EOS_ID, SPIRITLM_BASE, SPIRITLM_EXPRESSIVE


@pytest.mark.parametrize("case", STRINGS["forbidden"])
def test_mask_bans_what_spiritlm_bans_and_the_padding_but_not_the_end(case: str) -> None:
    model, output = case.split("/")
    vocabulary = {"base": SPIRITLM_BASE, "expressive": SPIRITLM_EXPRESSIVE}[model]
    scores = torch.arange(2.0 * vocabulary.rows).reshape(2, vocabulary.rows)
    masked = OutputMask(vocabulary, output)(torch.zeros(2, 1, dtype=torch.long), scores.clone())
    banned = {i for first, last in STRINGS["forbidden"][case]["ids_ranges"] for i in range(first, last + 1)}
    banned = (banned | set(range(vocabulary.tokens, vocabulary.rows))) - {EOS_ID}
    assert set(torch.where(masked[1].isinf())[0].tolist()) == banned
    assert torch.equal(masked[masked.isfinite()], scores[masked.isfinite()])
