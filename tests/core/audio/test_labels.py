"""Layouts of labels, each on a small folder that is shaped like the corpus: speaker and transcript of every recording."""

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.core.audio.test_sidecars import labels, told
from tinywave_core.audio.labels.layouts import BESIDE, LAYOUTS, speaker_in_path
from tinywave_core.audio.labels.matching import Recordings
from tinywave_core.audio.sidecars import Label, Labels


def pairs(found: Labels) -> dict[str, tuple[str | None, str | None]]:
    """Speaker and transcript by path."""
    return {path: (label.speaker, label.transcript) for path, label in found.by_path.items()}


def rows(*records: dict) -> str:
    """JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


# Tables with named columns -----------------------------------------------------------------------------------------

COMMON_VOICE = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\n"


def test_common_voice(tmp_path: Path) -> None:
    """After coqui-ai/STT #2321, pytorch/audio #2838 and lhotse #1325: quotes stand for themselves, clips are in several tables."""
    train = COMMON_VOICE + 'A\tcv_1.mp3\ti\t"Well," he said.\t\t2\nA\tcv_2.mp3\ti\t" Unbalanced quote\t\t2\n'
    files = {
        "cv/xx/train.tsv": train,
        "cv/xx/validated.tsv": train + "B\tcv_3.mp3\ti\tPlain.\t\t2\n",
        "cv/xx/test.tsv": COMMON_VOICE + "B\tcv_3.mp3\ti\tPlain.\t\t2\n",
        "cv/xx/other.tsv": COMMON_VOICE + "C\tcv_4.mp3\ti\tA \u2028 line.\t\t0\n",
        "cv/xx/invalidated.tsv": COMMON_VOICE + "D\tcv_5.mp3\ti\tGone.\t\t0\n",
        "cv/xx/clip_durations.tsv": "clip\tduration[ms]\ncv_1.mp3\t4000\n",
    }
    found = labels(tmp_path, files | {f"cv/xx/clips/cv_{number}.mp3": "" for number in range(1, 5)})
    assert list(pairs(found).values()) == [
        ("A", '"Well," he said.'),
        ("A", '" Unbalanced quote'),
        ("B", "Plain."),
        ("C", "A line."),
    ]
    assert found.orphans == ("cv/xx/invalidated.tsv: cv_5.mp3",)
    assert found.report.origins[0].layout == "Common Voice"
    assert told(found) == {}


def test_common_voice_converted_to_another_format(tmp_path: Path) -> None:
    found = labels(tmp_path, {"clips/cv_1.flac": "", "train.tsv": COMMON_VOICE + "A\tcv_1.mp3\ti\tHi.\t\t2\n"})
    assert pairs(found) == {"clips/cv_1.flac": ("A", "Hi.")}


def test_audiofolder_with_one_table_per_folder(tmp_path: Path) -> None:
    """After huggingface/datasets #5465, #5046 and #7856."""
    files = {
        "data/train/a.flac": "",
        "data/test/b.flac": "",
        "data/test/sub/c.flac": "",
        "data/train/metadata.csv": 'file_name,speaker_id,transcription\na.flac,s0,"hello, you"\n',
        "data/test/metadata.jsonl": rows(
            {"file_name": "b.flac", "text": "bye", "speaker": 7},
            {"file_name": "sub/c.flac", "sentence": "ciao", "speaker": None},
        ),
    }
    found = labels(tmp_path, files)
    assert pairs(found) == {
        "data/test/b.flac": ("7", "bye"),
        "data/test/sub/c.flac": (None, "ciao"),
        "data/train/a.flac": ("s0", "hello, you"),
    }
    assert found.report.origins[0].layout == "audiofolder"


def test_audiofolder_with_a_parquet_table(tmp_path: Path) -> None:
    table = pa.table({"file_name": ["a.wav"], "Transcription": ["hello"], "scores": [[1.0, 2.0]]})
    pq.write_table(table, tmp_path / "metadata.parquet")
    assert pairs(labels(tmp_path, {"a.wav": ""})) == {"a.wav": (None, "hello")}


