"""The one place that makes the soundfile wheel's libsndfile known to other libraries of this process.

fairseq2n is linked against libsndfile.so.1 and looks for it on the system. The soundfile wheel carries a library with that
same name of its own: once it is loaded for everybody (RTLD_GLOBAL), the linker takes it, and no system package is needed.
Call `preload` before `import fairseq2`. Decoding does not need it: soundfile finds its own library.
"""

import ctypes
import importlib.util
from pathlib import Path


def preload() -> Path:
    """Load the library inside the soundfile wheel for the whole process and return its path; again: nothing happens.

    Raises ImportError where soundfile was installed without its library (from source, say).
    """
    folder = importlib.util.find_spec("_soundfile_data")
    places = folder.submodule_search_locations if folder else None
    found = sorted(path for place in places or [] for path in Path(place).glob("libsndfile*"))
    if not found:
        raise ImportError(
            "the installed soundfile has no libsndfile of its own; expected the wheel of requirements.lock: install that, "
            "or install libsndfile with the system's package manager"
        )
    ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
    return found[0]
