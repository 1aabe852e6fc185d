"""Sources of ticks whose truth is known: sensors, prices, the book's two sines; and all that goes wrong with them.

A `Signal` gives clean values in blocks of steps, a `FaultPlan` says what is done to them, `stream.Ticks` turns both
into records in the wire format, with the truth kept aside. All is decided by the seed, nothing by how it is read.
"""

from __future__ import annotations