def test_nemo_manifest_of_a_corpus_that_was_moved(tmp_path: Path) -> None:
    manifest = rows(
        {"audio_filepath": "/home/bob/corpus/wavs/a.wav", "duration": 1.2, "text": "one", "speaker": "s1"},
        {"audio_filepath": "C:\\data\\corpus\\wavs\\b.wav", "duration": 1.2, "text": "two", "offset": 0},
    )
    found = labels(tmp_path, {"wavs/a.wav": "", "wavs/b.wav": "", "manifests/train.json": manifest})
    assert pairs(found) == {"wavs/a.wav": ("s1", "one"), "wavs/b.wav": (None, "two")}
    assert found.report.origins[0].layout == "NeMo manifest"


def test_parts_of_a_recording_with_beginning_and_end_are_its_segments(tmp_path: Path) -> None:
    manifest = rows(
        {"audio_filepath": "a.wav", "offset": 2.0, "duration": 2, "text": "two", "speaker": "s1"},
        {"audio_filepath": "a.wav", "offset": 0.0, "duration": 2, "text": "one", "speaker": "s1"},
        {"audio_filepath": "b.wav", "offset": 3.5, "end": 4, "text": "three", "speaker": "s2"},
        {"audio_filepath": "c.wav", "offset": 0, "duration": 9, "text": "all of it", "speaker": "s2"},
        {"audio_filepath": "d.wav", "offset": 1, "duration": 1, "text": "mine", "speaker": "s3"},
        {"audio_filepath": "d.wav", "offset": 2, "duration": 1, "text": "yours", "speaker": "s4"},
    )
    found = labels(tmp_path, {"a.wav": "", "b.wav": "", "c.wav": "", "d.wav": "", "train.jsonl": manifest})
    assert found.by_path == {
        "a.wav": Label("s1", None, ((0.0, 2.0, "one"), (2.0, 4.0, "two"))),
        "b.wav": Label("s2", None, ((3.5, 4.0, "three"),)),
        "c.wav": Label("s2", "all of it"),
        "d.wav": Label(None, None, ((1.0, 2.0, "mine"), (2.0, 3.0, "yours"))),
    }
    assert told(found) == {"several speakers": (1, ("train.jsonl: d.wav",))}
    assert found.report.transcripts == 4
    assert [(origin.layout, origin.transcripts) for origin in found.report.origins] == [("NeMo manifest", 4)]


@pytest.mark.parametrize("times", [{"offset": 3.5}, {"offset": 3.5, "end": 3.5}, {"offset": 3.5, "duration": "x"}])
def test_parts_whose_end_is_not_known_give_their_speaker_and_are_told(tmp_path: Path, times: dict[str, object]) -> None:
    row = {"audio_filepath": "a.wav", "text": "three", "speaker": "s2", **times}
    found = labels(tmp_path, {"a.wav": "", "train.jsonl": rows(row)})
    assert found.by_path == {"a.wav": Label("s2", None)}
    assert told(found) == {"segment": (1, ("train.jsonl: a.wav",))}


def test_lines_that_are_no_json_are_named_and_the_others_read(tmp_path: Path) -> None:
    found = labels(tmp_path, {"a.wav": "", "t.jsonl": '{"audio_filepath": "a.wav", "text": "one"}\n{"audio_file\n'})
    assert pairs(found) == {"a.wav": (None, "one")}
    assert told(found) == {"malformed": (1, ("t.jsonl: line 2",))}


def test_voxpopuli(tmp_path: Path) -> None:
    table = (
        "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\n"
        "2018-PLENARY_1\tThank you, Mr President.\tthank you mr president\t1234\ttrain\tmale\n"
        "2018-PLENARY_2\tYes.\t\tNone\ttrain\tmale\n"
    )
    folder = "transcribed_data/en"
    audio = {f"{folder}/2018/2018-PLENARY_{number}.ogg": "" for number in (1, 2)}
    found = labels(tmp_path, {f"{folder}/asr_train.tsv": table, **audio})
    assert list(pairs(found).values()) == [("1234", "thank you mr president"), (None, "Yes.")]
    assert found.report.origins[0].layout == "VoxPopuli"


