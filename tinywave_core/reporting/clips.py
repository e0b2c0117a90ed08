"""Audio that plays inside the page."""

import base64
import io

from tinywave_core import plots


def clip_data(wav: bytes) -> tuple[str, str]:
    """A wav file as (MP3, spectrogram) data URIs: 40 kbit/s, about 7 kB of page per second."""
    import soundfile

    wave, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    mp3 = io.BytesIO()
    soundfile.write(mp3, wave, rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.8)
    return data_uri(mp3.getvalue(), "audio/mpeg"), data_uri(plots.spectrogram_png(wave, rate), "image/png")


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes as a URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
