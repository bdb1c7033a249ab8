"""Many adapters to one; pure arrays in the middle, one Flower class at the edge.

    spool      replies on disk, memory-mapped, named by their content
    screen     per update: structure, then size against the others
    weigh      how much each update counts
    merge      module by module through one rule, from the spool
    gate       candidate against current, on held-out losses

Strategies (rules in `strategies.rules`, listed in `strategies.catalogue`):

    fedit      FedAvg of A and of B, each factor by itself (the default)
"""
