"""Many adapters to one; pure arrays in the middle, one Flower class at the edge.

    spool      replies on disk, memory-mapped, named by their content
    screen     per update: structure, then size against the others
    weigh      how much each update counts
    merge      module by module through one rule, from the spool
    gate       candidate against current, on held-out losses

Strategies (rules in `strategies.rules`, listed in `strategies.catalogue`):

    fedit      FedAvg of A and of B, each factor by itself (the default)
    flexlora   exact sum of products, cut back to the rank of the adapter
    fedrot     factors turned toward the last global ones, then fedit
    lorafair   fedit, B corrected toward the exact sum
    rbla       rows averaged over the clients that own them
    zeropad    fedit over zero-padded factors
    ffa        A frozen, FedAvg of B
    rolora     FedAvg of B and of A in turn
    fedsvd     FedAvg of B, then orthonormal rows of A
    fedsa      FedAvg of A; each B stays at home
    flora      stacks all products into the base
    fedex      fedit, and the residual into the base
"""
