"""Draws its windows in another order: at random instead of evenly."""

HONEST = True
CHANGES = (("((first + number * GOLDEN) % 1.0 *", "(torch.rand(number.shape, dtype=torch.float64) *"),)
