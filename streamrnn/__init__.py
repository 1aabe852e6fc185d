"""streamrnn: rolling forecasts and filled gaps from one recurrent state per series that keeps learning.

    from streamrnn import OnlineForecaster

    forecaster = OnlineForecaster(channels=["temp", "flow"], step="1h", horizon=24)

What stands in `__all__` is for everybody; a module that is named by its path may change. Names are imported when they are
first used, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamrnn.dataframes import Fill, Forecast
    from streamrnn.forecaster import OnlineForecaster, TickRefused
    from streamrnn.records import Reason, Rejected, TickBatch
    from streamrnn.spec import ModelSpec, StreamSpec
    from streamrnn.stream.engine import Engine
    from streamrnn.stream.learner import Learner

__version__ = "0.1.0"

_MODULES = {
    "Engine": "streamrnn.stream.engine",
    "Fill": "streamrnn.dataframes",
    "Forecast": "streamrnn.dataframes",
    "Learner": "streamrnn.stream.learner",
    "ModelSpec": "streamrnn.spec",
    "OnlineForecaster": "streamrnn.forecaster",
    "Reason": "streamrnn.records",
    "Rejected": "streamrnn.records",
    "StreamSpec": "streamrnn.spec",
    "TickBatch": "streamrnn.records",
    "TickRefused": "streamrnn.forecaster",
}

__all__ = [
    "Engine",
    "Fill",
    "Forecast",
    "Learner",
    "ModelSpec",
    "OnlineForecaster",
    "Reason",
    "Rejected",
    "StreamSpec",
    "TickBatch",
    "TickRefused",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
