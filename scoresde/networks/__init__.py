"""Networks: functions of an input and a label. They do not depend on a process."""

from scoresde._arguments import check_constructors
from scoresde.networks.block_classes import block_names
from scoresde.networks.embeddings import Embedding, FourierEmbedding, RadialEmbedding, SinusoidalEmbedding
from scoresde.networks.fourier_features import FourierFeatures
from scoresde.networks.improved_unet import ImprovedUNet
from scoresde.networks.mlp import MLP
from scoresde.networks.multifield import MultifieldUNet
from scoresde.networks.ncsnpp import DDPM, DDPMpp, NCSNpp
from scoresde.networks.ordinal_network import OrdinalNetwork
from scoresde.networks.refinenet import NCSN, NCSNv2
from scoresde.networks.resampling import FIR, Averaging, Resampling
from scoresde.networks.token_transformer import TokenTransformer
from scoresde.networks.unet import SmallUNet

__all__ = [
    "DDPM",
    "DDPMpp",
    "NCSN",
    "NCSNpp",
    "NCSNv2",
    "FIR",
    "MLP",
    "Averaging",
    "Embedding",
    "FourierEmbedding",
    "FourierFeatures",
    "ImprovedUNet",
    "MultifieldUNet",
    "OrdinalNetwork",
    "RadialEmbedding",
    "Resampling",
    "SinusoidalEmbedding",
    "SmallUNet",
    "TokenTransformer",
    "block_names",
]

check_constructors(globals())
