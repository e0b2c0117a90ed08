"""`tinywave generate`: an exported model continues audio and text with text, speech or both."""

import json
from collections.abc import Sequence
from pathlib import Path

from tinywave_core.config.generation import GenerationConfig
from tinywave_core.tokenizers.prompts import OutputModality


def generate(
    model: str,
    prompts: Sequence[tuple[str, str]],
    examples: Sequence[tuple[str, str]],
    output: OutputModality,
    config: GenerationConfig,
    spiritlm_dir: str | None,
    device: str,
    wav: str | None,
) -> int:
    """Print {prompt, output, text, new_tokens, seconds, wav} as JSON; write the speech of the continuation to `wav`."""
    import soundfile

    from tinywave_core.storage.schemas import SAMPLE_RATE
    from tinywave_core.synthesis.generator import Audio, Generator, Input, Text

    def given(kind: str, value: str) -> Input:
        return Audio(value) if kind == "audio" else Text(value)

    generator = Generator.load(model, spiritlm_dir, device)
    # Examples are audio and text; the prompt says which of them comes first.
    writes_down = prompts[-1][0] == "audio"
    pairs = [(Audio(audio), Text(text)) if writes_down else (Text(text), Audio(audio)) for audio, text in examples]
    made = generator([given(*each) for each in prompts], output, config, pairs)
    if wav and len(made.audio):
        Path(wav).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wav, made.audio, SAMPLE_RATE, subtype="PCM_16")
    about = {
        "prompt": made.prompt,
        "output": made.output,
        "text": made.text,
        "new_tokens": made.new_tokens,
        "seconds": round(len(made.audio) / SAMPLE_RATE, 3),
        "wav": wav if wav and len(made.audio) else None,
    }
    print(json.dumps(about, ensure_ascii=False, indent=1))
    return 0
