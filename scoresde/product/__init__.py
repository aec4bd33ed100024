"""Product processes: generative models of rows with real and categorical coordinates, such as the rows of a table.

An SDE perturbs the real coordinates, a jump process each categorical one, and one network reverses both::

    process = ProductProcess(VPSDE(), [None, None, Absorbing(3)])          # two real columns, one with three categories
    model = ProductModel(MLP((process.input_width,)), process)
    loss = ProductObjective(process)(model, x0)                            # x0 (B, 3), the category as 0.0, 1.0 or 2.0
    result = ProductSampler(steps=100)(process, model, (16, 3))
    bound = product_bound(process, model, x0)                              # bound.log_prob

A categorical coordinate holds the number of its category.
"""

from scoresde._arguments import check_constructors
from scoresde.product.bounds import ProductBound, product_bound
from scoresde.product.checks import check
from scoresde.product.likelihood import ProductLikelihood
from scoresde.product.mixture import LabeledMixture, LabeledMixtureModel
from scoresde.product.models import ProductModel
from scoresde.product.objectives import ProductDraw, ProductObjective
from scoresde.product.process import ProductProcess
from scoresde.product.sampler import ProductSampler

__all__ = [
    "LabeledMixture",
    "LabeledMixtureModel",
    "ProductBound",
    "ProductDraw",
    "ProductLikelihood",
    "ProductModel",
    "ProductObjective",
    "ProductProcess",
    "ProductSampler",
    "check",
    "product_bound",
]

check_constructors(globals(), records=(ProductBound, ProductDraw))
