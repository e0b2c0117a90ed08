"""SpiritLM's HiFi-GAN, from a release's folder: units (and pitch and style codes) -> 16 kHz speech, whole or as it comes.

Codes become frames of 40 ms in one of two ways. With predicted durations every unit, of a run only the first unless told
otherwise, lasts as long as the model thinks, and pitch and style codes are given one per unit. Without, a unit is a frame,
and pitch and style codes last as many frames as their hop says.

Shapes: R rows of codes (units; pitch and style for expressive models), N codes, F frames.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from tinywave_core.checkpoints.bounds import check_claims
from tinywave_core.checkpoints.weights import load_entries, load_strictly, state_dict, without_weight_norm
from tinywave_core.devices import with_float64
from tinywave_core.errors import CheckpointError, TinyWaveError, TokenError
from tinywave_core.synthesis.hifigan_model import HifiganConfig, HifiganNetwork
from tinywave_core.tokenizers.speech import EMPTY, Positions, Streams, Units, run_starts

TRAINED = "generator.safetensors"  # of a vocoder that was trained here
WEIGHTS, CONFIG, SPEAKERS, STYLES = "generator.pt", "config.json", "speakers.txt", "styles.txt"
SPEAKER = 2
GLOBAL_STYLE = 8  # conv-default in styles.txt
MOST_NAMES_BYTES = 1 << 20
MOST_CODES = 1000  # whose durations are predicted at once

Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Piece = dict[str, Units]  # codes by kind, of the kinds that a model reads
KINDS = ("units", "pitch", "style")


@dataclass(frozen=True)
class HifiganVocoder:
    """A loaded vocoder. It keeps no state between calls: threads may share it."""

    config: HifiganConfig
    network: HifiganNetwork
    speakers: tuple[str, ...]  # names by index; empty without speakers.txt
    styles: tuple[str, ...]  # names of the global styles by index; empty without styles.txt

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> "HifiganVocoder":
        """Read generator.pt, or the generator.safetensors that `save` wrote, and config.json, and the names where they are given;
        CheckpointError if they do not fit."""
        config = HifiganConfig.load(folder / CONFIG)
        is_trained = (folder / TRAINED).is_file()
        path = folder / (TRAINED if is_trained else WEIGHTS)
        entries = state_dict(load_entries(path), None if is_trained else "generator", path)
        weights = without_weight_norm(entries, path)
        check_claims(folder / CONFIG, *config.sizes(), weights, path)
        network = HifiganNetwork(config)
        names = _names_of_tables(network, weights)
        load_strictly(network, weights, path, lambda key: names.get(key, key))
        return cls(
            config=config,
            network=network.to(with_float64(device)).eval().requires_grad_(False),
            speakers=_names(folder / SPEAKERS, config.num_speakers if config.multispkr else 0),
            styles=_names(folder / STYLES, config.num_styles if config.multistyle else 0),
        )

    def save(self, folder: Path) -> None:
        """Write generator.safetensors, config.json and the names."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.network.state_dict().items()}
        save_file(weights, folder / TRAINED)
        about = self.config.model_dump(mode="json", exclude_none=True)
        (folder / CONFIG).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for names, file in ((self.speakers, SPEAKERS), (self.styles, STYLES)):
            if names:
                (folder / file).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")

    def synthesize(
        self,
        units: npt.ArrayLike,
        pitch: npt.ArrayLike | None = None,
        style: npt.ArrayLike | None = None,
        *,
        speaker: int = SPEAKER,
        global_style: int | None = None,
        predict_durations: bool,
        deduplicate: bool = True,
    ) -> Samples:
        """Speech of a whole sequence; empty where there are no units.

        `global_style` is for models with such a table (base), None there means conv-default. `deduplicate` keeps the first
        unit of each run before durations are predicted; without predicted durations nothing is dropped. A model of one
        voice has no use for `speaker`.
        """
        voice = self._voice(speaker, global_style)
        piece = Streams(*(EMPTY if codes is None else np.asarray(codes) for codes in (units, pitch, style)))
        frames = [*self._frames([piece], predict_durations, deduplicate)]
        if not frames:
            return np.zeros(0, np.float32)
        return self._samples(np.concatenate(frames, axis=1), voice)

    def stream(
        self,
        pieces: Iterable[Streams | Positions],
        *,
        speaker: int = SPEAKER,
        global_style: int | None = None,
        predict_durations: bool,
        deduplicate: bool = True,
        chunk_frames: int = 50,
        longest_frames: int | None = None,
        most_context: int | None = None,
    ) -> Iterator[Samples]:
        """Speech in chunks of `chunk_frames` (the last one is shorter), while its codes arrive in pieces of any length.

        With `longest_frames` each chunk is half as long again as the one before it, up to that: the context is computed anew for
        each, so what is soonest heard costs most.

        The chunks together are what `synthesize` makes of the pieces together, to 1e-5 of full scale: each is made with
        the whole receptive field around it, `config.context`. A chunk comes as soon as the frames after it are known.
        `most_context` frames on each side instead of that are sooner there and cheaper, but no more the same to that digit.
        """
        if chunk_frames < 1:
            raise TinyWaveError(f"chunk_frames is {chunk_frames}: expected at least 1")
        voice = self._voice(speaker, global_style)
        before, after = (min(reach, reach if most_context is None else most_context) for reach in self.config.context)
        frames = self._frames(pieces, predict_durations, deduplicate)
        sizes = _growing(chunk_frames, longest_frames or chunk_frames)
        return self._chunks(frames, voice, sizes, before, after)

    def _chunks(
        self, frames: Iterator[Codes], voice: tuple[int, int], sizes: Iterator[int], before: int, after: int
    ) -> Iterator[Samples]:
        for window, start, stop in _windows(frames, before, after, ((size, size) for size in sizes)):
            yield self._samples(window, voice, start, stop)

    def _frames(self, pieces: Iterable[Streams | Positions], durations: bool, deduplicate: bool) -> Iterator[Codes]:
        """Codes [R, F] by the frame, in pieces."""
        checked = map(self._checked, pieces)
        if not durations:
            return _side_by_side(checked, self.config.frames_per_code, slack=1)
        if self.network.dur_predictor is None:
            raise TinyWaveError(
                "this vocoder predicts no durations, its config.json has no dur_predictor_params: pass "
                "predict_durations=False and units that are not deduplicated"
            )
        one_each = dict.fromkeys(self.config.code_counts, 1)
        return self._lengthened(_side_by_side(_without_runs(checked) if deduplicate else checked, one_each, slack=0))

    def _lengthened(self, codes: Iterator[Codes]) -> Iterator[Codes]:
        """Each code for as many frames as its unit is predicted to last."""
        context = self.config.duration_context
        for window, start, stop in _windows(codes, context, context, repeat((1, MOST_CODES))):
            with torch.inference_mode():
                frames_N = self.network.frames_per_unit(self._tensor(window[0])).cpu().numpy()
            yield np.repeat(window[:, start:stop], frames_N[start:stop], axis=1)

    def _samples(self, codes_RF: Codes, voice: tuple[int, int], start: int = 0, stop: int | None = None) -> Samples:
        with torch.inference_mode():
            return self.network(self._tensor(codes_RF), *voice, start, stop).cpu().numpy()

    def _tensor(self, codes: Codes) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(codes)).to(self.network.conv_pre.weight.device)

    def _voice(self, speaker: int, global_style: int | None) -> tuple[int, int]:
        if global_style is not None and not self.config.multistyle:
            raise TinyWaveError(
                f"global_style is {global_style}, but this vocoder has no global styles (an expressive one takes style codes): "
                "leave it out"
            )
        style = GLOBAL_STYLE if global_style is None else global_style
        if self.config.multispkr:
            _check_index("speaker", speaker, self.speakers, self.config.num_speakers)
        if self.config.multistyle:
            _check_index("global_style", style, self.styles, self.config.num_styles)
        return speaker, style

    def _checked(self, piece: Streams | Positions) -> Piece:
        """The kinds of codes that the model reads; TokenError if they are out of range or not those that are given."""
        counts = self.config.code_counts
        codes_by_kind = {kind: _integers(kind, getattr(piece, kind)) for kind in KINDS}
        for kind, codes in codes_by_kind.items():
            if kind not in counts and len(codes):
                raise TokenError(f"found {len(codes)} {kind} codes; this vocoder expects {' and '.join(counts)} only")
            if len(codes) and (codes.min() < 0 or codes.max() >= counts[kind]):
                raise TokenError(
                    f"found {kind} from {codes.min()} to {codes.max()}; this vocoder expects 0 to {counts[kind] - 1}"
                )
        return {kind: codes_by_kind[kind] for kind in counts}


