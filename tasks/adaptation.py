"""The cached Prefect task of adaptation."""

from tasks.base import stage_task

adaptation = stage_task("adaptation", description="Train or fine-tune the teacher on the training tokens.")
