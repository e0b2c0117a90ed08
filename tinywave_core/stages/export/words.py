"""The exported model and its voice in words and tables."""

from tinywave_core.counts import count
from tinywave_core.stages.export.summary import ModelSummary, VocoderSummary
from tinywave_core.wording import duration, figure


def vocoder_rows(vocoder: VocoderSummary) -> list[dict[str, str]]:
    """How close the voice comes to held-out recordings, beside what it is to be measured by; a dict per row."""
    names = {
        "voice": "voice",
        "floor": "floor: another recording's speech",
        "ceiling": "ceiling: the recording from its own mel spectrum",
    }
    return [
        {
            "speech": names[name],
            "log-mel correlation": f"{figures.likeness:.3f}",
            "mel-cepstral distance, dB": f"{figures.cepstral_distance_db:.2f}",
        }
        for name, figures in vocoder.quality.vocoders.items()
    ]


def voice_text(vocoder: VocoderSummary) -> str:
    """Whose recordings speak, as in "2033 (1.4 min of 14 recordings)"; of a network what it learned from."""
    if trained := vocoder.trained:
        names = ", ".join(voice.name for voice in vocoder.voices)
        return f"HiFi-GAN of {trained.parameters / 1e6:.1f} M parameters, {count(trained.steps, 'step')} on {duration(trained.hours)}: {names}"
    return ", ".join(
        f"{voice.name} ({voice.seconds / 60:.1f} min of {count(len(voice.recordings), 'recording')}"
        + (f" of {count(len(voice.speakers), 'speaker')})" if len(voice.speakers) > 1 else ")")
        for voice in vocoder.voices
    )


def rounding_losses(model: ModelSummary) -> str:
    """What the GGUF files of an export lose in perplexity, as in "; GGUF Q8_0 +0.01%"."""
    losses = ", ".join(f"{name.upper()} {figure(loss, '+.2%')}" for name, loss in model.perplexity.loss.items())
    return f"; perplexity of GGUF {losses}" if losses else ""