def test_emilia_beside_the_audio_and_as_lines(tmp_path: Path) -> None:
    record = {"id": "EN_B0_S0_W0", "wav": "EN_B0/EN_B0_S0/mp3/EN_B0_S0_W0.mp3", "text": " Hi.", "speaker": "EN_B0_S0"}
    beside = {"x/EN_B0_S0_W0.mp3": "", "x/EN_B0_S0_W0.json": json.dumps(record)}
    assert pairs(labels(tmp_path / "beside", beside)) == {"x/EN_B0_S0_W0.mp3": ("EN_B0_S0", "Hi.")}
    listed = {"EN_B0/EN_B0_S0/mp3/EN_B0_S0_W0.mp3": "", "EN_B0.jsonl": rows(record)}
    assert list(pairs(labels(tmp_path / "listed", listed)).values()) == [("EN_B0_S0", "Hi.")]


def test_gigaspeech_and_peoples_speech(tmp_path: Path) -> None:
    giga = {
        "dataset": "x",
        "audios": [
            {
                "path": "audio/p/A.opus",
                "segments": [
                    {"sid": "A_2", "begin_time": 9.25, "end_time": 10, "text_tn": "<MUSIC>", "speaker": "N"},
                    {
                        "sid": "A_1",
                        "begin_time": 3.2,
                        "end_time": 5.5,
                        "text_tn": "PART <COMMA> OF IT <PERIOD>",
                        "speaker": "N",
                    },
                ],
            }
        ],
    }
    people = {"identifier": "y", "training_data": {"name": ["y/1.flac"], "label": ["all of it"], "duration_ms": [9]}}
    files = {
        "audio/p/A.opus": "",
        "y/1.flac": "",
        "GigaSpeech.json": json.dumps(giga),
        "train.json": rows(people, people),
    }
    found = labels(tmp_path, files)
    assert found.by_path == {
        "audio/p/A.opus": Label("N", None, ((3.2, 5.5, "PART, OF IT."),)),
        "y/1.flac": Label(None, "all of it"),
    }
    assert told(found) == {}


@pytest.mark.parametrize(
    "table",
    [
        "wav_filename,wav_filesize,transcript\na.wav,9,hello\n",
        "audio_file|text|speaker_name\na.wav|hello|\n",
        "Path;Transcript\na.wav;hello\n",
        '\ufeff"file name"\t"Text"\na.wav\t"hello"\n',
        "id\tsentence\na\thello\n",
    ],
)
def test_other_tables_are_read_by_their_header(tmp_path: Path, table: str) -> None:
    assert labels(tmp_path, {"a.wav": "", "train.csv": table}).by_path["a.wav"].transcript in ("hello", '"hello"')


def test_words_with_times_are_no_transcripts(tmp_path: Path) -> None:
    words = "path,word,start_s,end_s,speaker\na.wav,hello,0,1,Ann\n"
    found = labels(tmp_path, {"a.wav": "", "words.csv": words})
    assert pairs(found) == {"a.wav": (None, None)}
    assert found.report.unread.first == ("words.csv",)


# Lists -------------------------------------------------------------------------------------------------------------


def test_ljspeech_variants(tmp_path: Path) -> None:
    """After rhasspy/piper #246 and coqui-ai/TTS #1224: an ending, a folder, quotes as CSV has them."""
    table = (
        '\ufeff"q"|"She said ""go"""|"She | said"\n'
        "ext.flac|one|one\n"
        "wavs/pathed.flac|two|two\n"
        'plain|"It is literal."|\n'
        'half|He said "no"|"He said ""no"""'
    )
    names = ("q", "ext", "pathed", "plain", "half")
    found = labels(tmp_path, {"metadata.csv": table, **{f"wavs/{name}.flac": "" for name in names}})
    assert {path: text for path, (_, text) in pairs(found).items()} == {
        "wavs/q.flac": "She | said",
        "wavs/ext.flac": "one",
        "wavs/pathed.flac": "two",
        "wavs/plain.flac": '"It is literal."',
        "wavs/half.flac": 'He said "no"',
    }
    assert found.orphans == ()


@pytest.mark.parametrize("folder", ["wav/", "wavs/", "clips/", ""])
def test_piper_has_the_speaker_in_the_middle(tmp_path: Path, folder: str) -> None:
    """After rhasspy/piper #368."""
    files = {"metadata.csv": "1|male0|Text one.\n2|male1|Text two.\n", f"{folder}1.flac": "", f"{folder}2.flac": ""}
    assert list(pairs(labels(tmp_path, files)).values()) == [("male0", "Text one."), ("male1", "Text two.")]


