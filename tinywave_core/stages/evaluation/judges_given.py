"""Which judges of audio there are for a config: their files are found and known by digests. Nothing is loaded."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.checkpoints.spiritlm import check_file, digest_of
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError, MissingInputError
from tinywave_core.evals.dnsmos import chosen_dnsmos

_IDENTIFYING = (".json", ".safetensors", ".txt", ".model")


@dataclass(frozen=True)
class GivenJudges:
    """Where they lie; None is absent."""

    dnsmos: Path | None = None
    asr: Path | None = None
    speaker_model: Path | None = None

    def __bool__(self) -> bool:
        return any(path is not None for path in asdict(self).values())

    def digests(self) -> dict[str, str]:
        """SHA-256 of each judge that is there, by name."""
        found = {}
        if self.dnsmos is not None:
            found["dnsmos"] = sha256_once(self.dnsmos)
        for name in ("asr", "speaker_model"):
            folder = getattr(self, name)
            if folder is not None:
                found[name] = digest_of(files_of(folder))
        return found

    def places(self) -> dict[str, str]:
        """Their paths, for the step that loads them."""
        return {name: str(path) for name, path in asdict(self).items() if path is not None}


def given_judges(config: PipelineConfig) -> GivenJudges:
    """The judges that these settings ask for and that are there."""
    asked, asr = config.evaluation.judges, config.evaluation.generated.asr
    if not asked.items:
        return GivenJudges()
    speaker_model = Path(asked.speaker_model) if asked.speaker_model else None
    return GivenJudges(chosen_dnsmos(asked.dnsmos), Path(asr) if asr else None, speaker_model)


def files_of(folder: Path) -> list[Path]:
    """The files that decide what a model of transformers computes."""
    return sorted(path for path in folder.iterdir() if path.suffix in _IDENTIFYING)


def check_judges(config: PipelineConfig) -> None:
    """Refuse what is no judge before anything is trained; the recogniser is checked with what is generated."""
    from tinywave_core.evals.voices import ARCHITECTURES

    folder = given_judges(config).speaker_model
    if folder is None:
        return
    setting = f"evaluation.judges.speaker_model {str(folder)!r}"
    expected = f"expected the directory of one of {', '.join(ARCHITECTURES.values())}"
    if not (folder / "config.json").is_file():
        raise MissingInputError(f"{setting} has no config.json; {expected}")
    check_file(folder / "config.json")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    architectures = (settings.get("architectures") if isinstance(settings, dict) else None) or []
    if kind not in ARCHITECTURES:
        raise CheckpointError(f"{setting} has a model of type {kind!r:.60}; {expected}")
    if architectures and ARCHITECTURES[kind] not in architectures:
        raise CheckpointError(f"{setting} has the architectures {architectures!r:.80}; {expected}")
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(
            f"{setting} has no *.safetensors (other formats can run code, and are not opened); {expected}"
        )
    for path in weights:
        check_file(path)
