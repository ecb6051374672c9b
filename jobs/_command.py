"""What all jobs share: flags from a config class, one verb, its outcome, the exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from cyclopts import App, CycloptsError, Parameter

from unet_ray.errors import UnetRayError, one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Ray's own ten small actors are no mistake of the user's; Ray reads this when it is imported, which jobs do later.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "PYTHON worker processes have been started")

Config = TypeVar("Config", bound="DataclassInstance")


def run(
    config_type: type[Config], verb: Callable[[Config, str], None], help_text: str | None
) -> None:
    """Parse the command line into a config, call the verb with it and the Ray address, and exit.

    Exit codes: 0 done; 2 wrong flags or input; 3 too many failed images; 4 the output is held; 1 anything else.
    """
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(number)
    )  # as Ray does, from the first moment on
    configs: list[Any] = []

    def keep(config: Any) -> None:
        configs.append(config)

    keep.__annotations__["config"] = Annotated[config_type, Parameter(name="*")]
    if all(field.default is not MISSING for field in fields(config_type)):
        keep.__defaults__ = (config_type(),)  # nothing is required
    app = App(help=help_text, version_flags=[], help_format="plaintext")
    app.default(keep)
    try:
        app(exit_on_error=False, print_error=False, result_action="return_value")
        if configs:
            verb(configs[0], os.environ.get("RAY_ADDRESS", "local"))
    except CycloptsError as error:
        _end(2, f"{' '.join(str(error).split())} See --help.")
    except UnetRayError as error:
        _end(
            error.exit_code, str(getattr(error, "cause", None) or error)
        )  # Ray adds a traceback around the cause
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C; SIGTERM, which Ray turns into the latter
        _end(1, "interrupted; what is written is kept, run again to go on")
    except Exception as error:
        traceback.print_exc()
        _end(1, one_line(error))
    _end(0)


def _end(code: int, message: str | None = None) -> NoReturn:
    if message:
        print(f"error: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)
