"""SpiritLM's speech tokenizer from its release: HuBERT units at 25 Hz, pitch codes at 12.5 Hz, styles at 1 Hz.

    tokenizer = SpiritLMTokenizer.load("/checkpoints", "expressive")
    tokens = tokenizer("audio.flac")          # .hubert, .pitch, .style, .string, .ids

Audio is cut in chunks of 100 s without overlap; every chunk goes through the models alone, and a last one under 80 ms is
dropped. What a recording gives never depends on what else is tokenized with it. Base tokens load and run HuBERT only.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from tinywave_core.checkpoints.spiritlm import Kind, Part, Release, lm_part, open_release, speech_parts
from tinywave_core.encoders.batching import most_samples, padded_batches
from tinywave_core.errors import CheckpointError, SourceError
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.tokenizers.base import Sizes
from tinywave_core.tokenizers.speech import EMPTY, Streams, encode_utterance, to_string
from tinywave_core.tokenizers.streams import STREAMS
from tinywave_core.tokenizers.vocabulary import SPIRITLM_BASE, SPIRITLM_EXPRESSIVE, Ids, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.encoders.hubert import HubertEncoder
    from tinywave_core.encoders.style import StyleEncoder
    from tinywave_core.tokenizers.fcpe import Fcpe
    from tinywave_core.tokenizers.quantizers import Quantizer
    from tinywave_core.tokenizers.vqvae import PitchCodes

# SpiritLM's. HuBERT's GroupNorm is taken over a whole chunk: another length gives other units.
CHUNK_SAMPLES = 100 * SAMPLE_RATE
MIN_SAMPLES = 1280  # 80 ms: two frames of HuBERT less 160 samples, one of pitch

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SpeechTokens:
    """What one recording is in tokens; pitch and style are None for base tokens."""

    hubert: npt.NDArray[np.int64]
    """Raw units, 25 Hz."""
    pitch: npt.NDArray[np.int64] | None
    """Raw pitch codes, 12.5 Hz."""
    style: npt.NDArray[np.int64] | None
    """Style labels, 1 Hz."""
    string: str
    """Merged tokens, [St…][Pi…][Hu…]."""
    ids: Ids
    """The prompt `[Speech]` + string as the language model reads it, with <s> and without </s>."""
    unvoiced_chunks: int
    """Chunks of up to 100 s without a voiced frame: their F0 counts as 0 (the reference has no result for them)."""

    @classmethod
    def of(cls, streams: Streams, vocabulary: Vocabulary) -> "SpeechTokens":
        """The raw streams of a recording, as a model with this vocabulary reads them."""
        return cls(
            hubert=streams.units,
            pitch=streams.pitch if vocabulary.pitch else None,
            style=streams.style if vocabulary.style else None,
            string=to_string(streams, vocabulary),
            ids=encode_utterance(streams, vocabulary)[:-1],
            unvoiced_chunks=streams.unvoiced_chunks,
        )


@dataclass(frozen=True)
class SpiritLMTokenizer:
    """Loaded models; the last three are None for base tokens."""

    vocabulary: Vocabulary
    device: torch.device
    encoder: "HubertEncoder"
    quantizer: "Quantizer"
    fcpe: "Fcpe | None" = None
    pitch_codes: "PitchCodes | None" = None
    style: "StyleEncoder | None" = None

    @classmethod
    def load(
        cls,
        spiritlm_dir: str | Path | None = None,
        model: Kind = "expressive",
        *,
        hubert: str | Path | None = None,
        quantizer: str | Path | None = None,
        device: str = "cpu",
    ) -> "SpiritLMTokenizer":
        """Load and check what `model` needs; None takes the directory in SPIRITLM_CHECKPOINTS_DIR.

        `hubert` is a `HubertModel` directory of transformers in place of the release's, `quantizer` a file in place of its
        own. Ids follow the language model's tokenizer where it lies in the release, else SpiritLM's published layout.
        """
        source = SpeechSource.of(spiritlm_dir, model, hubert, quantizer)
        return cls.of(source, model, device, lm_vocabulary(spiritlm_dir, model))

    @classmethod
    def of(cls, source: "SpeechSource", model: Kind, device: str, vocabulary: Vocabulary) -> "SpiritLMTokenizer":
        """The tokenizer of checked files; CheckpointError where they do not fit one another or the vocabulary."""
        from tinywave_core.encoders.hubert import load_release, load_transformers
        from tinywave_core.tokenizers.quantizers import load_quantizer

        # First: sizes stand in small files, HuBERT alone takes 380 MB.
        source.sizes(model).require(vocabulary)
        place = torch.device(device)
        encoder = (
            load_transformers(source.hubert, device=place)
            if source.hubert.is_dir()
            else load_release(source.hubert, device=place)
        )
        quantizer = load_quantizer(source.quantizer, encoder.width, place)
        # Pitch and style models are nearly two thirds of the work, and base tokens have no use for them.
        if model == "base":
            return cls(vocabulary, place, encoder, quantizer)
        from tinywave_core.encoders.style import load_style_encoder
        from tinywave_core.tokenizers.fcpe import Fcpe
        from tinywave_core.tokenizers.vqvae import PitchCodes

        assert source.release is not None
        return cls(
            vocabulary,
            place,
            encoder,
            quantizer,
            Fcpe.load(device=place),
            PitchCodes.load(source.release.folder("pitch"), device=place),
            load_style_encoder(source.release.folder("style"), place),
        )

    def __call__(self, audio: str | Path | Samples) -> SpeechTokens:
        """Tokens of a file, or of mono samples at 16 kHz."""
        if isinstance(audio, str | Path):
            from tinywave_core.audio.waveform import read_waveform

            samples = read_waveform(audio)
        else:
            samples = audio
        (streams,) = self.streams([samples])
        return SpeechTokens.of(streams, self.vocabulary)

    def streams(self, recordings: Sequence[Samples]) -> list[Streams]:
        """Raw streams of recordings (mono, 16 kHz), computed together: the same as each alone."""
        chunks = [chunk for samples in recordings for chunk in split_chunks(samples)]
        done = iter(self._chunks(chunks))
        return [_joined([next(done) for _ in split_chunks(samples)]) for samples in recordings]

    def _chunks(self, chunks: Sequence[Samples]) -> list[Streams]:
        lengths = [len(chunk) for chunk in chunks]
        done: dict[int, Streams] = {}
        # TF32, cuDNN's default, flips codes; everything here is float32 wherever it runs.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for batch in padded_batches(lengths, most_samples(self.device.type)):
                done |= dict(zip(batch, self._computed([chunks[i] for i in batch]), strict=True))
        return [done[i] for i in range(len(chunks))]

    def _computed(self, chunks: Sequence[Samples]) -> list[Streams]:
        waves = [torch.from_numpy(np.ascontiguousarray(chunk)).to(self.device) for chunk in chunks]
        units = [self.quantizer(features) for features in self.encoder(waves)]
        if self.fcpe is None or self.pitch_codes is None or self.style is None:
            return [Streams(each, EMPTY, EMPTY) for each in units]
        # One by one, on a GPU as well: FCPE has a GroupNorm over time and reflects the ends, so that padding changes F0.
        tracks = [self.fcpe.f0_hz(chunk) for chunk in chunks]
        pitch = [self.pitch_codes.encode(track.f0_hz, track.voiced) for track in tracks]
        return [
            Streams(*streams, unvoiced_chunks=int(not track.any_voiced))
            for *streams, track in zip(units, pitch, self.style(waves), tracks, strict=True)
        ]


def split_chunks(samples: Samples) -> list[Samples]:
    """Chunks of 100 s; SourceError for what is not finite mono float32."""
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise SourceError(
            f"the audio is {samples.dtype} of shape {list(samples.shape)}; expected mono float32 samples at 16 kHz"
        )
    if not np.isfinite(samples).all():
        raise SourceError("the audio has samples that are NaN or infinite")
    chunks = (samples[start : start + CHUNK_SAMPLES] for start in range(0, len(samples), CHUNK_SAMPLES))
    return [chunk for chunk in chunks if len(chunk) >= MIN_SAMPLES]


def _joined(parts: Sequence[Streams]) -> Streams:
    columns: dict[str, Any] = {
        stream.name: np.concatenate([EMPTY, *(getattr(part, stream.name) for part in parts)]) for stream in STREAMS
    }
    return Streams(**columns, unvoiced_chunks=sum(part.unvoiced_chunks for part in parts))


# The files behind it -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpeechSource:
    """Checked files of a speech tokenizer."""

    release: Release | None
    hubert: Path  # file of the release, or a transformers directory
    quantizer: Path

    @classmethod
    def of(
        cls,
        spiritlm_dir: str | Path | None,
        model: Kind,
        hubert: str | Path | None = None,
        quantizer: str | Path | None = None,
    ) -> "SpeechSource":
        """Find and check what `model` needs of the release; nothing of it for base tokens where both others are given."""
        wanted = [part for part in speech_parts(model) if part != "hubert" or not (hubert and quantizer)]
        release = open_release(None if spiritlm_dir is None else str(spiritlm_dir), wanted) if wanted else None
        for path in (hubert, quantizer):
            if path is not None and not Path(path).exists():
                raise CheckpointError(
                    f"there is nothing at {path}: expected a HubertModel directory or a quantizer's file"
                )

        def of_release(name: str) -> Path:
            assert release is not None
            return release.folder("hubert") / name

        return cls(
            release,
            Path(hubert) if hubert else of_release("mhubert_base_25hz.pt"),
            Path(quantizer) if quantizer else of_release("L11_quantizer_500.pt"),
        )

    def digests(self, model: Kind) -> dict[str, str]:
        """SHA-256 of every part that has a say in the tokens, by name."""
        from tinywave_core.checkpoints.spiritlm import checkpoint_files, digest_of

        hubert = checkpoint_files(self.hubert) if self.hubert.is_dir() else [self.hubert]
        found = {"hubert": digest_of(hubert), "quantizer": digest_of([self.quantizer])}
        if model == "expressive":
            from tinywave_core.tokenizers.fcpe import weights_path

            assert self.release is not None
            found |= {part: self.release.digest(part) for part in _EXPRESSIVE_ONLY}
            found["fcpe"] = digest_of([weights_path()])
        return found

    def sizes(self, model: Kind) -> Sizes:
        """Numbers of codes, from configs and the quantizer's small file alone."""
        from tinywave_core.tokenizers.quantizers import quantizer_units

        hubert = quantizer_units(self.quantizer)
        if model == "base":
            return Sizes(hubert)
        from tinywave_core.encoders.style import style_count
        from tinywave_core.tokenizers.vqvae import code_count

        assert self.release is not None
        return Sizes(hubert, code_count(self.release.folder("pitch")), style_count(self.release.folder("style")))


