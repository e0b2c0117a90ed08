"""A GGUF file in llama.cpp, inside this process (package `xllamacpp`): quantised weights, as fast as the memory is read.

Prompts go in as ids and ids come out: llama.cpp's own tokenizer is not asked. Ids that the modality excludes get a bias of minus
infinity; of a student without text those are a handful. Sampling is llama.cpp's: temperature, then the nucleus, as in transformers,
with random numbers of its own.

With a drafter llama.cpp drafts too (`runtimes/speculative.py` has the method): its drafter proposes among its ten likeliest tokens.

llama.cpp keeps a token back until the text so far is whole characters, and then reports the last one only, so tokens that are part
of a character would be lost. Here they are not sampled: text is ASCII and whole pieces.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tinywave_core.checkpoints.bounds import inside, read_json
from tinywave_core.config.export import Quantization
from tinywave_core.errors import CheckpointError, ConfigError, MissingInputError
from tinywave_core.runtimes.base import (
    DRAFTED,
    DRAFTER_FILE,
    Drafting,
    Sampling,
    check_drafter,
    check_prompt,
    check_request,
)
from tinywave_core.runtimes.gguf_file import GgufFile
from tinywave_core.threads import cores
from tinywave_core.tokenizers.allowed import allowed_ids
from tinywave_core.tokenizers.directory import read_directory
from tinywave_core.tokenizers.prompts import OutputModality
from tinywave_core.tokenizers.vocabulary import BOS_ID, EOS_ID, Vocabulary

LONGEST_CONTEXT = 1024
"""Tokens of context without another wish: 50 s of units; keys and values of the 2B student take 160 KB a token."""
_IDS = {"verbose": True}  # answers then have the ids; log-probabilities have not those that were drafted
_RANDOM_SEED = 2**32 - 1  # with this one llama.cpp takes another seed each time


class LlamaCppRuntime:
    """See `runtimes.base.Runtime`. One continuation at a time; a second one waits for the first."""

    name = "llama.cpp"

    def __init__(
        self,
        path: Path,
        vocabulary: Vocabulary,
        threads: int = 0,
        context: int | None = None,
        drafter: Path | None = None,
    ) -> None:
        xllamacpp = _import()
        file = GgufFile.read(path)
        files = [file, GgufFile.read(drafter)] if drafter else [file]
        for each in files:
            each.require(vocabulary)
        self.vocabulary = vocabulary
        self.context = min([each.context for each in files] + [context or LONGEST_CONTEXT])
        self.drafting = Drafting() if drafter else None
        self._partial = [i for i in file.partial_characters if i < vocabulary.text]
        self._is_prefilled = False
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = self.context
        params.n_batch = params.n_ubatch = min(256, self.context)
        params.n_parallel = 1
        params.n_gpu_layers = 0
        if file.is_rearranged:
            params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or cores()
        if drafter:
            _draft(xllamacpp, params, drafter)
        params.cache_ram_mib = 0  # no second copy of what was read
        params.warmup = False
        params.verbosity = 0
        params.api_keys = [os.urandom(16).hex()]  # the server inside also listens on 127.0.0.1: for nobody
        try:
            self._server: Any = xllamacpp.Server(params)
        except Exception as error:
            raise CheckpointError(f"llama.cpp cannot load {path} ({error}): export the model again") from error
        # A server that is given up before its loop has begun waits for ever (measured): one answer says that it has.
        self.prefill([BOS_ID])
        self._is_prefilled = False

    @classmethod
    def open(
        cls,
        folder: Path,
        quantization: Quantization | None,
        threads: int = 0,
        context: int | None = None,
        drafter: Path | None = None,
    ) -> "LlamaCppRuntime":
        """One of the GGUF files that speech.json of an export lists, and the first of the drafter's."""
        vocabulary = read_directory(folder)
        if drafter:
            check_drafter(vocabulary, read_directory(drafter), drafter)
        model = find_gguf(folder, quantization)
        return cls(model, vocabulary, threads, context, find_gguf(drafter, None) if drafter else None)

    def prefill(self, ids: Sequence[int]) -> None:
        """See `Runtime`."""
        check_prompt(self.vocabulary, self.context, ids)
        self._ask({"prompt": [int(i) for i in ids], "n_predict": 0, "cache_prompt": True}, lambda _: False)
        self._is_prefilled = True

    def stream(self, prompt: Sequence[int], sampling: Sampling, output: OutputModality) -> Iterator[int]:
        """See `Runtime`. Without a `prefill` before it, it starts from nothing: the same digits, whatever went before."""
        check_request(self.vocabulary, self.context, prompt, sampling, output)
        return self._stream([int(i) for i in prompt], sampling, output)

    def _stream(self, prompt: list[int], sampling: Sampling, output: OutputModality) -> Iterator[int]:
        allowed = set(allowed_ids(self.vocabulary, output)) - set(self._partial)
        banned = [i for i in range(self.vocabulary.tokens) if i not in allowed]
        first = min(sampling.min_new_tokens, sampling.max_new_tokens)
        request = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": len(allowed),  # drops nothing but what is banned: the steps after it have less to sort
            "min_p": 0.0,
            "samplers": ["top_k", "temperature", "top_p"],
            "seed": sampling.seed % _RANDOM_SEED,
            "cache_prompt": self._is_prefilled,
        }
        self._is_prefilled = False
        new: list[int] = []
        if first:
            for token in self._tokens(request | _part(prompt, first, [*banned, EOS_ID])):
                new.append(token)
                yield token
        if len(new) == first < sampling.max_new_tokens:
            request |= {"cache_prompt": True if new else request["cache_prompt"]}
            yield from self._tokens(request | _part([*prompt, *new], sampling.max_new_tokens - first, banned))

    def close(self) -> None:
        """See `Runtime`."""
        self._server = None

    def logprobs(self, prompt: Sequence[int] | str, drawn: int = EOS_ID) -> list[float]:
        """Log-probability of every id [V] after `prompt`, by the model alone; for measuring, not for sampling.

        A text is read as llama.cpp's own tokenizer has it, each time from nothing: the same digits, whatever went before.
        """
        rows, text = self.vocabulary.tokens, isinstance(prompt, str)
        # The token that is drawn must be one that is reported: </s> always is.
        others = [i for i in range(rows) if i != drawn]
        request = _part([] if text else [int(i) for i in prompt], 1, others)
        request |= {"logprobs": rows, "post_sampling_probs": False, **({"prompt": prompt} if text else {})}
        entries: list[Any] = []

        def hear(answer: dict[str, Any]) -> bool:
            entries.extend(_entries(answer))
            return False

        self._ask(request | {"cache_prompt": not text}, hear)
        (entry,) = entries
        logprobs = dict.fromkeys(range(rows), -float("inf")) | {e["id"]: e["logprob"] for e in entry["top_logprobs"]}
        return [logprobs[i] for i in range(rows)]

    def _tokens(self, request: dict[str, Any]) -> Iterator[int]:
        """Ids as they are made, in a thread that ends with them; closing stops it at the next token."""
        tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        closed = threading.Event()

        def hear(answer: dict[str, Any]) -> bool:
            for token in answer["__verbose"]["tokens"]:
                tokens.put(int(token))
            self._count(answer.get("timings") or {})
            return closed.is_set()

        def work() -> None:
            try:
                self._ask(_IDS | request, hear)
                tokens.put(None)
            except BaseException as error:  # noqa: BLE001  (goes to whoever asked)
                tokens.put(error)

        worker = threading.Thread(target=work, name="llama.cpp", daemon=True)
        worker.start()
        try:
            while (item := tokens.get()) is not None and item != EOS_ID:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()
            worker.join()

    def _count(self, timings: dict[str, Any]) -> None:
        """Add what the last part of an answer says of drafted tokens."""
        if self.drafting:
            self.drafting.drafted += timings.get("draft_n", 0)
            self.drafting.accepted += timings.get("draft_n_accepted", 0)

    def _ask(self, request: dict[str, Any], hear: Callable[[dict[str, Any]], bool]) -> None:
        """Send one request; its answers go to `hear`, which says whether to stop."""
        if self._server is None:
            raise ConfigError("the runtime has been closed")
        faults: list[Any] = []

        def listen(answer: dict[str, Any]) -> bool:
            if "error" in answer:
                faults.append(answer["error"])
                return True
            return hear(answer)

        self._server.handle_completions(request | {"stream": True}, listen)
        if faults:
            raise ConfigError(f"llama.cpp refuses the request: {faults[0].get('message', faults[0])}")


