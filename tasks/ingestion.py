"""The cached Prefect task of ingestion."""

from tasks.base import stage_task

ingestion = stage_task("ingestion", description="Decode, cut and deduplicate the audio files of one shard.")
