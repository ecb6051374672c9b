"""Running a command: flags from a config class, one call, and the exit code."""

from __future__ import annotations

import atexit
import ctypes
import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO, TypeVar

from cyclopts import App, CycloptsError, Parameter

from unet_ray.cli.streams import LineFormatter, keep_streams, show
from unet_ray.errors import CredentialsError, UnetRayError, is_disk_full, one_line
from unet_ray.periodic import every
from unet_ray.storage.temporary import remove_dead

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Ray warns when ten small actors run, which is no mistake of the user. It reads this variable when
# it is imported, which happens later.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "PYTHON worker processes have been started")

_NEW_OBJECTS = 10_000
"""Number of new objects after which Python looks for unreachable ones. With its own 700, ten
searches of all that the imports have made take 0.8 of the 5.7 s of a COCO export of 80 shards on
S3, and with this number none."""
_STOPS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 20.0
"""Time that a stopped command has to finish (s); after that another signal ends it at once."""
_IGNORE_S = 0.002
"""Time between two calls that keep signals ignored while Ray ends (s)."""

Config = TypeVar("Config", bound="DataclassInstance")


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Shows what the library logs as plain lines on the current stdout."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(LineFormatter("%(message)s"))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Current stdout."""
        return sys.stdout


def run(
    config_type: type[Config], call: Callable[[Config, str], None], help_text: str | None
) -> NoReturn:
    """Parse the command line into a config, call a function with it and the Ray address, and exit.

    Exit codes: 0 done; 2 wrong flags or input; 3 too many failed images; 4 another run holds the
    output; 1 anything else.

    Args:
        config_type: Config class; each of its fields is a flag.
        call: Function that does the work and prints the outcome.
        help_text: Text of `--help`.
    """
    gc.set_threshold(_NEW_OBJECTS)
    _end_at_signals()
    keep_streams()
    logger = logging.getLogger("unet_ray")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(ConsoleHandler())
    remove_dead()
    configs: list[Config] = []

    def keep(config: Config) -> None:
        configs.append(config)

    keep.__annotations__["config"] = Annotated[config_type, Parameter(name="*")]
    if all(field.default is not MISSING for field in fields(config_type)):
        keep.__defaults__ = (config_type(),)  # nothing is required
    name = os.path.basename(sys.argv[0])
    app = App(name=name, help=help_text, version_flags=[], help_format="plaintext")
    app.default(keep)
    try:
        app(exit_on_error=False, print_error=False, result_action="return_value")
        if configs:
            call(configs[0], os.environ.get("RAY_ADDRESS", "local"))
    except CycloptsError as error:
        _end(2, f"{' '.join(str(error).split())} See --help.")
    except UnetRayError as error:
        # Ray wraps the error of a task in one of its own, whose text has a traceback
        said = CredentialsError.find(error) or getattr(error, "cause", None) or error
        _end(error.exit_code, str(said))
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or SIGTERM through Ray
        _end(1, "interrupted; what was written is kept; run again to continue", at_once=True)
    except Exception as error:
        if not is_disk_full(error) and not CredentialsError.find(error):
            traceback.print_exc()
        _end(1, one_line(error))
    _end(0)


def _end_at_signals() -> None:
    """End the command at Ctrl-C or SIGTERM; ignore further ones while it commits and cleans up."""
    stopped_at: list[float] = []

    def stop(number: int, _: object) -> None:
        """Raise at the first signal; end the process at another after `_PATIENCE_S`."""
        # during `ray.init` Ray's handler comes first, and its alarm would abort this process
        signal.alarm(0)
        if stopped_at:
            if time.monotonic() - stopped_at[0] > _PATIENCE_S:
                os._exit(1)
            return
        stopped_at.append(time.monotonic())
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(number)

    for number in _STOPS:
        signal.signal(number, stop)


def _end(code: int, message: str | None = None, at_once: bool = False) -> NoReturn:
    """Show an error message, end Ray, and exit.

    Args:
        code: Exit code.
        message: Message of the error; None: there is none.
        at_once: Whether to exit without running the destructors of C++ code.
    """
    _ignore_signals()  # the outcome is decided; the rest only ends processes
    if message:
        show(f"error: {message}", file=sys.stderr)
    sys.stdout.flush()
    ray = sys.modules.get("ray")
    if ray is not None:
        with _kept_ignored():
            ray.shutdown()
        _ignore_signals()
        remove_dead()  # files that its workers had no time to remove
    if at_once:
        # the signal may have interrupted Ray's C++ code anywhere, and its destructors might crash
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def _kept_ignored() -> Iterator[None]:
    """Ignore signals throughout the `with` block.

    While Ray ends, its C++ code restores the system's default for SIGTERM seconds before it
    returns; a second SIGTERM would then end this process with another exit code. Python can set
    handlers only in the main thread, which is busy, so another thread calls the C library.
    """
    set_handler = ctypes.CDLL(None).signal

    def ignore() -> None:
        for number in (*_STOPS, signal.SIGALRM):
            set_handler(int(number), ctypes.c_void_p(int(signal.SIG_IGN)))

    with every(_IGNORE_S, ignore, "ignoring signals"):
        yield


def _ignore_signals() -> None:
    signal.alarm(0)
    for number in (*_STOPS, signal.SIGALRM):  # Ray's handler sets an alarm
        signal.signal(number, signal.SIG_IGN)