def test_a_middle_column_is_a_speaker_or_a_text(tmp_path: Path) -> None:
    few = "".join(f"{number}|Jane Doe|Text {number}.\n" for number in range(4))
    audio = {f"{number}.wav": "" for number in range(4)}
    assert labels(tmp_path / "few", {"metadata.csv": few, **audio}).by_path["0.wav"] == Label("Jane Doe", "Text 0.")
    read = "0|Dr. A|Doctor A\n1|Yes.|Yes.\n"
    assert labels(tmp_path / "read", {"metadata.csv": read, **audio}).by_path["0.wav"] == Label(None, "Doctor A")
    words = "0|five|five\n1|six|six\n"
    assert labels(tmp_path / "words", {"metadata.csv": words, **audio}).by_path["0.wav"] == Label(None, "five")
    four = "wavs/0.wav|ann|EN|Text.\nwavs/1.wav|bob|EN|Word.\n"
    assert labels(tmp_path / "four", {"train.txt": four, **audio}).by_path["0.wav"] == Label("ann", "Text.")


def test_mls(tmp_path: Path) -> None:
    files = {
        "train/audio/10/20/10_20_000001.flac": "",
        "train/transcripts.txt": "10_20_000001\tgo on\n10_20_000002\tgone\n",
        "metainfo.txt": " SPEAKER | GENDER \n 10 | M ",
        "train/segments.txt": "10_20_000001\thttp://x\t1.0\t2.0\n",
    }
    found = labels(tmp_path, files)
    assert pairs(found) == {"train/audio/10/20/10_20_000001.flac": ("10", "go on")}
    assert found.orphans == ("train/transcripts.txt: 10_20_000002",)


def test_libritts_gives_the_normalised_text(tmp_path: Path) -> None:
    stem = "train-clean/84/121/84_121_000001_000000"
    files = {f"{stem}.wav": "", f"{stem}.original.txt": "Dr. A", f"{stem}.normalized.txt": "Doctor A"}
    found = labels(tmp_path, files)
    assert list(pairs(found).values()) == [("84", "Doctor A")]
    assert (found.orphans, told(found)) == ((), {})


def test_vctk_has_texts_in_a_folder_of_their_own_and_two_microphones(tmp_path: Path) -> None:
    audio = "wav48_silence_trimmed/p225/p225_001"
    files = {
        f"{audio}_mic1.flac": "",
        f"{audio}_mic2.flac": "",
        "wav48_silence_trimmed/p226/p226_001_mic1.flac": "",
        "txt/p225/p225_001.txt": "Please call Stella.",
        "txt/p227/p227_001.txt": "Nobody.",
        "speaker-info.txt": "ID AGE",
    }
    found = labels(tmp_path, files)
    assert list(pairs(found).values()) == [
        ("p225", "Please call Stella."),
        ("p225", "Please call Stella."),
        ("p226", None),
    ]
    assert found.orphans == ("txt/p227/p227_001.txt",)


def test_speakers_are_named_by_the_places_of_known_corpora_alone() -> None:
    assert speaker_in_path("84/121/84-121-0000.opus") == ("84", "LibriSpeech")
    assert speaker_in_path("a/audio/84/121/84_121_000.flac") == ("84", "MLS, LibriTTS")
    assert speaker_in_path("VCTK/wav48/p225/p225_001.wav") == ("p225", "VCTK")
    assert speaker_in_path("84-121-0000.flac") is None
    assert speaker_in_path("2024/05/2023-05-0001.wav") is None
    assert speaker_in_path("wav48/p225/p226_001.wav") is None


# Kaldi -------------------------------------------------------------------------------------------------------------


