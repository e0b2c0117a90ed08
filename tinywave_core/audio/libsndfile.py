"""The one place that makes the soundfile wheel's libsndfile known to other libraries of this process.

fairseq2n is linked against libsndfile.so.1 and looks for it on the system. The soundfile wheel carries a library with that
same name of its own: once it is loaded for everybody (RTLD_GLOBAL), the linker takes it, and no system package is needed.
Call `preload` before `import fairseq2`. Decoding does not need it: soundfile finds its own library.
"""

import ctypes
import importlib.util
from pathlib import Path

from tinywave_core.errors import SurroundingError


def preload() -> str:
    """Load the library for the whole process and return its path, or its name where it is the system's; further calls change nothing."""
    spec = importlib.util.find_spec("_soundfile_data")
    folders = spec.submodule_search_locations if spec else None
    libraries = sorted(str(path) for folder in folders or [] for path in Path(folder).glob("libsndfile*"))
    library = libraries[0] if libraries else "libsndfile.so.1"
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise SurroundingError(
            f"there is no libsndfile ({error}): install the soundfile wheel of requirements.lock again, or libsndfile with the "
            "system's package manager"
        ) from error
    return library
