"""Audio in and out of plain transformers: importing this module lets `AutoProcessor` open an export, with `trust_remote_code` off.

    import tinywave.transformers
    processor = AutoProcessor.from_pretrained("store/export/ID/model")
    inputs = processor(audio=samples, sampling_rate=rate, return_tensors="pt")
    ids = model.generate(**inputs, suppress_tokens=processor.banned_ids())
    answer = processor.decode_audio(ids[0, inputs.input_ids.shape[1] :])

An export names the class in processor_config.json. The speech tokenizer, the prompts and the voice are those of `tinywave.Model`; AutoTokenizer's
tokenizer is used for strings and padding alone.
"""

import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoProcessor, BatchFeature, PretrainedConfig, ProcessorMixin

from tinywave.models import Output
from tinywave.sound import Sound, samples_of
from tinywave_core.checkpoints.bounds import read_json
from tinywave_core.checkpoints.exported import SPEECH, require_export, require_files
from tinywave_core.config.base import Device, RuntimeConfig
from tinywave_core.counts import count
from tinywave_core.devices import pick_device
from tinywave_core.errors import CheckpointError, ConfigError, SourceError, TokenError
from tinywave_core.exporters.transformers_files import PROCESSOR, processor_config
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.prompting import Part, Prompting
from tinywave_core.synthesis.speaking import Speaker, load_speaker
from tinywave_core.tokenizers import base
from tinywave_core.tokenizers.allowed import allowed_ids
from tinywave_core.tokenizers.base import Places
from tinywave_core.tokenizers.directory import load_tokenizer, open_as_transformers
from tinywave_core.tokenizers.opening import SPEECH_TOKENIZER, open_of_model
from tinywave_core.tokenizers.prompts import OutputModality
from tinywave_core.tokenizers.speech import merge
from tinywave_core.tokenizers.trained_on import TrainedOn
from tinywave_core.tokenizers.vocabulary import Vocabulary