def test_kaldi(tmp_path: Path) -> None:
    files = {
        "audio/a.wav": "",
        "audio/b.wav": "",
        "data/train/wav.scp": "u1 /corpora/x/audio/a.wav\nu2 audio/b.wav\nu3 audio/gone.wav\n",
        "data/train/text": "u1 GO ON\nu2\tSTOP\n",
        "data/train/utt2spk": "u1 s1\nu2 s2\n",
        "data/train/spk2utt": "s1 u1\ns2 u2\n",
    }
    found = labels(tmp_path, files)
    assert pairs(found) == {"audio/a.wav": ("s1", "GO ON"), "audio/b.wav": ("s2", "STOP")}
    assert found.orphans == ("data/train/wav.scp: audio/gone.wav",)


def test_a_file_of_kaldi_that_is_no_text_is_named_and_the_others_read(tmp_path: Path) -> None:
    files = {"a.wav": "", "wav.scp": "u1 a.wav\n", "text": "u1 Gr\u00fc\u00dfe".encode("cp1252"), "utt2spk": "u1 s1\n"}
    found = labels(tmp_path, files)
    assert pairs(found) == {"a.wav": ("s1", None)}
    assert told(found) == {"not UTF-8": (1, ("wav.scp: text",))}


def test_a_command_in_wav_scp_is_told_and_never_run(tmp_path: Path) -> None:
    scp = f"u1 touch {tmp_path}/ran; cat a.wav |\nu2 b.wav\n"
    found = labels(tmp_path, {"a.wav": "", "b.wav": "", "wav.scp": scp, "text": "u1 ONE\nu2 TWO\n"})
    assert pairs(found) == {"a.wav": (None, None), "b.wav": (None, "TWO")}
    assert told(found) == {"command": (1, ("wav.scp: u1",))}
    assert not (tmp_path / "ran").exists()


def test_segments_of_kaldi_are_parts_and_the_speaker_is_given_where_it_is_one(tmp_path: Path) -> None:
    files = {
        "a.wav": "",
        "b.wav": "",
        "wav.scp": "ra a.wav\nrb b.wav\n",
        "segments": "u1 ra 0 1\nu2 ra 1 2.5\nu3 rb 0.5 1\nu4 rb 1 2\n",
        "text": "u1 ONE\nu2 TWO\nu3 THREE\n",
        "utt2spk": "u1 s1\nu2 s1\nu3 s1\nu4 s2\n",
    }
    found = labels(tmp_path, files)
    assert found.by_path == {
        "a.wav": Label("s1", None, ((0, 1, "ONE"), (1, 2.5, "TWO"))),
        "b.wav": Label(None, None, ((0.5, 1, "THREE"),)),
    }
    assert told(found) == {}


# Names -------------------------------------------------------------------------------------------------------------


def manifest(*names: str) -> str:
    """A manifest that gives each name itself as its text."""
    return "path,transcript\n" + "".join(f'"{name}","{name}"\n' for name in names)


@pytest.mark.parametrize(
    "name",
    [
        "clips/m0.flac",
        "./clips/m0.flac",
        "clips\\m0.flac",
        "clips/m0",
        "clips/m0.wav",
        "Clips/M0.FLAC",
        "m0.flac",
        "/old/place/clips/m0.flac",
        "D:\\old\\clips\\m0.flac",
        "s3://bucket/clips/m0.flac",
        "../clips/m0.flac",
        " clips/m0.flac ",
    ],
)
def test_a_name_that_can_mean_one_recording_finds_it(tmp_path: Path, name: str) -> None:
    """After JarodMica/ai-voice-cloning #48."""
    found = labels(tmp_path, {"clips/m0.flac": "", "clips/m1.flac": "", "manifest.csv": manifest(name)})
    assert found.by_path["clips/m0.flac"].transcript == name.strip()
    assert found.by_path["clips/m1.flac"] == Label()


def test_an_absolute_path_below_the_source_finds_its_recording(tmp_path: Path) -> None:
    names = [f"{tmp_path}/a/x.wav", f"{tmp_path}/b/x.wav"]
    found = labels(tmp_path, {"a/x.wav": "", "b/x.wav": "", "meta/manifest.csv": manifest(*names)})
    assert [label.transcript for label in found.by_path.values()] == names


@pytest.mark.parametrize("name", ["x", "x.wav", "X.mp3"])
def test_a_name_that_fits_two_recordings_goes_to_neither(tmp_path: Path, name: str) -> None:
    found = labels(tmp_path, {"a/x.wav": "", "b/x.wav": "", "t.csv": manifest(name)})
    assert set(found.by_path.values()) == {Label()}
    assert told(found) == {"ambiguous": (1, (f"t.csv: {name}",))}
    assert found.orphans == ()


