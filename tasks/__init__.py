"""The Prefect side of a stage. Whatever process runs a flow or a task of ours imports this, and its log is safe to print."""

from tasks.terminal import make_logs_visible

make_logs_visible()
