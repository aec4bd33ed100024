"""Networks: (input, label) -> output. They know no process."""

from scoresde.networks.embeddings import RadialEmbedding
from scoresde.networks.merged import MergedUNet
from scoresde.networks.mlp import MLP
from scoresde.networks.unet import SmallUNet

__all__ = ["MLP", "MergedUNet", "RadialEmbedding", "SmallUNet"]
