"""A trained world model, played: in a browser, or in the terminal.

Nothing of a run is changed or locked here, and no prediction is made here either: every frame comes from the one step
of ``tinyworlds.rollout`` that the inference gate rolls out with.
"""
