"""
Time series: from rows with a time to forecasts.

    texts -> calendar (steps) -> panel (series in order) -> pairs (origin, row) -> derivation (features) -> Runtime

What is derived of the past and what is predicted from it are apart: behind the derivation stands an ordinary model
over ordinary columns, with a plan, golden rows and all. Numpy only; training and scoring run the same code.
"""