_FILES = (
    SPEECH,
    PROCESSOR,
    "config.json",
    "vocabulary.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""What a processor is made of, beside the folder of its speech tokenizer."""
_OF_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_OUTPUTS: dict[str, OutputModality] = {"speech": "speech", "text": "text", "mixed": "arbitrary"}


class TinyWaveProcessor(ProcessorMixin):
    """Audio and text to the inputs of a model in transformers, and its ids back to audio.

    processor = AutoProcessor.from_pretrained("store/export/ID/model")  # after `import tinywave.transformers`
    inputs = processor(audio=samples, sampling_rate=rate, return_tensors="pt")
    """

    attributes = ["tokenizer"]  # noqa: RUF012  (as ProcessorMixin has it)
    tokenizer_class = "AutoTokenizer"  # type: ignore[assignment]
    tokenizer: Any
    """transformers' tokenizer of the export: strings, and the token that fills prompts up."""

    sampling_rate: int = SAMPLE_RATE
    """Samples per second of what `decode_audio` gives: 16,000."""

    def __init__(
        self,
        tokenizer: Any,
        folder: Path,
        prompting: Prompting,
        opened: base.SpeechTokenizer,
        places: Places,
        device: str,
    ) -> None:
        """Use `from_pretrained`, or `AutoProcessor.from_pretrained`."""
        super().__init__(tokenizer)
        self._folder, self._prompting, self._opened = folder, prompting, opened
        self._places, self._device = places, device

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        spiritlm_dir: str | None = None,
        device: Device = "auto",
        **of_hub: Any,
    ) -> "TinyWaveProcessor":
        """Open the model/ directory of an export, or a repository of a hub that has one (then with transformers' `revision`, `token`,
        `cache_dir`, `force_download` and `local_files_only`).

        An export that was made before there were processors opens here too, though AutoProcessor takes it for a tokenizer. A model of
        SpiritLM's tokens needs its release (`spiritlm_dir`, or SPIRITLM_CHECKPOINTS_DIR), one of an encoder's units the encoder (TINYWAVE_ENCODER),
        which runs on `device`. CheckpointError where the folder is no export or its speech tokenizer is damaged.
        """
        folder = _folder(pretrained_model_name_or_path, of_hub)
        about = _about(folder)
        vocabulary = Vocabulary.from_json(about["vocabulary"])
        prompting = Prompting(load_tokenizer(folder, vocabulary), vocabulary, TrainedOn.of(about))
        places, place = Places(spiritlm_dir), pick_device(RuntimeConfig(device=device)).type
        tokenizer = open_as_transformers(folder)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:  # of exports from before they had one; nothing attends to it
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        return cls(tokenizer, folder, prompting, open_of_model(folder, vocabulary, places, place), places, place)

    def __call__(  # type: ignore[override]
        self,
        audio: Sound | torch.Tensor | Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        sampling_rate: int | None = None,
        output: Output = "speech",
        padding: bool = True,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """`input_ids` and `attention_mask` of prompts that the model continues in `output`: `speech`, `text` or `mixed`.

        `audio` is one recording or a list of them: floats [n] at `sampling_rate` Hz, or a file, which knows its own rate. `text` is one text
        or as many; with both, the model hears first, then reads. `padding` fills prompts up on the left to one length, which
        `return_tensors` (`pt`, `np`) needs where lengths differ.

        ConfigError for nothing to continue, lists of two lengths, a rate that is missing, or what the model was not trained on;
        SourceError for what is no audio, or is too short for a token.
        """
        heard = [] if audio is None else self._heard(_recordings(audio), sampling_rate)
        read = _texts(text)
        if heard and read and len(heard) != len(read):
            raise ConfigError(
                f"there are {count(len(heard), 'recording')} and {count(len(read), 'text')}: expected as many of one as of the other"
            )
        _require_output(output)
        given: list[list[Part]] = [[*heard[n : n + 1], *read[n : n + 1]] for n in range(max(len(heard), len(read)))]
        if not given:
            raise ConfigError("there is nothing to continue: pass audio or text")
        rows = [self._prompting.ids(parts, _OUTPUTS[output]) for parts in given]
        longest = max(map(len, rows)) if padding else 0
        gaps = [max(longest - len(row), 0) for row in rows]
        columns = {
            "input_ids": [[self.tokenizer.pad_token_id] * gap + row for gap, row in zip(gaps, rows, strict=True)],
            "attention_mask": [[0] * gap + [1] * len(row) for gap, row in zip(gaps, rows, strict=True)],
        }
        return BatchFeature(columns, tensor_type=return_tensors)

    def banned_ids(self, output: Output = "speech") -> list[int]:
        """Ids that a continuation in `output` never has, for the `suppress_tokens` of `generate`."""
        vocabulary = self._prompting.vocabulary
        _require_output(output)
        return sorted({*range(vocabulary.rows)} - {*allowed_ids(vocabulary, _OUTPUTS[output])})

    @property
    def voices(self) -> tuple[str, ...]:
        """Names for `decode_audio`; empty where there is one voice without a name."""
        return self._speaker.voices

    def decode_audio(self, ids: npt.ArrayLike | torch.Tensor, voice: str | None = None) -> npt.NDArray[np.float32]:
        """Samples [n] at `sampling_rate` of the ids [N] of one sequence, in a voice of the model; text, markers and padding are skipped.

        Pass what is new of a sequence, or all of it to hear the prompt in that voice as well. TokenError for what is no row of the model's ids,
        TinyWaveError for a voice that there is not.
        """
        row = np.asarray(ids.detach().cpu() if isinstance(ids, torch.Tensor) else ids)
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise TokenError(
                f"the ids are {row.dtype} of shape {list(row.shape)}; expected integers of shape [N]: `batch_decode_audio` takes a batch"
            )
        rows = self._prompting.vocabulary.rows
        if row.size and not 0 <= row.min() <= row.max() < rows:
            raise TokenError(
                f"the ids are {row.min()} to {row.max()}; the model has {rows:,}, from 0: they are of another one"
            )
        return self._speaker(row.astype(np.int64), voice)

    def batch_decode_audio(
        self, sequences: Sequence[npt.ArrayLike] | torch.Tensor, voice: str | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """`decode_audio` of each sequence."""
        return [self.decode_audio(ids, voice) for ids in sequences]

    def to_dict(self, legacy_serialization: bool = True) -> dict[str, Any]:  # noqa: ARG002  (ProcessorMixin's)
        """What processor_config.json holds."""
        return processor_config()

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **_: Any) -> list[str]:  # type: ignore[override]
        """Copy all that the processor is made of, its voice too, into a folder; the model's weights are `model.save_pretrained`'s.

        ConfigError where `push_to_hub` is asked for: `tinywave push` does that.
        """
        if push_to_hub:
            raise ConfigError("a processor is pushed with its model: `tinywave push EXPORT OWNER/NAME`")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in _FILES if (self._folder / name).is_file()]
        for name in names:
            shutil.copyfile(self._folder / name, folder / name)
        shutil.copytree(self._folder / SPEECH_TOKENIZER, folder / SPEECH_TOKENIZER, dirs_exist_ok=True)
        (folder / PROCESSOR).write_text(self.to_json_string(), encoding="utf-8")
        return [str(folder / name) for name in {*names, PROCESSOR}]

    @property
    def model_input_names(self) -> list[str]:
        """What a call gives."""
        return ["input_ids", "attention_mask"]

    def _heard(self, recordings: Sequence[Any], rate: int | None) -> list[list[int]]:
        """Ids of each recording, without a marker."""
        samples = [_samples(each, rate, number) for number, each in enumerate(recordings, start=1)]
        streams = self._opened.tokenize(samples)
        ids = [[int(i) for i in merge(each, self._prompting.vocabulary)] for each in streams]
        for number, (row, heard) in enumerate(zip(ids, samples, strict=True), start=1):
            if not row:
                raise SourceError(
                    f"recording {number} lasts {len(heard) / SAMPLE_RATE:g} s and gives no token: expected a tenth of a second at least"
                )
        return ids

    @cached_property
    def _speaker(self) -> Speaker:
        folder, vocabulary = self._folder / SPEECH_TOKENIZER, self._prompting.vocabulary
        return load_speaker(folder, vocabulary, self._places.spiritlm_dir, self._device)


