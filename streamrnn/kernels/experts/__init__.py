"""The experts: what a series is forecast by. What they leave is what the network is for (`kernels.remainder`).

An expert is one file. It says

- what it keeps: columns of the series' row (`columns`, `rowviews`, `stream.forecasting.forecast_fields`);
- what it says: the move from the present value that it foresees for each step of the horizon (`forecast._experts_say`), in the
  channel's own numbers, from what is in the history alone;
- how it learns: from labels that have all come, so a horizon later (`forecast._learn`), or not at all;
- when it is believed first: `Plan.wakes` frames after the channel began; until then it has a loss that nobody envies.

| expert | file | learns | bytes a channel, horizon 24, 4 channels | needs a season |
|---|---|---|---|---|
| persistence | | | 0 | |
| season-ago | `season_ago` | | the ring of values, as long as a season | a whole number of steps |
| profile | `profile`, `history` | a mean per phase | 6 a bin | yes |
| moves | `moves`, `ridge` | ridge on moves | 2,280 | |
| deviations | `deviations`, `ridge` | ridge on deviations | 3,640 | yes |
| stack | `stack` | ridge on the others | 900 | moves or deviations |

What they say is bounded, weighed by what has matured and guarded in `mixing`. All numbers are of one channel: nothing is
shared between series, and between channels only what `moves`, `deviations` and the fills look at.
"""
