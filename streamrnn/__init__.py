"""streamrnn: rolling forecasts and filled gaps from one recurrent state per series that keeps learning."""

from __future__ import annotations

__version__ = "0.1.0"
