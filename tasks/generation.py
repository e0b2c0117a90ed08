"""The cached Prefect task of generation."""

from tasks.base import stage_task

generation = stage_task("generation", description="Continue held-out prompts as tokens and audio.")
