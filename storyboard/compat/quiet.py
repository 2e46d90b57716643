"""Libraries that advise on what does not apply here, kept from doing so in the reader's notebook."""

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, warnings or advice of diffusers and transformers; their errors still come through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers.utils.logging
        import transformers.utils.logging

        libraries = (diffusers.utils.logging, transformers.utils.logging)
        before = [library.get_verbosity() for library in libraries]
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        try:
            yield
        finally:
            for library, verbosity in zip(libraries, before):
                library.set_verbosity(verbosity)
                library.enable_progress_bar()
