"""The cached Prefect task of export."""

from tasks.base import stage_task

export = stage_task("export", description="Write the student as a transformers directory.")
