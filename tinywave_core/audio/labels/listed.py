"""Label files that are lists of lines without a header: LibriSpeech, MLS, LJSpeech and its kin, Kaldi's data folders -> claims."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tinywave_core.audio.labels import channels
from tinywave_core.audio.labels.claims import Claim, LabelFile
from tinywave_core.audio.labels.matching import AUDIO_ENDING
from tinywave_core.audio.labels.tables import is_header, literal_fields
from tinywave_core.audio.labels.text import lines

LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_]\w{2,4})?")
_LOOKED_AT = 50  # lines, to see whether a file is made of columns


def has_columns(text: str, delimiter: str) -> bool:
    """Whether most lines of a file are an id and words: no header of a table, no lengths, no paths."""
    rows = [literal_fields(line, delimiter) for line in lines(text)[:_LOOKED_AT]]
    if not rows or any(len(row) < 2 for row in rows) or is_header(rows[0]):
        return False
    return sum(any(map(str.isalpha, row[-1])) and not AUDIO_ENDING.search(row[-1]) for row in rows) > len(rows) / 2


def spaced(file: LabelFile) -> Iterator[Claim]:
    """LibriSpeech: "id WORDS" per line."""
    for line in lines(file.text):
        name, *words = line.split(maxsplit=1)
        yield Claim(name, transcript=words[0] if words else None)


def piped(file: LabelFile) -> Iterator[Claim]:
    """LJ Speech: "id|text", "id|text|normalised"; piper and Coqui: "id|speaker|text"; with a language as third of four columns."""
    return columns(file.text, "|")


def tabbed(file: LabelFile) -> Iterator[Claim]:
    """MLS: "id TAB text"; LibriTTS: "id TAB original TAB normalised"; or a speaker in the middle."""
    return columns(file.text, "\t")


def columns(text: str, delimiter: str) -> Iterator[Claim]:
    """Claims of lines of two columns or more."""
    rows = [literal_fields(line, delimiter) for line in lines(text)]
    speakers = second_is_speaker(rows)
    for row in rows:
        if len(row) == 1:
            yield Claim(row[0], problem="malformed")
        elif len(row) == 2:
            yield Claim(row[0], transcript=row[1])
        elif speakers:
            yield Claim(row[0], speaker=row[1], transcript=row[-1])
        else:
            yield Claim(row[0], transcript=row[2] or row[1])


def second_is_speaker(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the second column names speakers: it never is the text, and has single words where texts have several, or few names.

    In LJ Speech the second column is the text as it is written, and the third as it is read.
    """
    wide = [row for row in rows if len(row) > 2]
    if not wide or any(row[1].casefold() == row[-1].casefold() for row in wide):
        return False
    if all(len(row) > 3 and LANGUAGE.fullmatch(row[2]) for row in wide):
        return True
    names = {row[1] for row in wide}
    single = not any(" " in name for name in names) and any(" " in row[-1] for row in wide)
    return single or (len(wide) >= 4 and len(names) <= len(wide) / 2)


# Kaldi ------------------------------------------------------------------------------------------------------------


def kaldi(file: LabelFile) -> Iterator[Claim]:
    """A data folder by its `wav.scp` ("recording path"), with `text`, `utt2spk`, `segments` and `reco2file_and_channel` beside
    it. No command is run."""
    beside = dict[str, Mapping[str, str]]()
    for name in ("text", "utt2spk", "segments", "reco2file_and_channel"):
        try:
            beside[name] = _by_first_word(file.beside(name))
        except UnicodeError:
            beside[name] = {}
            yield Claim(name, problem="not UTF-8")
    texts, speakers, segments, files = beside.values()
    names = {recording: place.split(" ")[-1].lower() for recording, place in files.items()}
    channel_of = channels.numbers(names.values())
    utterances = defaultdict[str, list[str]](list)
    for utterance, place in segments.items():
        utterances[place.split(" ")[0]].append(utterance)
    for recording, path in _by_first_word(file.text).items():
        own = utterances.get(recording, []) if segments else [recording]
        said_by = {speakers[utterance] for utterance in own if utterance in speakers}
        speaker = said_by.pop() if len(said_by) == 1 else None
        channel = channel_of.get(names.get(recording, ""))
        if path.endswith("|") or path.startswith("|"):
            yield Claim(recording, problem="command")
        elif segments:
            yield Claim(path, speaker, channel=channel)
            for name in own:
                span = _span(segments[name])
                yield Claim(path, None, texts.get(name), "segment" if name in texts else "", span, channel)
        else:
            yield Claim(path, speaker, texts.get(recording), channel=channel)
    for name in sorted(name for name, number in channel_of.items() if number is None):
        yield Claim(f"reco2file_and_channel: channel {name}", problem=channels.UNCLEAR)


def _span(segment: str) -> tuple[float, float] | None:
    """Of "recording start end"."""
    try:
        start, stop = map(float, segment.split()[1:3])
    except ValueError:
        return None
    return (start, stop) if 0 <= start < stop < math.inf else None


def _by_first_word(text: str) -> Mapping[str, str]:
    pairs = (line.split(maxsplit=1) for line in lines(text))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
