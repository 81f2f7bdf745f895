"""Who trains and infers: the protocol, the engines that speak it, and how ``--engine`` finds one.

What is done with the answers is not here: engines never judge, and never write a run's state.
"""
