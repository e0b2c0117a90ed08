"""The cached Prefect task of tokenization."""

from tasks.base import stage_task

tokenization = stage_task("tokenization", description="Turn utterances into units, pitch and style tokens.")