def test_two_folders_of_audio_with_the_same_id_are_two_recordings(tmp_path: Path) -> None:
    found = labels(tmp_path, {"wav/x.wav": "", "wavs/x.wav": "", "metadata.csv": "x|hello\n"})
    assert set(found.by_path.values()) == {Label()}
    assert told(found) == {"ambiguous": (1, ("metadata.csv: x",))}


@pytest.mark.parametrize(
    "name", ["other/m0.flac", "../m0.flac", "/old/m0.flac/", "m", "m0.flac.bak", "", "/etc/passwd"]
)
def test_a_name_of_another_file_finds_nothing(tmp_path: Path, name: str) -> None:
    found = labels(tmp_path, {"clips/m0.flac": "", "t.csv": manifest(name)})
    assert found.by_path == {"clips/m0.flac": Label()}
    assert found.report.unmatched.number == 1


@pytest.mark.parametrize("name", ["a/x.wav", "a\\x.wav"])
def test_the_recording_that_stands_where_the_name_says_is_taken(tmp_path: Path, name: str) -> None:
    found = labels(tmp_path, {"a/x.wav": "", "b/a/x.wav": "", "t.csv": manifest(name)})
    assert pairs(found) == {"a/x.wav": (None, name), "b/a/x.wav": (None, None)}


def test_a_name_that_is_only_like_a_recordings_gives_way_to_its_own(tmp_path: Path) -> None:
    found = labels(tmp_path, {"x.wav": "", "t.csv": manifest("x.wav", "X.WAV")})
    assert pairs(found) == {"x.wav": (None, "x.wav")}
    assert (found.orphans, told(found)) == (("t.csv: X.WAV",), {})


def test_two_names_that_are_like_one_recording_go_to_neither(tmp_path: Path) -> None:
    found = labels(tmp_path, {"001.wav": "", "t.csv": manifest("train/001.wav", "test/001.wav")})
    assert found.by_path == {"001.wav": Label()}
    assert found.orphans == ("t.csv: train/001.wav", "t.csv: test/001.wav")


def test_a_table_never_labels_another_corpus_beside_it(tmp_path: Path) -> None:
    files = {
        "a/metadata.csv": "1|hello\n2|gone\n",
        "a/wavs/1.wav": "",
        "b/wavs/2.wav": "",
        "c/metadata.csv": "2|gone\n",
    }
    found = labels(tmp_path, files)
    assert pairs(found) == {"a/wavs/1.wav": (None, "hello"), "b/wavs/2.wav": (None, None)}
    assert found.orphans == ("a/metadata.csv: 2", "c/metadata.csv: 2")


@pytest.mark.parametrize("name", ["a.TXT", "a.Txt", "A.txt", "A.TXT"])
def test_text_beside_the_audio_in_any_case_of_letters(tmp_path: Path, name: str) -> None:
    assert pairs(labels(tmp_path, {"a.flac": "", name: "Hello."})) == {"a.flac": (None, "Hello.")}


def test_letters_tell_recordings_apart_where_both_are_there(tmp_path: Path) -> None:
    found = labels(tmp_path, {"a.wav": "", "A.wav": "", "a.txt": "small", "A.TXT": "capital"})
    assert pairs(found) == {"A.wav": (None, "capital"), "a.wav": (None, "small")}


def test_a_text_in_other_letters_than_two_recordings_is_of_neither(tmp_path: Path) -> None:
    found = labels(tmp_path, {"aa.wav": "", "AA.wav": "", "Aa.txt": "whose?"})
    assert set(found.by_path.values()) == {Label()}
    assert found.orphans == ("Aa.txt",)


def test_a_text_in_which_each_line_has_a_bar_is_no_list_unless_it_names_a_recording(tmp_path: Path) -> None:
    found = labels(tmp_path, {"a.wav": "", "poem.txt": "roses | red\nviolets | blue\n", "b.txt": "a|hello\nb|bye\n"})
    assert pairs(found) == {"a.wav": (None, "hello")}
    assert found.orphans == ("b.txt: b", "poem.txt")


