"""A directory of a speech language model -> its results on benchmarks of pairs.

    lm = SpeechLM.load("store/export/…/model")
    result = run_suite(lm, open_suite("salmon", "~/salmon"), Definition())
    result.accuracies["all"]

An export of this project has all that it needs; a Llama directory with SpiritLM's tokenizer alone (`tinywave/*-2b`, say) takes the
audio side from SpiritLM's release.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import LlamaForCausalLM

from tinywave_core.checkpoints.spiritlm import checkpoint_files, digest_of
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.devices import pick_device
from tinywave_core.errors import CheckpointError, SourceError
from tinywave_core.evals.pair_scores import Accuracy, Definition, accuracies, score_pairs, score_tokens
from tinywave_core.evals.pair_tokens import Ears, digest, tokenize_pairs, tokenize_recordings
from tinywave_core.evals.suites.base import Suite
from tinywave_core.models.llama import load_llama, on_device
from tinywave_core.progress import Progress, no_progress
from tinywave_core.sequences.interleaving import EncodeText, text_encoder
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.tokenizers.base import Places
from tinywave_core.tokenizers.directory import load_tokenizer, read_directory
from tinywave_core.tokenizers.opening import open_of_model
from tinywave_core.tokenizers.trained_on import TrainedOn
from tinywave_core.tokenizers.vocabulary import Vocabulary

Pool = dict[str, Ears]
"""Recordings that were tokenized already, by speech tokenizer; several models can share one."""


@dataclass(frozen=True)
class SpeechLM:
    """A loaded model, with the tokenizers that its directory calls for."""

    folder: Path
    model: LlamaForCausalLM = field(repr=False)
    vocabulary: Vocabulary
    encode_text: EncodeText = field(repr=False)
    digest: str
    """SHA-256 over weights, config and tokenizer."""
    spiritlm_dir: str | None
    pool: Pool = field(repr=False)
    trained: TrainedOn | None = None
    """None: a model of others, which does not say."""

    @classmethod
    def load(
        cls, folder: str | Path, spiritlm_dir: str | None = None, device: str = "auto", pool: Pool | None = None
    ) -> "SpeechLM":
        """Open a directory; CheckpointError where it has no Llama with unit tokens."""
        folder = Path(folder).expanduser()
        model = load_llama(folder)
        vocabulary = read_directory(folder)
        if model.config.vocab_size != vocabulary.rows:
            raise CheckpointError(
                f"{folder}: the model has {model.config.vocab_size} rows, its tokenizer {vocabulary.rows}: they do not belong "
                "together; copy the directory again"
            )
        return cls(
            folder,
            on_device(model, pick_device(RuntimeConfig.model_validate({"device": device}))).eval(),
            vocabulary,
            text_encoder(load_tokenizer(folder, vocabulary), vocabulary),
            digest_of(checkpoint_files(folder)),
            spiritlm_dir,
            {} if pool is None else pool,
            _trained_on(folder),
        )

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def ears(self) -> Ears:
        """Its speech tokenizer, loaded now; what the pool heard with the same one is known."""
        device = torch.device(self.model.device).type
        tokenizer = open_of_model(self.folder, self.vocabulary, Places(self.spiritlm_dir), device)
        ears = self.pool.setdefault(tokenizer.identity, Ears(tokenizer))
        ears.tokenizer = tokenizer
        return ears


def _trained_on(folder: Path) -> TrainedOn | None:
    """What an export says of its training."""
    about = folder / "speech.json"
    return TrainedOn.of(json.loads(about.read_text(encoding="utf-8"))) if about.is_file() else None


@dataclass(frozen=True)
class Result:
    """What a model scored on a suite."""

    suite: str
    """Its name."""
    definition: Definition
    """What the score of a sequence is."""
    identity: str
    """Of model, definition and the very tokens that were scored: equal results have equal ones."""
    table: pa.Table = field(repr=False)
    """Per pair: id, group, subset, voice, positive_score, negative_score, credit, reason."""
    accuracies: dict[str, Accuracy]
    """Shares of right answers, by subset; `all` is the whole suite."""
    left_out: int
    """Pairs that could not be scored; the table says why."""

    def to_json(self) -> dict[str, Any]:
        """All but the table."""
        return {
            "suite": self.suite,
            "definition": asdict(self.definition),
            "identity": self.identity,
            "left_out": self.left_out,
            "accuracies": {name: asdict(accuracy) for name, accuracy in self.accuracies.items()},
        }


def run_suite(lm: SpeechLM, suite: Suite, definition: Definition, progress: Progress = no_progress) -> Result:
    """Tokenize and score all pairs; SourceError where not one of them can be scored."""
    pairs = tokenize_pairs(
        suite.pairs,
        lm.vocabulary,
        lm.encode_text,
        lm.ears,
        lm.model.config.max_position_embeddings,
        progress,
        lm.trained,
    )
    table = score_pairs(lm.model, lm.vocabulary, pairs, definition, progress)
    by_subset = accuracies(table, suite.subsets)
    if not by_subset:
        why = next(reason for reason in table["reason"].to_pylist())
        raise SourceError(f"{suite.name}: none of the {len(pairs)} pairs can be scored. The first one: {why}")
    named = {"suite": suite.name, "definition": asdict(definition), "model": lm.digest, "tokens": digest(pairs)}
    return Result(suite.name, definition, fingerprint(named), table, by_subset, table["credit"].null_count)


def score_recordings(
    lm: SpeechLM, files: Sequence[Path], definition: Definition, progress: Progress = no_progress
) -> list[float]:
    """The score of every recording, for a file to submit; SourceError where one has none, since such a file needs all."""
    tokens = tokenize_recordings(files, lm.vocabulary, lm.ears(), progress)
    scores = score_tokens(lm.model, lm.vocabulary, tokens, definition, progress)
    for path, score in zip(files, scores, strict=True):
        if score is None:
            raise SourceError(f"{path} has no token to score, and a file of scores needs all recordings: copy it again")
    return [score for score in scores if score is not None]
