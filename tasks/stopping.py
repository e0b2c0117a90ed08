"""Whether this process was asked to stop: a thread cannot be interrupted, so its step looks here as it progresses."""

import threading

requested = threading.Event()