def _integers(kind: str, codes: npt.ArrayLike) -> Units:
    array = np.asarray(codes)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TokenError(f"{kind} are {array.dtype} of shape {list(array.shape)}; expected integers in one row")
    return array.astype(np.int64)


def _check_index(what: str, index: int, names: tuple[str, ...], rows: int) -> None:
    if not 0 <= index < rows:
        choices = f" ({', '.join(names[:6])}{', …' if len(names) > 6 else ''})" if names else ""
        raise TinyWaveError(f"{what} is {index}: this vocoder has {what}s 0 to {rows - 1}{choices}")


def _without_runs(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Units that differ from the one before; the other kinds are left as they are."""
    last = EMPTY
    for piece in pieces:
        units = np.concatenate([last, piece["units"]])
        starts = run_starts(units)
        yield piece | {"units": units[starts[starts >= len(last)]]}
        last = units[-1:]


def _side_by_side(pieces: Iterable[Piece], repeats: Mapping[str, int], slack: int) -> Iterator[Codes]:
    """Codes [R, N] with one entry per unit: each code `repeats` times, the last one for as long as there are units.

    `slack` is how many codes of a kind may be missing or left over.
    """
    waiting, last = dict.fromkeys(repeats, EMPTY), dict.fromkeys(repeats, EMPTY)
    counts = dict.fromkeys(repeats, 0)
    for piece in pieces:
        for kind, codes in piece.items():
            waiting[kind] = np.concatenate([waiting[kind], np.repeat(codes, repeats[kind])])
            last[kind] = codes[-1:] if len(codes) else last[kind]
            counts[kind] += len(codes)
        ready = min(map(len, waiting.values()))
        if ready:
            yield np.stack([codes[:ready] for codes in waiting.values()])
            waiting = {kind: codes[ready:] for kind, codes in waiting.items()}
    if not counts["units"]:
        return
    rest = len(waiting["units"])
    for kind, codes in waiting.items():
        missing = rest - len(codes)
        if not counts[kind] or abs(missing) > slack * repeats[kind]:
            raise _mismatch(kind, counts, repeats[kind], slack)
        waiting[kind] = np.concatenate([codes, np.repeat(last[kind], max(missing, 0))])[:rest]
    if rest:
        yield np.stack([*waiting.values()])


def _mismatch(kind: str, counts: Mapping[str, int], repeat: int, slack: int) -> TokenError:
    counts_text = f"found {counts[kind]} {kind} codes for {counts['units']} units"
    if slack:
        return TokenError(f"{counts_text}; expected one for every {repeat} units, give or take {slack}")
    return TokenError(
        f"{counts_text} (runs count once unless deduplicate is False); with predicted durations one per unit is expected"
    )


def _growing(first: int, longest: int) -> Iterator[int]:
    """Sizes from the first on, each half as much again as the one before, up to the longest."""
    size = first
    while True:
        yield size
        size = max(size, min(longest, size + (size + 1) // 2))


def _windows(
    pieces: Iterable[Codes], before: int, after: int, sizes: Iterator[tuple[int, int]]
) -> Iterator[tuple[Codes, int, int]]:
    """Cut what arrives in pieces [R, n] into parts of the sizes, least and most columns: (part with its context, start, stop).

    Only at the two ends is there less context than asked for, and at the end a part may be shorter.
    """
    least, most = next(sizes)
    buffer: Codes | None = None
    done = 0
    for piece in chain(pieces, [None]):
        if piece is not None:
            buffer = piece if buffer is None else np.concatenate([buffer, piece], axis=1)
        if buffer is None:
            return
        frames = 0 if piece is None else after
        while (ready := buffer.shape[1] - done - frames) >= (1 if piece is None else least):
            stop = done + min(ready, most)
            yield buffer[:, : stop + after], done, stop
            dropped = max(stop - before, 0)
            buffer, done = buffer[:, dropped:], stop - dropped
            least, most = next(sizes)


def _names_of_tables(network: HifiganNetwork, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Which key of the file is which table of codes: by its size, and where two have the same by its name."""
    expected = network.state_dict()
    strangers = [key for key in weights if key not in expected]
    names: dict[str, str] = {}
    for ours in ("pitch_codes.weight", "style_codes.weight"):
        if ours in expected and ours not in weights:
            fitting = [key for key in strangers if weights[key].shape == expected[ours].shape]
            if len(fitting) > 1:
                fitting = [key for key in fitting if ("style" in key) == ("style" in ours)]
            if len(fitting) == 1:
                names[fitting[0]] = ours
    return names


def _names(path: Path, most: int) -> tuple[str, ...]:
    """One name per line, where there is such a file."""
    if not path.is_file() or not most:
        return ()
    try:
        if (size := path.stat().st_size) > MOST_NAMES_BYTES:
            raise OSError(f"{size:,} bytes, expected {MOST_NAMES_BYTES:,} at most")
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as text ({error}): expected a name per line") from error
    if len(names) > most:
        raise CheckpointError(f"{path} has {len(names)} names; expected {most} at most, as many as {CONFIG} says")
    return names
