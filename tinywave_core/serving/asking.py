"""What a client asks of a model: settings, checked, and audio, decoded and bounded."""

import binascii
import json
import secrets
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinywave_core.audio.decoder_process import MAX_RATE, MIN_RATE
from tinywave_core.audio.pcm import from_pcm16
from tinywave_core.audio.waveform import to_mono_16k
from tinywave_core.runtimes.base import Sampling
from tinywave_core.serving.errors import RequestError, short
from tinywave_core.serving.limits import Limits
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.prompting import is_unicode
from tinywave_core.tokenizers.prompts import OutputModality

RATES_HZ = (8_000, 48_000)
SILENCE = 1e-3  # of full scale: -60 dB, less than the noise of a microphone that is on
USUAL_TOKENS = 300  # about ten seconds of speech
SHORTEST_S = 0.08  # of which a tokenizer makes a unit
LOUDEST = 1e6  # times full scale; beyond it float32 may end in the middle of the work
PLAIN = ("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ALAW", "ULAW")
MOST_VALUES = 10_000  # commas and brackets in a JSON body; a text of 4,000 characters has fewer

Samples = npt.NDArray[np.float32]


class Settings(BaseModel):
    """How an answer is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    output: Literal["speech", "text", "mixed"] = "speech"
    temperature: float = Field(0.8, gt=0, le=5)
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: Annotated[int, Field(ge=1)] | Literal["inf"] | None = None
    """None: `USUAL_TOKENS`, or fewer where the prompt leaves no room for them. inf: as many as the server makes and there is room for."""
    min_new_tokens: int = Field(0, ge=0)
    seed: int | None = Field(None, ge=0, lt=2**31)
    """None: another one each time."""
    voice: str | None = Field(None, max_length=100)

    @property
    def modality(self) -> OutputModality:
        return "arbitrary" if self.output == "mixed" else self.output

    def sampling(self, room: int, limit: int = USUAL_TOKENS) -> Sampling:
        """Sampling settings, with a random seed if none is given; `room` is how many tokens the model can read after the prompt, and `limit`
        how many the server makes."""
        usual = limit if self.max_new_tokens == "inf" else USUAL_TOKENS
        given = None if self.max_new_tokens == "inf" else self.max_new_tokens
        most = given or (min(usual, room) if room > 0 else usual)
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        return Sampling(self.temperature, self.top_p, most, min(self.min_new_tokens, most), seed)

    def changed(
        self, values: Mapping[str, Any], limits: Limits, *, strict: bool = True, names: Mapping[str, str] | None = None
    ) -> "Settings":
        """These settings with some values changed; RequestError names a wrong one, as `names` has it. Without `strict` values may be
        strings, as in a query."""
        names = names or {}
        unknown = next((name for name in values if name not in type(self).model_fields), None)
        if unknown is not None:
            there = f"there is no such setting; there are {', '.join(type(self).model_fields)}"
            raise RequestError.of_field(short(unknown)[1:-1], there)
        try:
            settings = Settings.model_validate({**self.model_dump(), **values}, strict=strict)
        except ValidationError as error:
            wrong = [(str(fault["loc"][0]), fault["msg"]) for fault in error.errors(include_input=False)]
            faults = [f"{names.get(name, name)}: {why}" for name, why in wrong]
            param = names.get(wrong[0][0], wrong[0][0])
            raise RequestError("; ".join(faults[:5]), "invalid_settings", param=param) from error
        most = settings.max_new_tokens
        if isinstance(most, int) and most > limits.new_tokens:
            name = names.get("max_new_tokens", "max_new_tokens")
            raise RequestError.of_field(name, f"{most} is more than this server makes, {limits.new_tokens}")
        return settings


def parsed(data: bytes | bytearray, what: str) -> dict[str, Any]:
    """A JSON object whose strings are Unicode; RequestError if `what` is none. Deep or huge JSON is refused before it is parsed."""
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise RequestError(f"{what} has more than {MOST_VALUES:,} values", "invalid_json")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{what} is not JSON ({error})", "invalid_json") from error
    if not isinstance(values, dict):
        raise RequestError(f"{what}: expected a JSON object", "invalid_json")
    for name, value in values.items():
        if not all(map(is_unicode, _strings([name, value]))):
            raise RequestError(f"{short(name)}: half a character (a lone surrogate); send whole ones", "invalid_text")
    return values


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, keys too; not recursive, since the client chooses how deep it is."""
    queue = [value]
    while queue:
        item = queue.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            queue += [*item, *item.values()]
        elif isinstance(item, list):
            queue += item