def _require_output(output: str) -> None:
    if output not in _OUTPUTS:
        raise ConfigError(f"output is {output!r}; expected one of {', '.join(_OUTPUTS)}")


def _recordings(audio: Any) -> Sequence[Any]:
    """One recording, or a list of them, as a list."""
    if isinstance(audio, str | Path) or not isinstance(audio, list | tuple):
        return [audio]
    return [audio] if audio and isinstance(audio[0], int | float) else audio


def _texts(text: Any) -> list[str]:
    """One text, or a list of them, as a list."""
    texts = [] if text is None else [text] if isinstance(text, str) else list(text)
    if other := next((each for each in texts if not isinstance(each, str)), None):
        raise ConfigError(f"a text is {type(other).__name__}: expected strings")
    return texts


def _samples(recording: Any, rate: int | None, number: int) -> npt.NDArray[np.float32]:
    """Samples at 16 kHz."""
    if isinstance(recording, str | Path):
        return samples_of(recording, rate)
    if rate is None:
        raise ConfigError("sampling_rate is missing: say at which rate the audio is, such as sampling_rate=16000")
    if not isinstance(rate, int | np.integer):
        raise ConfigError(f"sampling_rate is {rate!r}; expected samples per second as a whole number, such as 16000")
    array = np.asarray(recording.detach().cpu() if isinstance(recording, torch.Tensor) else recording)
    if array.ndim != 1:
        raise SourceError(
            f"recording {number} has the shape {list(array.shape)}; expected [samples]: pass several recordings as a list, and the mean "
            "of several channels"
        )
    return samples_of(array, rate)


def _folder(name: str | Path, options: dict[str, Any]) -> Path:
    """The folder of an export on this machine; of a repository, what a processor is made of is fetched by the hub's own client."""
    folder = Path(name).expanduser()
    if folder.exists():
        return folder
    if str(name).count("/") != 1:
        raise CheckpointError(f"there is no {name}: expected the model/ directory of an export, or OWNER/NAME of a hub")
    from huggingface_hub import snapshot_download

    wanted = {key: value for key, value in options.items() if key in _OF_HUB and value is not None}
    wanted |= {"endpoint": os.environ.get("HF_ENDPOINT") or None, "allow_patterns": [*_FILES, f"{SPEECH_TOKENIZER}/*"]}
    return Path(snapshot_download(str(name), **wanted))


def _about(folder: Path) -> dict[str, Any]:
    """speech.json, once the files of the speech tokenizer are those that it tells of."""
    about: dict[str, Any] = read_json(require_export(folder))
    digests = about.get("speech_tokenizer_sha256", {})
    require_files(folder, {f"{SPEECH_TOKENIZER}/{name}": digest for name, digest in digests.items()})
    return about


class _Export(PretrainedConfig):
    """What AutoProcessor knows the class by: it looks classes up by the name in processor_config.json among those of a config. Llama's
    own config would do, but then every Llama's folder would be opened as an export."""

    model_type = "tinywave-export"


AutoProcessor.register(_Export, TinyWaveProcessor, exist_ok=True)
