r"""Measurements y = A(x) of events x.

    SuperResolution(f)     means of blocks of f pixels along each side          x (C, *sides)    y (C, *sides / f)
    Grayscale(w)           a weighted sum of the channels                       x (C, *sides)    y (1, *sides)
    Blur(std)              the convolution with a kernel                        x (C, *sides)    y (C, *sides)
    BoxInpainting(p)       x outside of a box at a random place, 0 inside       x (C, *sides)    y (C, *sides)
    PixelInpainting(p)     x at some pixels, 0 at random others                 x (C, *sides)    y (C, *sides)
    JPEG(q)                the image after compression; not linear              x (C, *sides)    y (C, *sides)
    Mask(known)            x where it is known, 0 elsewhere                     any x            y like x
    FourierMask(known)     some entries of the Fourier transform of x           any x            y (*event, 2)
    MatrixOperator(A)      A x for flattened x                                  any x            y (m,)
    LinearFunction(f)      any linear function                                  any x            any y

All but JPEG are linear. They have an ``adjoint`` and a ``pseudo_inverse``. ``image`` maps y to an image of the size of x, which
is the condition of a network (`Degraded`). What is random in A depends only on the seed and the index of the event (``noise``).
"""

from scoresde._arguments import check_constructors
from scoresde.operators.base import LinearOperator, Operator
from scoresde.operators.blur import Blur
from scoresde.operators.compression import JPEG
from scoresde.operators.fourier import FourierMask
from scoresde.operators.functions import LinearFunction, MatrixOperator
from scoresde.operators.masks import BoxInpainting, Mask, PixelInpainting
from scoresde.operators.pixels import Grayscale, SuperResolution

__all__ = [
    "JPEG",
    "Blur",
    "BoxInpainting",
    "FourierMask",
    "Grayscale",
    "LinearFunction",
    "LinearOperator",
    "Mask",
    "MatrixOperator",
    "Operator",
    "PixelInpainting",
    "SuperResolution",
]

check_constructors(globals(), wide=("low", "high"))  # in units of the data
