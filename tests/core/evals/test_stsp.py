"""STSP: its references, labels as sentiments, classifiers of text, and figures by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.judges import write_text_classifier
from tinywave_core.errors import ConfigError, SourceError
from tinywave_core.evals import sentiment_kept
from tinywave_core.evals.benchmark import SpeechLM
from tinywave_core.evals.intervals import wilson_interval
from tinywave_core.evals.pair_tokens import Heard, prompt_tokens
from tinywave_core.evals.sentiment_kept import direction
from tinywave_core.evals.sentiments import SentimentClassifier, sentiment_of, table_with, text_classifier
from tinywave_core.evals.suites.stsp import Reference, read_references, write_predictions
from tinywave_core.progress import no_progress
from tinywave_core.tokenizers.speech import Streams
from tinywave_core.tokenizers.vocabulary import Vocabulary

TABLE = table_with([])


def written(folder: Path, *rows: dict) -> Path:
    (folder / "wavs").mkdir(exist_ok=True)
    for name in ("a.wav", "b.wav"):
        (folder / "wavs" / name).touch()
    path = folder / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def row(**changes: object) -> dict:
    return {"id": "1", "sentiment": "positive", "wav_path": "wavs/a.wav", "asr": " how nice "} | changes


def test_references_have_sentiments_or_emotions_and_recordings_beside_them_or_elsewhere(tmp_path: Path):
    second = {"id": 2, "emotion": "Sad", "wav_path": str(tmp_path / "wavs" / "b.wav"), "asr": None}
    path = written(tmp_path, row(), second)
    assert read_references(path, TABLE) == [
        Reference("1", "positive", tmp_path / "wavs" / "a.wav", "how nice"),
        Reference("2", "negative", tmp_path / "wavs" / "b.wav", ""),
    ]


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        (
            [row(wav_path="wavs/none.wav")],
            SourceError,
            "names 1 of 1 recordings that are not there, such as .*none.wav",
        ),
        ([row(), row()], SourceError, "test.jsonl:2: the id '1' is there already"),
        ([{"id": 1, "asr": ""}], SourceError, "test.jsonl:1 has no wav_path, sentiment or emotion"),
        (
            [row(sentiment="surprised")],
            ConfigError,
            "test.jsonl:1 has the label 'surprised'.*--sentiment-of surprised=",
        ),
        ([], SourceError, "has no lines"),
    ],
)
def test_what_are_no_references_is_refused_by_its_line(tmp_path: Path, changed: list[dict], error: type, said: str):
    with pytest.raises(error, match=said):
        read_references(written(tmp_path, *changed), TABLE)


def test_what_a_label_stands_for_can_be_said():
    assert sentiment_of("HAP", TABLE, "") == "positive" and "sleepiness" not in TABLE
    assert sentiment_of("Label_0", table_with(["LABEL_0=negative"]), "") == "negative"
    assert sentiment_of("happy", table_with(["happy=neutral"]), "") == "neutral"
    with pytest.raises(ConfigError, match="'LABEL_0=bad' maps no label"):
        table_with(["LABEL_0=bad"])


def test_labels_of_one_sentiment_count_together():
    # Each of the two is less likely than neutral alone.
    classifier = SentimentClassifier(
        Path("x"), "", ("negative", "neutral", "negative"), lambda _: np.array([0.3, 0.4, 0.3])
    )
    assert classifier("") == "negative"
    with pytest.raises(ConfigError, match="x never says positive"):
        classifier.require({"positive", "neutral"})


def test_what_has_no_sentiment_is_wrong_and_counted():
    references = [
        Reference(str(i), s, Path(), "") for i, s in enumerate(["positive", "positive", "neutral", "negative"])
    ]
    found = direction("S→T", references, ["positive", "no words", "no words", "neutral"])
    assert (found.items, found.right, found.accuracy) == (4, 1, 0.25)
    assert found.failures == {"no words": 2} and found.interval == wilson_interval(1, 4)
    assert found.predictions == [("0", "positive"), ("1", None), ("2", None), ("3", "neutral")]


def test_a_prompt_ends_with_the_marker_of_what_is_to_follow_where_that_is_another_modality():
    vocabulary = Vocabulary(text=259, hubert=4)
    letters = [3 + ord(letter) for letter in "ab"]
    ids = {
        output: prompt_tokens("ab", output, {}, vocabulary, lambda text: [3 + b for b in text.encode()]).ids.tolist()
        for output in ("text", "speech")
    }
    assert ids == {"text": [1, 259, *letters], "speech": [1, 259, *letters, 260]}
    wav, none = Path("a.wav"), np.zeros(0, np.int64)
    heard = {(wav,): Heard(Streams(np.array([2, 2, 3]), none, none), 0)}
    spoken = {o: prompt_tokens(wav, o, heard, vocabulary, lambda _: []).ids.tolist() for o in ("text", "speech")}
    units = [vocabulary.first["hubert"] + 2, vocabulary.first["hubert"] + 3]
    assert spoken == {"text": [1, 260, *units, 259], "speech": [1, 260, *units]}


def test_predictions_are_written_for_every_id(tmp_path: Path):
    write_predictions(tmp_path / "p" / "s2t.jsonl", [("a", "positive"), ("b", None)])
    lines = (tmp_path / "p" / "s2t.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"id": "a", "pred": "positive"}, {"id": "b", "pred": None}]


def test_a_classifier_of_text_has_the_probabilities_of_transformers(tmp_path: Path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = write_text_classifier(tmp_path / "text", ("NEG", "neu", "POS"))
    ids = AutoTokenizer.from_pretrained(folder)("the sea is calm", return_tensors="pt")["input_ids"]
    expected = AutoModelForSequenceClassification.from_pretrained(folder)(ids).logits.softmax(-1)[0]
    classifier = text_classifier(folder, TABLE, "cpu")
    assert classifier.sentiments == ("negative", "neutral", "positive")
    torch.testing.assert_close(torch.from_numpy(classifier.classify("the sea is calm")).float(), expected.detach())
    assert np.isfinite(classifier.classify("the sea " * 200)).all()  # more than it reads is cut
    with pytest.raises(ConfigError, match="has the label 'LABEL_0'"):
        text_classifier(write_text_classifier(tmp_path / "nameless", ("LABEL_0", "POS")), TABLE, "cpu")


@pytest.mark.parametrize(("name", "kinds"), [("S→T", {"text"}), ("T→T", {"text"}), ("T→S", {"speech"})])
def test_a_continuation_has_ids_of_what_its_direction_gives_only(
    monkeypatch: pytest.MonkeyPatch, name: str, kinds: set[str]
):
    """A model of random weights would say anything; its prompt, and what is asked for, are of different modalities in S→T and T→S."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    vocabulary = Vocabulary(text=259, hubert=4)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "max_position_embeddings": 256}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary.rows, num_hidden_layers=1, **sizes)).eval()
    first = vocabulary.first["hubert"]
    spoken = np.array([1, 260, first, first + 1, *([259] if name == "S→T" else [])])
    prompts = [spoken if name[0] == "S" else np.array([1, 259, 100, 101, *([260] if name == "T→S" else [])])] * 8
    monkeypatch.setattr(sentiment_kept, "_prompts", lambda *_: prompts)
    lm = SpeechLM(Path(), model, vocabulary, lambda _: [], "", None, {})
    given: list[int] = []
    references = [Reference(str(i), "neutral", Path(), "ab") for i in range(8)]
    hear = lambda ids: given.extend(map(int, ids)) or "neutral"
    assert sentiment_kept._answers(lm, references, name, 0, hear, no_progress) == ["neutral"] * 8
    assert len(given) > 10 and {"text" if i < 259 else "speech" if i >= first else "marker" for i in given} == kinds
