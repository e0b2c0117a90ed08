"""The tokens in words."""

from tinywave_core.counts import count
from tinywave_core.stages.tokenization.summary import (
    BenchmarksSummary,
    NearDuplicatesSummary,
    SuiteHeardSummary,
    TokensSummary,
)


def drift_text(tokens: TokensSummary) -> str:
    """How far each shard's units are from those that the codebooks were fitted on, and what to make of it."""
    if tokens.tokenizer_kind == "release":
        silent = tokens.unvoiced_chunks
        voiceless = f" {silent} stretches without any voiced frame count as F0 = 0." if silent else ""
        return f"The tokens are SpiritLM's own: nothing was fitted on this speech, so there is no drift to watch.{voiceless}"
    drift = tokens.drift
    if not drift:
        return "No drift was measured."
    worst = max(drift.values())
    if worst < 0.05:
        meaning = "the codebooks fit this audio as well as what they were fitted on"
    elif worst < 0.15:
        meaning = "some of this audio sounds different (other speakers or another microphone, or a small shard)"
    else:
        meaning = "some of this audio is unlike what the codebooks saw: consider `refresh.codebooks` = growth or always"
    shards = f"{len(drift)} shard{'s' if len(drift) > 1 else ''}"
    return (
        f"The units of {shards} differ from those of the codebooks' fit by at most {worst:.3f} bits (Jensen-Shannon: 0 "
        f"is the same distribution, 1 is nothing in common); {meaning}."
    )


def leaks_text(tokens: TokensSummary) -> str:
    """How much of the speech the base has heard; empty where the teacher does not start from it."""
    if tokens.leaks is None:
        return ""
    train, held_out = tokens.leaks.train, tokens.leaks.held_out
    return f"{held_out.heard} of {held_out.utterances} held-out and {train.heard} of {count(train.utterances, 'training utterance')}"


def near_duplicates_text(found: NearDuplicatesSummary) -> str:
    """What is there more than once, and what that means for held-out figures."""
    heard = found.held_out_heard
    one = heard == 1
    leak = (
        f"{heard} of {found.held_out_utterances} held-out utterance{'' if found.held_out_utterances == 1 else 's'} "
        f"{'was' if one else 'were'} heard in training under {'another name' if one else 'other names'}, such as "
        f"{found.recordings[0]}: "
        + (
            "that training speech is left out"
            if found.left_out
            else f"figures of {'it' if one else 'these'} are too good"
        )
        if heard
        else "no held-out utterance was found in training speech"
    )
    kept = "one of each is kept, which leaves out" if found.left_out else "keeping one of each would leave out"
    return (
        f"{leak}; {count(found.copies, 'pair')} of copies, {count(found.excerpts, 'excerpt')}, {found.repeated:,} repeated utterances; {kept} "
        f"{count(found.would_go, 'training utterance')} ({found.would_go_seconds / 60:.1f} min); {found.too_short:,} of "
        f"{found.utterances:,} are too short to tell"
    )


def benchmarks_text(found: BenchmarksSummary) -> str:
    """What training speech has of each benchmark, and what that means for its figures."""
    minutes = f"{count(found.would_go, 'training utterance')} ({found.would_go_seconds / 60:.1f} min)"
    if not found.would_go:
        fate = ""
    elif found.left_out:
        fate = f"; {minutes} of these are left out"
    else:
        fate = f"; leaving them out would take {minutes} (--tokenization.benchmarks.use leave_out)"
    return "; ".join(_suite_text(suite, is_left_out=found.left_out) for suite in found.suites) + fate


def _suite_text(suite: SuiteHeardSummary, *, is_left_out: bool) -> str:
    heard = f"training speech has {suite.heard:,} of the {count(suite.recordings, 'recording')} of {suite.name}"
    if suite.heard:
        heard += f" ({suite.by_recording:,} by recording, {suite.by_sound:,} by sound), such as {suite.examples[0]}"
        heard += "" if is_left_out else ": its figures are too good"
    apart = {"too short to tell by sound": suite.too_short, "that could not be read": suite.unreadable}
    return ", ".join([heard, *(f"{count:,} {what}" for what, count in apart.items() if count)])


def alignment_text(tokens: TokensSummary) -> str:
    """How many utterances have words with times, and why the others have none; empty where no words were asked for."""
    aligned = tokens.aligned
    if not aligned:
        return ""
    refused = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in tokens.refused.items())
    patterns = ", ".join(f"{name} {count}" for name, count in tokens.patterns.items())
    documents = f" {tokens.documents:,} documents of plain text stand beside them." if tokens.documents else ""
    return (
        f"{aligned.aligned:,} of {count(aligned.utterances, 'utterance')} ({aligned.aligned_hours * 60:.1f} min) have words with "
        f"times, {aligned.words:,} words{f'; not aligned: {refused}' if refused else ''}. Sequences by their spans of "
        f"speech (S) and text (T): {patterns}; {count(tokens.switches, 'token')} stand at a switch.{documents}"
    )