@pytest.mark.parametrize(
    "table",
    {
        "lengths.tsv": "a\t4 s\n",
        "sizes.tsv": "a\t4000\n",
        "files.tsv": "a\told/a.wav\n",
        "utt2spk.txt": "a\tAnn\n",
        "ages.tsv": "path\tage\na.wav\tthirties\n",
    }.items(),
    ids=lambda item: item[0],
)
def test_a_table_of_something_else_is_no_transcript(tmp_path: Path, table: tuple[str, str]) -> None:
    assert pairs(labels(tmp_path, {"a.wav": "", table[0]: table[1]})) == {"a.wav": (None, None)}


def test_the_readme_has_the_layouts_in_the_order_of_the_registry() -> None:
    readme = (Path(__file__).parents[3] / "tinywave_core/audio/labels/README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([^|]+) \|", readme.partition("## Layouts")[2], re.MULTILINE)
    assert listed[1:] == [layout.name for layout in (*LAYOUTS, *BESIDE)]


def cut(
    name: str, *supervisions: dict[str, object], source: dict[str, str] | None = None, start: float = 0
) -> dict[str, object]:
    recording = {"id": name, "sources": [source or {"type": "shar", "channels": "0", "source": ""}]}
    return {"id": name, "start": start, "duration": 2.0, "supervisions": list(supervisions), "recording": recording}


def test_lhotse_cuts_name_recordings_by_path_or_in_shar_by_the_id_of_the_cut(tmp_path: Path):
    said = {"start": 0, "duration": 2.0, "speaker": "ada"}
    part = cut(
        "part",
        {**said, "start": 0.5, "duration": 1.5, "text": "later"},
        source={"type": "file", "source": "y.wav"},
        start=3,
    )
    cuts = [
        part,
        cut("one", {**said, "text": "of a file"}, source={"type": "file", "source": "wavs/x.wav"}),
        cut("two", {**said, "text": "of a shar"}),
        cut("many", {**said, "text": "first"}, {**said, "start": 1.0, "text": "second"}),
    ]
    packed = gzip.compress("\n".join(map(json.dumps, cuts)).encode(), mtime=0)
    (tmp_path / "cuts.000000.jsonl.gz").write_bytes(packed)
    files = {"wavs/x.wav": "", "recording.000000/two.flac": "", "many.flac": "", "y.wav": ""}
    found = labels(tmp_path, files)
    assert found.by_path["wavs/x.wav"] == Label("ada", "of a file")
    assert found.by_path["recording.000000/two.flac"] == Label("ada", "of a shar")
    assert found.by_path["many.flac"] == Label("ada", None, ((0, 2, "first"), (1, 3, "second")))
    assert found.by_path["y.wav"] == Label("ada", None, ((3.5, 5.0, "later"),))
    assert told(found) == {}


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b no gzip", gzip.compress(b"{}\n" * 1000, mtime=0)[:-20]], ids=["none", "cut off"]
)
def test_a_damaged_gzip_is_told(tmp_path: Path, data: bytes):
    (tmp_path / "cuts.jsonl.gz").write_bytes(data)
    assert told(labels(tmp_path, {"a.wav": ""})) == {"malformed": (1, ("cuts.jsonl.gz",))}


def test_of_many_recordings_of_one_name_each_is_found_and_what_fits_several_is_told():
    paths = [f"data/{speaker:03d}/{part}/audio.flac" for speaker in range(100) for part in "ab"]
    recordings = Recordings([*paths, "data/audio.flac"], "/speech")
    for path in paths[::37]:
        moved = "/elsewhere/" + path.replace("audio.flac", "AUDIO.wav")
        assert recordings.find(moved, "labels/").paths == (path,)
        assert recordings.find("Audio", path.removesuffix("audio.flac")).paths == (path,)
        assert recordings.beside(path.removesuffix("audio.flac") + "AUDIO") == (path,)
    assert recordings.find("a/audio.wav", "labels/").ambiguous
    assert recordings.find("Audio", "data/").ambiguous
    assert recordings.find("/elsewhere/c/audio.wav", "data/").paths == ("data/audio.flac",)
