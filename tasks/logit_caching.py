"""The cached Prefect task of logit_caching."""

from tasks.base import stage_task

logit_caching = stage_task("logit_caching", description="Capture the teacher's sparse predictions on one shard.")