_EXPRESSIVE_ONLY: tuple[Part, ...] = ("pitch", "style")


def lm_vocabulary(spiritlm_dir: str | Path | None, model: Kind) -> Vocabulary:
    """The vocabulary of the release's language model if it lies there, else the one that SpiritLM published."""
    from tinywave_core.tokenizers.directory import read_directory

    published = SPIRITLM_BASE if model == "base" else SPIRITLM_EXPRESSIVE
    try:
        folder = open_release(None if spiritlm_dir is None else str(spiritlm_dir), ()).folder(lm_part(model))
    except CheckpointError:
        return published
    return read_directory(folder) if (folder / "tokenizer.model").is_file() else published


_loading = threading.Lock()


def shared_tokenizer(
    source: SpeechSource, model: Kind, device: str, vocabulary: Vocabulary, digests: Iterable[tuple[str, str]]
) -> SpiritLMTokenizer:
    """One loaded tokenizer per process, for the threads that work on shards side by side."""
    with _loading:
        return _shared(source, model, device, vocabulary, tuple(digests))


@lru_cache(maxsize=1)
def _shared(
    source: SpeechSource, model: Kind, device: str, vocabulary: Vocabulary, _: tuple[tuple[str, str], ...]
) -> SpiritLMTokenizer:
    return SpiritLMTokenizer.of(source, model, device, vocabulary)
