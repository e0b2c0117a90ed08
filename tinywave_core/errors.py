"""The errors that a user can meet. Each says what was found, what was expected and what to do."""


class TinyWaveError(ValueError):
    """Base of all errors that are about the user's input, config or store; the CLI prints it without a traceback."""


class ConfigError(TinyWaveError):
    """A preset, field or flag does not exist or is out of range."""


class LeakError(ConfigError):
    """Held-out speech that the base has heard: nothing that is measured on it would be true."""


class SurroundingError(TinyWaveError):
    """The machine or the environment lacks something: a folder that can be written, a library, a server that answers."""


class SourceError(TinyWaveError):
    """The audio source is missing, empty, unreadable or holds nothing usable."""


class StoreError(TinyWaveError):
    """The store cannot be used as asked."""


class StoreBusyError(StoreError):
    """Another run holds the store."""


class StoreFullError(StoreError):
    """The disk under the store has no space left."""


class SchemaVersionError(StoreError):
    """The store or one of its files was written by a newer version of TinyWave."""


class DamagedArtifactError(StoreError):
    """A file of an artifact is missing or differs from the digest in its manifest, or a record from its own."""


class MissingInputError(TinyWaveError):
    """A stage was asked to run before the stages that it needs."""


class CheckpointError(MissingInputError):
    """A released checkpoint is missing, truncated, foreign, or does not fit what it is used with."""


class TokenError(TinyWaveError):
    """A token string, unit or id is malformed or out of range."""


class TrainingError(TinyWaveError):
    """Training cannot go on: a loss that is not finite, a teacher that does not fit, no data."""


class NoMemoryError(TinyWaveError):
    """A step needed more memory than its process may have."""


class WorkerDiedError(TinyWaveError):
    """A process that worked on shards was killed."""


class PausedError(TinyWaveError):
    """Training stopped where it was told to, with a checkpoint: the same command goes on from there."""


def is_lack_of_memory(error: Exception) -> bool:
    """Whether memory ran out: MemoryError of Python and Arrow; of torch a class of its own on a GPU, a RuntimeError on a CPU."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: " in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch)
