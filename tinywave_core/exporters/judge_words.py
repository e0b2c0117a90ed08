"""How it sounds, in words and a table: what each judge can say and what it cannot, and which of them is absent."""

from collections.abc import Mapping

from tinywave_core.evals.dnsmos import INSTALL
from tinywave_core.evals.figures import Heard, Judges, Mean, WordErrors
from tinywave_core.wording import MODELS, with_interval

HEARD = {
    "original": "original recordings",
    "resynthesis": "the same through the vocoder",
    **{name: f"continued by {label}" for name, label in MODELS.items()},
    "stranger": "originals of other speakers",
}
_SAYS = {
    "dnsmos": (
        "DNSMOS guesses, from sound alone, what listeners would say of the speech (SIG), the background (BAK) and all of it (OVRL), "
        "1 to 5: it knows neither words nor speakers, so that MOS alone rewards a smooth wrong voice."
    ),
    "asr": (
        "Word errors say how many words a recogniser no longer gets right, and nothing of how they sound; its own errors are in them "
        "(the row of the originals). A continuation has no right text."
    ),
    "speaker_model": (
        "Likeness of voices is a cosine with the voice in the first half of the original, and says nothing of words or sound: the "
        "originals' own second half is the ceiling, other speakers are the floor."
    ),
}
_GET = {
    "dnsmos": f"DNSMOS ({INSTALL})",
    "asr": "word errors (--evaluation.generated.asr DIR, a Whisper or Wav2Vec2ForCTC)",
    "speaker_model": "likeness of voices (--evaluation.judges.speaker_model DIR, a WavLMForXVector or its like)",
}


def judges_text(judges: Judges | None) -> str:
    """What was judged, what each judge means, and how to get those that are absent."""
    there: Mapping[str, str] = {} if judges is None else judges.judges
    absent = [how for name, how in _GET.items() if name not in there]
    lacking = f"Absent: {'; '.join(absent)}." if absent else ""
    if judges is None:
        return f"How it sounds was not judged. {lacking}"
    if judges.why:
        return f"How it sounds was not judged: {judges.why}. {lacking}".strip()
    heard = f"{judges.utterances} held-out originals, the same through the vocoder ({judges.vocoder}), and continuations through it."
    return " ".join([heard, *(said for name, said in _SAYS.items() if name in there), *([lacking] if lacking else [])])


def judges_rows(judges: Judges | None, names: Mapping[str, str] = HEARD) -> list[dict[str, str]]:
    """Judge by what was heard, a dict per source; columns of absent judges are left out."""
    if judges is None:
        return []
    return [_row(names[source], heard, judges.judges) for source, heard in judges.sources.items()]


def _row(name: str, heard: Heard, there: Mapping[str, str]) -> dict[str, str]:
    row = {
        "what was heard": name,
        "clips": str(heard.clips),
        "silent clips": str(heard.silent),
        "seconds each": f"{heard.seconds:.1f}",
    }
    if "dnsmos" in there:
        row |= {
            label: _mean(mean, ".2f")
            for label, mean in (
                ("speech (SIG)", heard.sig),
                ("background (BAK)", heard.bak),
                ("overall (OVRL)", heard.ovrl),
            )
        }
    if "asr" in there:
        row["word errors against transcripts"] = _errors(heard.wer)
        row["word errors against what is heard in originals"] = _errors(heard.wer_heard)
    if "speaker_model" in there:
        row["likeness of voices"] = _mean(heard.similarity, ".3f")
    return row


def _mean(mean: Mean | None, form: str) -> str:
    return "–" if mean is None else with_interval(mean.value, mean.interval, form)


def _errors(errors: WordErrors | None) -> str:
    if errors is None:
        return "–"
    return f"{with_interval(errors.rate, errors.interval, '.1%')}, {errors.errors:,} of {errors.words:,} words"


def heard_briefly(judges: Judges | None) -> str:
    """Half a line: resynthesis beside originals by each judge; empty where nothing was judged."""
    if judges is None or judges.why:
        return "how it sounds was not judged"
    original, again = judges.sources["original"], judges.sources["resynthesis"]
    said = []
    if original.ovrl and again.ovrl:
        said.append(f"DNSMOS {again.ovrl.value:.2f} of the originals' {original.ovrl.value:.2f}")
    if errors := again.wer or again.wer_heard:
        beside = (
            f" (originals {original.wer.rate:.0%})"
            if again.wer and original.wer
            else " against what is heard in originals"
        )
        said.append(f"word errors {errors.rate:.0%}{beside}")
    if original.similarity and again.similarity:
        said.append(f"likeness of voices {again.similarity.value:.2f} of {original.similarity.value:.2f}")
    return f"resynthesis: {', '.join(said)}"
