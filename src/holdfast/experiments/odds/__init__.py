"""``holdfast theory odds``: the population of Tsipras et al. (ICLR 2019), closed forms beside samples and trained nets."""
