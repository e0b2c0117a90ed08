"""Which licence a student gets from which teacher's directory."""

import json
from pathlib import Path

import pytest

from tinywave_core.exporters.licence import (
    FAIR_LINK,
    FAIR_NAME,
    Licence,
    front_matter,
    licence_file,
    licence_of,
    licence_of_base,
)
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, SPIRITLM_BASE, SPIRITLM_EXPRESSIVE, Vocabulary

OTHER = Vocabulary(text=32_000, hubert=100)
FAIR_TEXT = "FAIR Noncommercial Research License\nLast Updated: …"


def directory(folder: Path, readme: str = "", licence: str = "", **config: str) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    for name, text in (("README.md", readme), ("LICENSE", licence)):
        if text:
            (folder / name).write_text(text)
    return folder


def of(folder: Path, vocabulary: Vocabulary = OTHER, *, released_tokens: bool = False) -> Licence:
    return licence_of(str(folder), folder, licence_file([folder]), vocabulary, released_tokens=released_tokens)


def is_fair(licence: Licence) -> bool:
    return (licence.id, licence.name) == ("other", FAIR_NAME)


def test_a_student_of_a_fresh_teacher_claims_no_licence():
    licence = licence_of("fresh", None, None, Vocabulary(text=BYTE_TEXT, hubert=100), released_tokens=False)
    assert licence.front_matter == {}
    assert "the recordings' licences bind" in licence.why


def test_a_student_of_the_base_is_under_cc_by_and_names_the_makers_of_its_recordings():
    licence = licence_of_base(["One (c) 2014", "Two"])
    assert licence.front_matter == {
        "license": "cc-by-4.0",
        "license_link": "https://creativecommons.org/licenses/by/4.0/",
    }
    assert licence.why.endswith("One (c) 2014; Two.")


def test_a_student_of_spiritlm_carries_its_licence(tmp_path: Path):
    folder = directory(tmp_path)
    licence = licence_of("spiritlm", folder, None, SPIRITLM_BASE, released_tokens=True)
    assert licence.front_matter == {"license": "other", "license_name": FAIR_NAME, "license_link": FAIR_LINK}


def test_a_licence_that_came_along_is_what_the_link_leads_to(tmp_path: Path):
    folder = directory(tmp_path, licence=FAIR_TEXT)
    licence = licence_of("spiritlm", folder, licence_file([folder]), SPIRITLM_BASE, released_tokens=True)
    assert licence.link == "LICENSE"


@pytest.mark.parametrize(
    ("readme", "text"),
    [
        ("", FAIR_TEXT),
        (f"---\nlicense: {FAIR_NAME}\n---\n", ""),
        (f"---\nlicense: other\nlicense_name: {FAIR_NAME}\nlicense_link: LICENSE\n---\n", ""),
        ("---\nlicense: other\nlicense_name: FAIR Noncommercial Research License\n---\n", ""),
    ],
)
def test_a_directory_that_says_so_is_spiritlms(tmp_path: Path, readme: str, text: str):
    assert is_fair(of(directory(tmp_path, readme, text)))


@pytest.mark.parametrize("vocabulary", [SPIRITLM_BASE, SPIRITLM_EXPRESSIVE])
def test_spiritlms_vocabulary_makes_a_derivative_whatever_the_readme_claims(tmp_path: Path, vocabulary: Vocabulary):
    licence = of(directory(tmp_path, "---\nlicense: mit\n---\n"), vocabulary)
    assert is_fair(licence)
    assert "taken for a derivative of SpiritLM (its README says mit)" in licence.why


def test_tokens_of_the_release_are_outputs_that_its_licence_binds(tmp_path: Path):
    folder = directory(tmp_path, "---\nlicense: apache-2.0\n---\n", licence="Apache License")
    licence = of(folder, released_tokens=True)
    assert is_fair(licence) and licence.link == FAIR_LINK  # not the Apache text that lies there
    assert is_fair(licence_of("fresh", None, None, None, released_tokens=True))


def test_another_base_models_licence_is_handed_on_word_for_word(tmp_path: Path):
    readme = "---\nlicense: other\nlicense_name: my-terms\nlicense_link: https://example.org/terms\nlanguage: [en]\n---\n# X\n"
    licence = of(directory(tmp_path, readme, _name_or_path="someone/small-llama"))
    assert licence.front_matter == {
        "license": "other",
        "license_name": "my-terms",
        "license_link": "https://example.org/terms",
        "base_model": "someone/small-llama",
    }


@pytest.mark.parametrize(
    "readme", ["", "# No front matter\n", "---\nlicense: [unclosed\n---\n", "---\n- a list\n---\n"]
)
def test_a_directory_without_a_licence_is_said_to_have_none(tmp_path: Path, readme: str):
    licence = of(directory(tmp_path, readme, _name_or_path="/home/someone/llama"))
    assert licence.front_matter == {}
    assert "states no licence" in licence.why


def test_front_matter_is_data_and_never_an_object(tmp_path: Path):
    (tmp_path / "README.md").write_text("---\nlicense: !!python/object/apply:os.system ['true']\n---\n")
    assert front_matter(tmp_path / "README.md") == {}