def from_base64(data: object) -> bytes:
    """Bytes; RequestError where it is not base64."""
    if not isinstance(data, str):
        raise RequestError("audio: expected a string of base64", "invalid_audio")
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:
        raise RequestError(f"audio: this is not base64 ({error})", "invalid_audio") from error


def checked_rate(rate: object, name: str = "rate") -> int:
    """A declared sample rate; `name` is its field."""
    if isinstance(rate, bool) or not isinstance(rate, int) or not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        expected = f"expected a whole number of {RATES_HZ[0]} to {RATES_HZ[1]} Hz"
        raise RequestError.of_field(name, f"{short(rate)} is no sample rate, {expected}", "invalid_audio")
    return rate


def pcm(data: bytes | bytearray, rate: int, limits: Limits) -> Samples:
    """16-bit mono PCM -> samples at 16 kHz."""
    if len(data) % 2:
        raise RequestError("audio: 16-bit PCM has an even number of bytes", "invalid_audio")
    require_length(len(data) / 2 / rate, limits)
    return resampled(from_pcm16(data)[:, None], rate)


def wav(data: bytes | bytearray, limits: Limits) -> Samples:
    """A wav file -> samples at 16 kHz. Other formats are not decoded for strangers: their decoders are large, and their headers lie."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise RequestError("audio: expected a wav file (RIFF); convert other formats first", "unsupported_audio", 415)
    try:
        with soundfile.SoundFile(BytesIO(data)) as file:
            rate, channels = file.samplerate, file.channels
            if file.subtype not in PLAIN:
                raise RequestError(
                    f"audio: a wav of {file.subtype}; expected one of {', '.join(PLAIN)}", "unsupported_audio", 415
                )
            if not MIN_RATE <= rate <= MAX_RATE or channels > 2:
                raise RequestError(
                    f"audio: {rate} Hz and {channels} channels; expected 4 to 192 kHz and one or two", "invalid_audio"
                )
            require_length(file.frames / rate, limits)
            samples_NC = file.read(int(limits.prompt_s * rate) + 1, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise RequestError(f"audio: this wav cannot be read ({error})", "invalid_audio") from error
    if np.abs(samples_NC).max(initial=0) > LOUDEST:
        raise RequestError("audio: its samples are far from between -1 and 1", "invalid_audio")
    return resampled(samples_NC, rate)


def resampled(samples_NC: Samples, rate: int) -> Samples:
    """Mono at 16 kHz."""
    return to_mono_16k(samples_NC, rate, "audio")


def require_length(seconds: float, limits: Limits) -> None:
    """RequestError where audio is longer than the server takes."""
    if seconds > limits.prompt_s:
        raise RequestError(
            f"audio: {seconds:.1f} s; this server takes {limits.prompt_s:g} s at most", "audio_too_long", 413
        )


def require_text(text: object, limits: Limits, name: str) -> str:
    """Text of a prompt; `name` is its field."""
    if not isinstance(text, str) or not text:
        raise RequestError(f"{name}: expected a string that is not empty", "invalid_text")
    if len(text) > limits.prompt_characters:
        raise RequestError(
            f"{name}: {len(text)} characters; this server takes {limits.prompt_characters} at most",
            "text_too_long",
            413,
        )
    return text


def require_sound(samples: Samples) -> None:
    """RequestError if there is no sound."""
    if len(samples) < SHORTEST_S * SAMPLE_RATE:
        raise RequestError(
            f"audio: {len(samples) / SAMPLE_RATE:.2f} s is too short to hear anything in it", "audio_too_short"
        )
    if np.abs(samples).max() < SILENCE:
        raise RequestError("audio: it is silent; is the microphone on, and the right one?", "audio_silent")