def _draft(xllamacpp: Any, params: Any, drafter: Path) -> None:
    """Let llama.cpp draft with a file, and keep what it drafts by the rule that leaves the model's distribution as it is."""
    params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    draft = params.speculative.draft
    draft.mparams.path = str(drafter)
    draft.n_max = DRAFTED
    # Otherwise only the drafter's likeliest token is proposed, and kept half as often.
    draft.probabilistic = True
    draft.n_gpu_layers = 0
    draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = params.cpuparams.n_threads


def _entries(answer: dict[str, Any]) -> list[Any]:
    """One entry per token in a part of an answer."""
    return (answer["choices"][0]["logprobs"] or {"content": []})["content"]


def _part(prompt: list[int], tokens: int, banned: list[int]) -> dict[str, Any]:
    return {"prompt": prompt, "n_predict": tokens, "logit_bias": [[i, False] for i in banned]}


def find_gguf(folder: Path, quantization: Quantization | None) -> Path:
    """The GGUF file of an export, the first where none is chosen; CheckpointError says which there are."""
    about = next((path for name in ("speech.json", DRAFTER_FILE) if (path := folder / name).is_file()), folder)
    listed = read_json(about).get("gguf", []) if about.is_file() else []
    if not isinstance(listed, list) or not all(isinstance(each, dict) and "quantization" in each for each in listed):
        raise CheckpointError(
            f"{about} has a list gguf that is none: expected what the export wrote, copy the directory again"
        )
    wanted = [each for each in listed if quantization in (None, each["quantization"])]
    if not wanted:
        there = ", ".join(str(each["quantization"]) for each in listed) or "none"
        raise CheckpointError(
            f"{folder} has no GGUF file{f' of {quantization}' if quantization else ''} (there: {there}), which the runtime llama.cpp "
            f"needs: export with --export.gguf {quantization or 'q8_0,q4_0'}"
        )
    chosen = wanted[0]
    path = inside(folder, chosen.get("file"), about)
    size = path.stat().st_size if path.is_file() else 0
    if size != chosen.get("bytes"):
        raise CheckpointError(
            f"{path} has {size:,} bytes, {about.name} says {chosen.get('bytes')!r:.40}: it is truncated or missing; copy it again"
        )
    return path


def _import() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingInputError(
            "the runtime llama.cpp needs the package xllamacpp: pip install 'tinywave[llama-cpp]' (or take the runtime transformers)"
        ) from error
    return xllamacpp
